"""The commands of README and docs that train: each is planned to its last cell, and one of its cells is trained.

On small cohorts, two epochs and few samples; cells of the same task, encoder and adapter are trained once.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from rich.console import Console
from test_docs import commands, in_medgraft, own_data, sweep_of

from medgraft.benchmarks.cell.steps.evaluation import evaluate
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.operations import operations
from medgraft.benchmarks.cell.steps.precomputing import build
from medgraft.benchmarks.cell.steps.training import train
from medgraft.benchmarks.commands.main import app
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.sweep.checks import check_names
from medgraft.benchmarks.sweep.plan import make_plan
from medgraft.registry import catalogue
from medgraft.testing.phantoms import small_phantom

__all__ = ["own_data"]  # the fixture
pytestmark = [pytest.mark.slow]
HERE = ("phantom_", "embedded:", "causal_lm:embedded")
"""What encoders begin with whose weights come with the package."""

OF_THE_READER = re.compile(r"feedback=|medmnist:\S+\.size=|labels=group")
"""What needs a file of the reader's or another release of a cohort: planned here, trained by tests of its own."""


def runs() -> list[Any]:
    """Every ``run``: page and line -> words."""
    return [each for each in commands() if (in_medgraft(each.values[0]) or [""])[0] == "run"]


def asked(words: list[str]) -> dict[str, Any]:
    """The options of a command."""
    parser = typer.main.get_command(app)
    with parser.make_context("medgraft", list(words)) as context:
        name, command, rest = parser.resolve_command(context, list(words))  # pyright: ignore[reportAttributeAccessIssue]
        with command.make_context(name, list(rest), parent=context) as own:
            return dict(own.params)


def root_of(cohort: str, own: dict[str, Path]) -> Path:
    """Small data for a cohort of a cell."""
    if cohort in own:
        return own[cohort]
    entry = catalogue().presets["quick"].cohorts.get(cohort)
    return small_phantom(entry.writer if entry else cohort)


@pytest.fixture(scope="module")
def trained() -> set[tuple[str, str, str]]:
    """Task, encoder and adapter of cells that were trained."""
    return set()


@pytest.mark.parametrize("words", runs())
def test_a_run_of_the_docs_is_planned_and_trains(words, own_data, trained, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    values = asked(in_medgraft(words))
    encoders = str(values["encoders"] or "").split(",")
    if not all(part.split(":")[0] in ("pair", "inflate3d") or part.startswith(HERE) for part in encoders):
        values["encoders"] = None
    sweep = sweep_of(values, own_data)
    if sweep is None:
        return
    if "qlora" in str(values["adapters"]):
        check_names(sweep)  # it fits a language model in 4 bits, of which none comes with the package
        return
    plan = make_plan(sweep, Console(file=io.StringIO()), make=False)
    planned = {name for cell in plan.cells for name in cell.adapter.split("+")}
    wanted = {name for each in sweep.adapters or () for name in each.split("+")}
    assert planned and (wanted <= planned or not values["dry_run"] or values["encoders"]), plan.skipped
    if OF_THE_READER.search(" ".join(words)):
        return
    mine = [cell for cell in plan.cells if not sweep.adapters or cell.adapter in sweep.adapters]
    new = [cell for cell in mine if (cell.task, cell.encoder, cell.adapter) not in trained]
    for cell in new[:1]:
        trained.add((cell.task, cell.encoder, cell.adapter))
        short = {**cell.model_dump(), "limit": 8, "train": {**cell.train.model_dump(), "epochs": 2}}
        scores(CellSpec.model_validate(short), root_of(cell.cohort.name, own_data))


def scores(spec: CellSpec, root: Path) -> None:
    with operations(spec):
        ready = build(load(spec, root))
        train(ready, lambda share: None)
        arrays = evaluate(ready).arrays
    assert arrays and np.isfinite(arrays.get("scores", np.zeros(1))).all()
