"""The coarse facts that a default sweep on the phantoms must show, on a fixed seed.

They hold by the design of the cohorts and of the encoders' pre-training, so a failure means that a part is broken, not
that a paper is wrong.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.sweep import run
from medgraft.benchmarks.sweep.plan import Plan
from medgraft.benchmarks.sweep.request import Sweep

pytestmark = [pytest.mark.slow(seconds=275), pytest.mark.timeout(900)]

# Each adapter on the tasks of its kind, as a default sweep runs it: ace_lora on volumes would be trained for minutes,
# and nothing is asked of it here.
TASKS = {"ace_lora": ("chexpert", "chexpert_5x200"), "brain_adapter": ("adni_image", "adni_image_text")}

UNASKED = {
    ("adni_image", "pixels:3d", "linear_probe"),
    ("adni_image_text", "phantom_brain", "linear_probe"),
    ("chexpert", "pixels:2d", "linear_probe"),
    ("chexpert", "phantom_chest@random", "linear_probe"),
}
"""Reference rows of which nothing is asked below; they are planned and not run."""


make_plan = run.make_plan


def asked(*arguments: Any, **options: Any) -> Plan:
    """The plan of a default sweep without :data:`UNASKED`, which must be in it."""
    plan = make_plan(*arguments, **options)
    rows = {(cell.task, cell.encoder, cell.adapter) for cell in plan.cells}
    here = {row for row in UNASKED if row[0] in {task for task, _, _ in rows}}
    assert here <= rows, "a reference row is gone from the plan"
    return dataclasses.replace(
        plan, cells=[cell for cell in plan.cells if (cell.task, cell.encoder, cell.adapter) not in UNASKED]
    )


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str, str], CellResult]:
    results: Path = tmp_path_factory.mktemp("quality")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "make_plan", asked)
        for adapter, tasks in TASKS.items():
            sweep = Sweep(adapters=(adapter,), tasks=tasks, seeds=(0,), results=results, jobs=2)
            assert not run.sweep_and_show(sweep, fresh=False, command="test")
    found = [cell for _, cell in read_results([results])]
    return {(cell.spec.task, cell.spec.encoder, cell.spec.adapter): cell for cell in found}


def value(cells: dict[tuple[str, str, str], CellResult], metric: str, *row: str) -> float:
    found = cells[row].metrics[metric].value  # pyright: ignore[reportArgumentType]
    assert found is not None
    return found


def test_image_and_text_beat_the_image_alone(cells):
    image = value(cells, "f1_macro", "adni_image", "phantom_brain", "brain_adapter")
    both = value(cells, "f1_macro", "adni_image_text", "phantom_brain", "brain_adapter")
    assert both > image + 0.03


def test_the_image_alone_beats_chance(cells):
    # Three classes at the cohort's shares: guessing reaches a macro F1 of a third at most.
    low = cells["adni_image", "phantom_brain", "brain_adapter"].metrics["f1_macro"].ci_low
    assert low is not None and low > 1 / 3


def test_the_image_alone_beats_a_probe_of_the_untrained_encoder(cells):
    image = value(cells, "f1_macro", "adni_image", "phantom_brain", "brain_adapter")
    untrained = value(cells, "f1_macro", "adni_image", "phantom_brain@random", "linear_probe")
    assert image > untrained + 0.03


def test_brain_adapter_stays_clearly_under_the_bayes_rate(cells):
    for task in ("adni_image", "adni_image_text"):
        cell = cells[task, "phantom_brain", "brain_adapter"]
        assert value(cells, "f1_macro", task, "phantom_brain", "brain_adapter") < cell.data["bayes_f1_macro"] - 0.03


def test_a_network_from_scratch_learns_something(cells):
    for task, encoder in (("adni_image", "pixels:3d"), ("chexpert", "pixels:2d")):
        assert value(cells, "auc_macro", task, encoder, "scratch_cnn") > 0.6


def test_the_probe_is_as_good_as_a_probe_can_be(cells):
    # Measured once with a pipeline of scikit-learn on the same features; a probe below it is no bar for an adapter.
    assert value(cells, "auc_macro", "chexpert", "phantom_chest", "linear_probe") > 0.875
    assert value(cells, "auc_macro", "adni_image", "phantom_brain", "linear_probe") > 0.79
    assert value(cells, "f1_macro", "adni_image", "phantom_brain", "linear_probe") > 0.625


def test_ace_lora_is_at_the_level_of_the_probe_of_the_same_encoder(cells):
    row, probe = ("chexpert", "phantom_chest", "ace_lora"), ("chexpert", "phantom_chest", "linear_probe")
    for metric in ("f1_macro", "auc_macro"):
        assert abs(value(cells, metric, *row) - value(cells, metric, *probe)) < 0.04


def test_ace_lora_beats_zero_shot_without_an_adapter(cells):
    row, plain = ("chexpert_5x200", "phantom_chest", "ace_lora"), ("chexpert_5x200", "phantom_chest", "zero_shot")
    assert value(cells, "f1_macro", *row) > value(cells, "f1_macro", *plain) + 0.03
    # Its hypergraph starts from random maps and has 1,400 pairs to learn them from, where the encoder had 30,000: the
    # classes are told apart better, the ranking within one is not yet as good.
    assert value(cells, "auc_macro", *row) > value(cells, "auc_macro", *plain) - 0.05


def test_every_cell_says_phantom(cells):
    assert all(cell.phantom and cell.spec.cohort.phantom for cell in cells.values())
