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
from readers_files import language_model, oasis2_table, with_feedback
from rich.console import Console
from test_docs import BLOCKS, commands, in_medgraft, own_data, sweep_of

from medgraft.benchmarks.cell.steps.evaluation import evaluate
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.operations import operations
from medgraft.benchmarks.cell.steps.precomputing import build
from medgraft.benchmarks.cell.steps.training import train
from medgraft.benchmarks.cohorts.medmnist import phantom
from medgraft.benchmarks.cohorts.places import write_phantom
from medgraft.benchmarks.commands.arguments import listed_encoders
from medgraft.benchmarks.commands.main import app
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.sweep.checks import check_names
from medgraft.benchmarks.sweep.plan import make_plan
from medgraft.benchmarks.sweep.request import Sweep, read_sweep
from medgraft.errors import MedgraftError
from medgraft.registry import catalogue
from medgraft.testing.phantoms import small_phantom

__all__ = ["own_data"]  # the fixture
pytestmark = [pytest.mark.slow(seconds=353)]
HUB = re.compile(r"timm:|biomedclip|pypi:|m3d:|Llama|braindecode:(?:labram|cbramod)(?![^\s'\"]*@)")
"""Encoders whose weights a reader fetches: a cell is trained on the task's own, and what the command says without them
is tested by itself."""


REMEDY = re.compile(r"install|fetch|download|no file|not on this|no such|local")
"""What a sentence about missing weights says to do."""


def runs() -> list[Any]:
    """Every ``run``, page and line -> words; what several pages say is run once."""
    found = {tuple(in_medgraft(each.values[0]) or [""]): each for each in commands()}
    return [each for said, each in found.items() if said[0] == "run"]


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
def readers_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What commands ask for beside a cohort: a language model, a table of feedback, another release of a cohort."""
    folder = tmp_path_factory.mktemp("readers_files")
    language_model(folder / "language")
    with_feedback(folder / "feedback")
    oasis2_table(folder / "oasis2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(phantom, "DATA_SETS", {"pathmnist": phantom.DATA_SETS["pathmnist"]})
        write_phantom("medmnist", folder / "medmnist", {"samples": 100, "size": 64}, 1)
    return folder


OTHER_DATA = {
    "chest_reports.feedback=feedback.csv": ("chexpert", "feedback"),
    "medmnist:pathmnist.size=64": ("medmnist", "medmnist"),
    "oasis:text.labels=group": ("oasis", "oasis2"),
}
"""Option of a command -> cohort that holds what it asks for, and its folder."""


@pytest.fixture(scope="module")
def trained() -> set[tuple[str, ...]]:
    """Task, encoder, adapter and options of cells that were trained."""
    return set()


def sweep_here(words: list[str], own: dict[str, Path], files: Path) -> Sweep | None:
    """What a command asks for, with files that are here in the place of those of the reader."""
    said = in_medgraft(words) or []
    if "--config" in said:
        (block,) = (each.text for each in BLOCKS if each.language == "yaml" and "# sweep.yaml" in each.text)
        (files / "sweep.yaml").write_text(block.replace("/data/adni", str(small_phantom("adni"))))
        return read_sweep(files / "sweep.yaml", {"device": "cpu"})
    values = asked([word.replace("causal_lm:FOLDER", f"causal_lm:{files / 'language'}") for word in said])
    if HUB.search(str(values["encoders"])):
        values["encoders"] = None
    return sweep_of(values, own)


def other_data(words: list[str], files: Path) -> dict[str, Path]:
    """Cohorts that a command reads in another form than its small phantom has."""
    return {cohort: files / name for said, (cohort, name) in OTHER_DATA.items() if said in " ".join(words)}


@pytest.mark.parametrize("words", runs())
def test_a_run_of_the_docs_is_planned_and_trains(words, own_data, readers_files, trained, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    sweep = sweep_here(words, own_data, readers_files)
    if sweep is None:
        assert "discs.yaml" in words, "the walk of the quickstart is run as a whole"
        return
    plan = make_plan(sweep, Console(file=io.StringIO()), make=False)
    planned = {name for cell in plan.cells for name in cell.adapter.split("+")}
    wanted = {name for each in sweep.adapters or () for name in each.split("+")}
    assert planned and (wanted <= planned or "--dry-run" not in words or sweep.encoders), plan.skipped
    mine = [cell for cell in plan.cells if not sweep.adapters or cell.adapter in sweep.adapters]
    other = other_data(words, readers_files)
    kinds = {(cell.task, cell.encoder, cell.adapter, *other): cell for cell in reversed(mine)}
    assert mine
    for kind in [kind for kind in reversed(kinds) if kind not in trained][:1]:
        trained.add(kind)
        cell = kinds[kind]
        short = {**cell.model_dump(), "limit": 8, "train": {**cell.train.model_dump(), "epochs": 2}}
        scores(CellSpec.model_validate(short), root_of(cell.cohort.name, own_data | other))


@pytest.mark.parametrize("words", [each for each in runs() if HUB.search(" ".join(in_medgraft(each.values[0]) or []))])
def test_without_the_weights_of_a_hub_the_command_says_so_in_a_sentence(words, own_data, readers_files, monkeypatch):
    """Or, where they are installed, reads them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    values = asked(in_medgraft(words) or [])
    names = listed_encoders(values["encoders"])
    sweep = sweep_of({**values, "encoders": None}, own_data)
    assert sweep is not None and names
    missing = 0
    for name in names:
        try:
            check_names(asking := sweep.model_copy(update={"encoders": [name]}))
            cell = make_plan(asking, Console(file=io.StringIO()), make=False).cells[0]
            data = own_data | other_data(words, readers_files)
            load(CellSpec.model_validate({**cell.model_dump(), "limit": 8}), root_of(cell.cohort.name, data))
        except MedgraftError as error:
            missing += 1
            assert "\n" not in str(error) and REMEDY.search(str(error)), error
    assert missing or any(name.startswith("pypi:") for name in names), "offline, and yet there are weights of a hub"


def scores(spec: CellSpec, root: Path) -> None:
    with operations(spec):
        ready = build(load(spec, root))
        train(ready, lambda share: None)
        arrays = evaluate(ready).arrays
    assert arrays and np.isfinite(arrays.get("scores", np.zeros(1))).all()
