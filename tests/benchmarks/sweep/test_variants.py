"""Presets that bring rows, options and precision of their own: the ablation of ACE-LoRA and the published recipes."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.cell.worker import Job, run_cell
from medgraft.benchmarks.sweep import run as sweeping_module
from medgraft.benchmarks.sweep.checks import check_names
from medgraft.benchmarks.sweep.plan import Plan, cells_of, make_plan
from medgraft.benchmarks.sweep.recipe import adapter_options, training
from medgraft.benchmarks.sweep.request import Sweep, read_sweep
from medgraft.benchmarks.sweep.rows import resolve_row, rows
from medgraft.benchmarks.sweep.run import show_plan
from medgraft.errors import ConfigError
from medgraft.registry import PresetEntry, TrainDefaults, catalogue

ABLATION = "ace_lora_ablation"
CHEST = "phantom_chest@random"
VARIANTS = catalogue().presets[ABLATION].variants


def ablation(**values: Any) -> Sweep:
    return Sweep.model_validate({"preset": ABLATION, "encoders": [CHEST], "seeds": [0], "baselines": False, **values})


@pytest.fixture(scope="module")
def plan():
    return make_plan(ablation(), Console(quiet=True), make=False)


# --- the ablation -----------------------------------------------------------------------------------------------------


def test_the_ablation_needs_no_adapter_and_has_one_cell_per_variant(plan):
    assert len(plan.cells) == len(VARIANTS) and not plan.skipped
    assert len({cell.key() for cell in plan.cells}) == len(VARIANTS)
    assert {(cell.task, cell.adapter) for cell in plan.cells} == {("chexpert_5x200", "ace_lora")}


def test_the_ablation_has_every_axis_of_the_paper():
    axes = {(name, value) for variant in VARIANTS for name, value in variant.options.items()}
    assert axes >= {("hypergraph", each) for each in ("none", "visual", "text")}
    assert axes >= {("graph", each) for each in ("gat", "gatv2", "hypergraph_conv")}
    assert axes >= {("depth", each) for each in ("bottom", "mid", "up", "half_bottom", "half_up", "top3")}
    assert {"top_k", "rank"} <= {name for name, _ in axes}
    assert [variant.options for variant in VARIANTS].count({}) == 1  # the published method itself


def test_each_variant_changes_one_thing(plan):
    cells = {plan.labels[cell.row()]: cell.adapter_options for cell in plan.cells}
    published = cells["as published"]
    for variant in VARIANTS:
        changed = {name for name, value in cells[variant.label].items() if value != published[name]}
        assert changed == set(variant.options), variant.label


@functools.cache
def preset_plan(preset: str) -> Plan:
    return make_plan(Sweep(preset=preset, baselines=False), Console(quiet=True), make=False)


@pytest.mark.parametrize(
    ("title", "options", "encoder"),
    [
        ("no text", {"text": False}, ""),
        ("token level only", {"levels": "token"}, ""),
        ("task level only", {"levels": "task"}, ""),
        ("soft routing", {"task_router": "soft"}, ""),
        ("one stage", {"stages": "one"}, ""),
        ("no block across slices", {}, "depth_2d=4"),
        ("all blocks across slices", {}, "depth_2d=0"),
        ("no rotary positions", {}, "rotary=false"),
    ],
)
def test_every_ablation_of_prompted_experts_has_a_cell_that_changes_it_alone(title, options, encoder):
    found = preset_plan("volumes")
    assert not found.skipped
    experts = [cell for cell in found.cells if cell.adapter == "tgh_moe" and cell.task == "brain_prompts"]
    (whole,) = (cell for cell in experts if found.labels[cell.row()] == "inflate3d + tgh_moe")
    wanted = {**whole.adapter_options, **options}
    mine = [cell for cell in experts if cell.adapter_options == wanted and encoder in cell.encoder]
    assert [cell for cell in mine if (cell.encoder != whole.encoder) == bool(encoder)], title


@pytest.mark.parametrize(
    ("preset", "asked", "count"), [("volumes", "brain_prompts", 4), ("chest_by_prompt", "chest_prompts", 5)]
)
def test_a_model_that_is_asked_stands_beside_one_without_text_and_one_per_question(preset, asked, count):
    found = preset_plan(preset)
    tasks = [cell.task for cell in found.cells if cell.adapter == "tgh_moe"]
    assert not found.skipped and {asked, f"{asked}:without_text"} <= set(tasks)
    assert len({task for task in tasks if task not in (asked, f"{asked}:without_text")}) == count


def test_the_dry_run_names_the_variants(plan, capsys, monkeypatch):
    monkeypatch.setattr(sweeping_module, "make_plan", lambda *arguments, **options: plan)
    monkeypatch.setattr(sweeping_module, "Console", lambda: Console(width=200))
    show_plan(ablation())
    text = capsys.readouterr().out
    assert all(f"ace_lora: {variant.label} " in text for variant in VARIANTS)
    assert f"{len(VARIANTS)} cells" in text


def test_adapters_that_are_named_run_beside_the_variants():
    found = rows(ablation(adapters=["lora"]))
    assert [row.label for row in found if row.adapter == "ace_lora"] == [variant.label for variant in VARIANTS]
    assert (found[0].adapter, found[0].label) == ("lora", "")


def test_a_variants_own_options_win_and_the_requests_hold_for_the_rest():
    asked = ablation(options={"ace_lora": {"rank": 7, "dropout": 0.2}})
    assert adapter_options(asked, "ace_lora", "rank 8") == {"rank": 8, "dropout": 0.2}
    assert adapter_options(asked, "ace_lora", "as published") == {"rank": 7, "dropout": 0.2}


def test_tasks_that_are_named_take_the_place_of_the_presets():
    assert {row.task for row in rows(ablation(tasks=["chexpert"]))} == {"chexpert"}


def test_a_preset_without_variants_still_needs_an_adapter():
    with pytest.raises(ConfigError, match="no adapter was named"):
        read_sweep(None, {"preset": "quick"})
    assert read_sweep(None, {"preset": ABLATION}).adapters == ()


def test_two_variants_of_one_label_are_refused():
    twice = {"adapter": "lora", "label": "a"}
    with pytest.raises(ValueError, match="two variants have the label 'a'"):
        PresetEntry.model_validate({"title": "t", "seeds": [0], "cohorts": {}, "variants": [twice, twice]})


def with_preset(monkeypatch: pytest.MonkeyPatch, **fields: Any) -> None:
    entry = catalogue().presets["quick"].model_copy(update=fields)
    monkeypatch.setitem(catalogue().presets, "quick", entry)


def test_a_mistake_in_a_variant_is_named_before_anything_is_made(monkeypatch):
    broken = [type(VARIANTS[0])(adapter="lora", label="x", options={"rnak": 1})]
    with_preset(monkeypatch, variants=tuple(broken))
    with pytest.raises(ConfigError, match="rnak: no such option"):
        check_names(Sweep(preset="quick"))


@pytest.mark.slow
@pytest.mark.parametrize("label", [variant.label for variant in VARIANTS])
def test_every_variant_trains_and_is_scored(label, plan, chest_cohort):
    (cell,) = (cell for cell in plan.cells if plan.labels[cell.row()] == label)
    short = cell.model_copy(update={"limit": 12, "train": cell.train.model_copy(update={"epochs": 1})})
    result, _ = run_cell(Job(spec=short, root=chest_cohort), lambda doing, share: None)
    assert result.status == "success" and result.training["steps"] > 0 and result.metrics["f1_macro"].value is not None


@pytest.mark.slow
def test_the_ablation_runs_to_the_leaderboard(chest_cohort, tmp_path, monkeypatch, medgraft):
    monkeypatch.chdir(tmp_path)
    # Each variant trains by itself above.
    few = tuple(each for each in VARIANTS if each.options in ({}, {"graph": "gat"}, {"hypergraph": "text"}))
    monkeypatch.setitem(
        catalogue().presets, ABLATION, catalogue().presets[ABLATION].model_copy(update={"variants": few})
    )
    done = medgraft(
        *("run", "--preset", ABLATION, "--limit", "12", "--epochs", "1", "--seeds", "0", "--jobs", "2"),
        *("--data", f"chexpert={chest_cohort}", "--encoders", CHEST, "--no-baselines", "--results", "out"),
    )
    assert done.exit_code == 0, done.output
    found = board_rows([Path("out")])
    assert len(found) == len(few) == 3 and {row.status for row in found} == {"success"}
    notes = {row.note for row in found}
    assert len(notes) == len(few)
    assert all(re.search(r"graph (attention|gat|gatv2|hypergraph_conv)\b", note) for note in notes)
    text = (tmp_path / "out" / "leaderboard.md").read_text()
    assert all(note in text for note in notes)


# --- the published recipe ---------------------------------------------------------------------------------------------


def test_the_published_recipe_of_ace_lora():
    asked = Sweep(adapters=("ace_lora",), preset="paper", tasks=("chexpert_5x200",), encoders=(CHEST,), baselines=False)
    assert training(asked, "ace_lora") == TrainDefaults(
        epochs=40, lr=1e-3, batch_size=64, weight_decay=0.01, warmup=1 / 40, keep="lowest_loss"
    )
    cell = make_plan(asked, Console(quiet=True), make=False).cells[0]
    options = cell.adapter_options
    assert cell.precision == "fp32"
    assert (options["rank"], options["alpha"], options["dropout"], options["depth"]) == (4, 1.0, 0.1, "all")
    assert (options["top_k"], options["hidden_dim"], options["hypergraph"]) == (5, 128, "both")
    assert (options["prompt_ensemble"], options["test_scale"]) == ("tokens", "encoder")
    assert options["text_dropout"] == 0.1
    assert cell.task_options["templates"] == ["a chest X-ray image of {}.", "Findings suggesting {}."]


def test_the_request_wins_over_the_options_and_the_precision_of_a_preset(monkeypatch):
    with_preset(
        monkeypatch, precision="fp32", options={"lora": {"rank": 3, "alpha": 2.0}, "chexpert": {"split_seed": 9}}
    )
    cohort = make_plan(
        Sweep(adapters=("lora",), tasks=("chexpert",), encoders=(CHEST,), baselines=False),
        Console(quiet=True),
        make=False,
    )
    cell = cohort.cells[0]
    assert (cell.precision, cell.adapter_options["rank"], cell.task_options["split_seed"]) == ("fp32", 3, 9)
    asked = Sweep(
        adapters=("lora",),
        tasks=("chexpert",),
        encoders=(CHEST,),
        precision="bf16",
        options={"lora": {"rank": 5}, "chexpert": {"split_seed": 1}},
    )
    row = next(row for row in rows(asked) if row.adapter == "lora")
    cell = cells_of(row, resolve_row(row, asked), asked, cohort.cohorts["chexpert"])[0]
    assert (cell.precision, cell.adapter_options["rank"], cell.task_options["split_seed"]) == ("bf16", 5, 1)
    assert cell.adapter_options["alpha"] == 2.0
