"""What a row's predictions say of one number, in the form in which rows of one table are compared."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.metrics.bootstrap import left_out_of
from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.benchmarks.statistics.pairs import Measured, measured
from medgraft.metric import Predictions, WeightedStatistic


@dataclass(frozen=True)
class Evidence:
    """Of the seeds of one row.

    Attributes:
        measured: The number of each seed, and each subject's influence.
        subjects: Digest of the test samples, their subjects and targets: rows with the same can be compared in pairs.
        predictions: Reads those of one of the seeds.
    """

    measured: Measured
    subjects: str
    predictions: Callable[[], Predictions]

    @functools.cached_property
    def left_out(self) -> LeftOut:
        """Of the test split, which rows of one digest share: of thousands of rows few are asked."""
        return left_out_of(self.predictions())


def same_subjects(predictions: Sequence[Predictions]) -> bool:
    """Whether predictions are of the same test samples of the same subjects, in one order."""
    first = predictions[0]
    return all(np.array_equal(p.groups, first.groups) and np.array_equal(p.targets, first.targets) for p in predictions)


def measured_of(seeds: Sequence[Mapping[str, WeightedStatistic]], left_out: LeftOut, number: str) -> Measured | None:
    """What the seeds of a row, all on one test split, say of a number; ``None`` where it is undefined."""
    statistics = [by_name[number] for by_name in seeds if number in by_name]
    if len(statistics) < len(seeds) or left_out.n_subjects < 2:
        return None
    found = measured(statistics, left_out)
    return None if np.isnan(found.values).any() else found


def subjects_digest(p: Predictions) -> str:
    """Of the subject and the target of each test sample, in their order."""
    whole = hashlib.sha256()
    for array in (p.groups.astype("<i8"), np.ascontiguousarray(p.targets), p.mask):
        whole.update(b"none" if array is None else f"{array.shape} {array.dtype.kind}".encode() + array.tobytes())
    return whole.hexdigest()
