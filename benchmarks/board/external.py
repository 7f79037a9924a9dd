"""Rows of grafts that were tested on other cohorts: at home, away, and the drop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from medgraft.benchmarks.board.rows import BoardRow, joined, metrics_of
from medgraft.benchmarks.board.text import with_interval
from medgraft.benchmarks.external.comparison import drop_over_seeds
from medgraft.benchmarks.external.results import ExternalResult, StoredTest
from medgraft.benchmarks.metrics.student import Bounds
from medgraft.metric import Predictions
from medgraft.metric.judging import metric_of

SIDES = ("home", "away", "drop")
HEADS = ("encoder", "adapter", "tested on", "subjects", "number", *SIDES)

Number = tuple[float | None, float | None, float | None]


@dataclass(frozen=True)
class TestedRow:
    """The seeds of a row on one other cohort.

    Attributes:
        row: The row.
        results: Of each seed.
        numbers: ``home``, ``away`` and ``drop`` -> mean over the seeds and 95% interval of the primary number.
    """

    row: BoardRow
    results: Sequence[ExternalResult]
    numbers: dict[str, Number]

    @property
    def on(self) -> str:
        """Task of the other cohort."""
        return self.results[0].tested.task

    @property
    def number(self) -> str:
        """Name of the number that is shown."""
        return next((each.primary for each in self.results if each.primary), "")

    def cells(self, text: Callable[[Number | None], str] = with_interval) -> list[str]:
        """Cells under :data:`HEADS`."""
        return [self.row.first.spec.encoder, self.row.adapter, *self.heading(), *self.shown(text)]

    def heading(self) -> tuple[str, str, str]:
        """What it is tested on, of how many subjects, and the number that is shown."""
        good = [each for each in self.results if each.status == "success"]
        mark = " (PHANTOM)" if self.results[0].phantom else ""
        part = ", test split" if good and good[0].part == "test" else ""
        subjects = str(good[0].data.get("subjects", "")) if good else ""
        return f"{self.on}{part}{mark}", subjects, self.number

    def shown(self, text: Callable[[Number | None], str]) -> list[str]:
        """The number at home, away, and the drop."""
        return [text(self.numbers.get(side)) for side in SIDES]

    def remarks(self) -> Iterator[str]:
        """What a reader must know: what was compared, what was left out, why a test failed."""
        for each in self.results:
            if each.status != "success":
                yield f"{self.on}: {self.row.adapter} seed {each.trained.seed} was not tested: {each.message}"
                continue
            if each.classes:
                yield f"{self.on}: compared on {', '.join(each.classes)}"
            if coverage := each.sets.get("coverage"):
                size = each.sets["set_size"]
                held = with_interval((coverage.value, coverage.ci_low, coverage.ci_high))
                yield (
                    f"{self.on}: conformal sets from home ({self.row.adapter} seed {each.trained.seed}) hold the truth "
                    f"in {held} of the samples there, with {with_interval((size.value, None, None))} classes each"
                )
            for note in each.data.get("notes", ()):
                yield f"{self.on}: {note}"
            left = "; ".join(f"{reason}: {count}" for reason, count in each.data.get("left_out", {}).items())
            if left:
                yield f"{self.on}: left out: {left}"
            if few := each.data.get("few_subjects"):
                counts = ", ".join(f"{name} {count}" for name, count in few.items())
                yield f"{self.on}: few subjects: {counts}; some intervals may be too narrow"


def tested_rows(members: Sequence[BoardRow]) -> list[TestedRow]:
    """The tests of some rows on other cohorts, in the order of the rows."""
    tested: list[TestedRow] = []
    for row in members:
        by_mark: dict[str, list[StoredTest]] = {}
        for seed in row.tests:
            for test in seed:
                by_mark.setdefault(test.result.tested.mark(), []).append(test)
        bounds = [metric_of(row.first.primary, metrics_of(row.first)).bounds]
        for tests in by_mark.values():
            tested.append(TestedRow(row, [test.result for test in tests], _numbers(tests, bounds[0])))
    return tested


def _numbers(tests: Sequence[StoredTest], bounds: Bounds) -> dict[str, Number]:
    """Means over seeds; the interval resamples subjects and seeds where the predictions of all are at hand."""
    good = [test for test in tests if test.result.status == "success"]
    name = next((test.result.primary for test in good), "")
    if not name:
        return {}
    sides = {side: [getattr(test.result, side).get(name) for test in good] for side in SIDES}
    if any(estimate is None or estimate.value is None for each in sides.values() for estimate in each):
        return {}
    predictions = [test.predictions for test in good if test.predictions is not None]
    if len(predictions) == len(good) > 1 and _same_samples(predictions):
        ends = dict(zip(sides, drop_over_seeds(predictions, name), strict=True))
    else:
        width = bounds[1] - bounds[0]
        ends = {side: joined(each, (-width, width) if side == "drop" else bounds) for side, each in sides.items()}
    return {side: (fmean(estimate.value for estimate in each), *ends[side]) for side, each in sides.items()}


def _same_samples(predictions: Sequence[tuple[Predictions, Predictions]]) -> bool:
    first = predictions[0]
    return all(
        np.array_equal(p.groups, q.groups) and np.array_equal(p.targets, q.targets)
        for pair in predictions
        for p, q in zip(pair, first, strict=True)
    )
