"""Names are looked up once, and the row that comes of them says what a key and a result need."""

from __future__ import annotations

import pytest

from medgraft import plugins
from medgraft.benchmarks.cell.resolved import Resolver
from medgraft.benchmarks.sweep.plan import make_plan
from medgraft.benchmarks.sweep.request import read_sweep
from medgraft.errors import ConfigError, UnknownNameError


def test_a_row_holds_what_its_names_stand_for(toy):
    row = Resolver().row("toy", {"split_seed": 3}, "toy:tiny", "toy_gain+lora", {"lora": {"rank": 2}})
    assert row.task.config.model_dump() == {"split_seed": 3} and row.objective.one_class_each
    assert row.modalities == ("image",) and (row.encoder.plugin.name, row.encoder.model) == ("toy", "tiny")
    assert list(row.adapters) == ["toy_gain", "lora"] and row.options()["lora"]["rank"] == 2
    assert row.adapters["lora"].facts().title.startswith("LoRA")
    origins = [(each.kind, each.name, each.builtin) for each in row.plugins()]
    assert origins == [
        ("adapter", "toy_gain", False), ("adapter", "lora", True), ("encoder", "toy", False), ("task", "toy", False),
    ]  # fmt: skip


def test_options_of_one_adapter_are_its_own():
    row = Resolver().row("chexpert", {}, "phantom_chest", "lora", {"rank": 2})
    assert row.options()["rank"] == 2


def test_adapters_are_new_for_each_row_and_tasks_are_shared():
    resolver = Resolver()
    first, second = (resolver.row("chexpert", {}, "phantom_chest", "lora", {}) for _ in range(2))
    assert first.adapters["lora"].adapter is not second.adapters["lora"].adapter
    assert first.task is second.task and first.encoder is second.encoder


@pytest.mark.parametrize(
    ("names", "error", "says"),
    [
        (("chexprt", {}, "phantom_chest", "lora", {}), UnknownNameError, "did you mean chexpert"),
        (("chexpert", {}, "phantom_chst", "lora", {}), UnknownNameError, "did you mean phantom_chest"),
        (("chexpert", {}, "phantom_chest", "lora+lorra", {}), UnknownNameError, "did you mean lora"),
        (("chexpert", {"label": 1}, "phantom_chest", "lora", {}), ConfigError, "label: no such option"),
        (("chexpert", {}, "phantom_chest", "lora", {"rnak": 1}), ConfigError, "rnak: no such option"),
    ],
)
def test_a_mistake_is_named(names, error, says):
    with pytest.raises(error, match=says):
        Resolver().row(*names)


def test_planning_looks_each_name_up_once(toy, monkeypatch):
    from rich.console import Console

    from medgraft import registry
    from medgraft.benchmarks.cell import resolved

    seen: list[str] = []

    def noting(name: str) -> registry.AdapterName:
        seen.append(name)
        return registry.resolve_adapter(name)

    monkeypatch.setattr(resolved, "resolve_adapter", noting)
    overrides = {
        "adapters": ["toy_gain", "lora"], "tasks": ["toy"], "encoders": ["toy:tiny"], "data": {"toy": str(toy.cohort)},
    }  # fmt: skip
    plan = make_plan(read_sweep(None, overrides), Console(quiet=True))
    assert len(plan.cells) >= 3 and sorted(seen) == sorted({*seen})
    assert {"toy_gain", "lora"} <= {*seen} and "toy_gain" in plugins.discover("adapter")
