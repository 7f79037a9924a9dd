"""Probabilities, conformal sets and curves on the board: a row each, means over seeds, a picture of the curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cells import spec

from medgraft.benchmarks.board.drawn.reliability_figure import LIKELIEST, draw_reliability, panels
from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import BoardRow, make_row
from medgraft.benchmarks.board.tables.probabilities import HEADS, probability_rows
from medgraft.benchmarks.calibration.conformal import calibrate, set_statistics
from medgraft.benchmarks.calibration.reliability import reliability
from medgraft.benchmarks.calibration.summary import Calibration, Scaling, Sets
from medgraft.benchmarks.metrics.bootstrap import Estimate, estimates
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.benchmarks.results.result import CellResult
from medgraft.errors import MedgraftError
from medgraft.metric import Predictions


def predictions(seed: int, K: int) -> Predictions:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(K), 80)
    targets = (p.cumsum(axis=1) > random.random((80, 1))).argmax(axis=1)
    return Predictions(p, targets, np.arange(80), tuple("abcd"[:K]))


def row(K: int = 3, seeds: int = 2, temperature: float | None = 1.5, **changes) -> BoardRow:
    cells = []
    for seed in range(seeds):
        p, each = predictions(seed, K), spec(seed=seed, **changes)
        rule = calibrate(predictions(100 + seed, K))
        sets = Sets(rule=rule, numbers=estimates(set_statistics(rule, p), p, resamples=50))
        scaling = Scaling(temperatures=(temperature,), loss=(1.0, 0.9))
        found = Calibration(reliability=reliability(p), scaling=scaling, sets=sets)
        metrics = evaluate(p, resamples=50)
        cells.append(
            CellResult(key=each.key(), status="success", spec=each, phantom=True, metrics=metrics, calibration=found)
        )
    return make_row([(Path(f"{cell.key}.json"), cell) for cell in cells])


def test_a_row_says_the_means_of_its_seeds():
    each = row()
    (cells,) = probability_rows([each])
    said = dict(zip(HEADS, cells, strict=True))
    found = [cell.calibration for cell in each.cells]
    coverage = np.mean([one.sets.numbers["coverage"].value for one in found])
    size = np.mean([one.sets.numbers["set_size"].value for one in found])
    assert said["coverage"].startswith(f"{coverage:.3f} [") and said["coverage"].endswith("] of 0.9")
    assert said["set size"].startswith(f"{size:.3f} [") and said["temperature"] == "1.50"
    brier = np.mean([cell.metrics["brier"].value for cell in each.cells])
    assert said["Brier"].startswith(f"{brier:.3f} [")
    by_class = {k: np.mean([one.sets.numbers[f"coverage_{k}"].value for one in found]) for k in "abc"}
    worst = min(by_class, key=by_class.get)
    assert said["least covered"].startswith(f"{by_class[worst]:.3f} [") and said["least covered"].endswith(f" {worst}")
    assert "| least covered" in markdown([each], BoardOptions("medgraft leaderboard r"))


def test_no_temperature_is_said_in_words_and_results_without_any_are_left_out():
    assert "none is best" in probability_rows([row(temperature=None)])[0]
    old = row()
    old.cells = [cell.model_copy(update={"calibration": None}) for cell in old.cells]
    assert probability_rows([old]) == [] and panels([old]) == []
    assert "Probabilities" not in markdown([old], BoardOptions("medgraft leaderboard r"))


def test_panels_hold_a_line_for_each_row():
    drawn = panels([row(), row(adapter="toy_other")])
    assert [panel.title for panel in drawn] == [f"toy: {name}" for name in (LIKELIEST, "a", "b", "c")]
    assert all(len(panel.lines) == 2 and panel.phantom for panel in drawn)
    # Of two classes one curve is the other one turned round.
    assert [panel.title for panel in panels([row(K=2)])] == [f"toy: {name}" for name in (LIKELIEST, "b")]


def test_the_picture_is_the_same_for_the_same_curves(tmp_path):
    for name in ("one.svg", "two.svg"):
        draw_reliability(panels([row()]), tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two and b"observed frequency" in one and b"PHANTOM" in one
    with pytest.raises(MedgraftError, match="no result has reliability curves"):
        draw_reliability([], tmp_path / "none.svg")
    (tmp_path / "file").write_text("")
    with pytest.raises(MedgraftError, match="cannot be written"):
        draw_reliability(panels([row()]), tmp_path / "file" / "x.svg")


def test_a_coverage_ends_at_one_however_seeds_differ():
    far = [
        Calibration(reliability=reliability(predictions(0, 3)), sets=Sets(rule=rule, numbers=numbers))
        for rule in [calibrate(predictions(100, 3))]
        for value in (0.6, 0.8, 1.0)
        for numbers in [
            {
                name: Estimate(value=value, ci_low=value - 0.1, ci_high=min(1.0, value + 0.1), n=9, n_subjects=9)
                for name in ("coverage", "set_size", "coverage_a")
            }
        ]
    ]
    each = row(seeds=3)
    each.cells = [cell.model_copy(update={"calibration": one}) for cell, one in zip(each.cells, far, strict=True)]
    said = dict(zip(HEADS, probability_rows([each])[0], strict=True))
    assert said["coverage"].startswith("0.800 [") and said["coverage"].endswith("1.000] of 0.9")
    assert said["least covered"].endswith("1.000] a") and float(said["set size"].split(", ")[1][:-1]) > 1
