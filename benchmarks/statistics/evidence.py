"""What a row's predictions say of one number, in the form in which rows of one table are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.metrics.bootstrap import left_out_of
from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.benchmarks.statistics.pairs import Measured, measured
from medgraft.judging import judged
from medgraft.metric import Predictions


@dataclass(frozen=True)
class Evidence:
    """Of the seeds of one row.

    Attributes:
        measured: The number of each seed, and each subject's influence.
        left_out: Of the test split.
        subjects: Digest of the test samples, their subjects and targets: rows with the same can be compared in pairs.
    """

    measured: Measured
    left_out: LeftOut
    subjects: str


def same_subjects(predictions: Sequence[Predictions]) -> bool:
    """Whether predictions are of the same test samples of the same subjects, in one order."""
    first = predictions[0]
    return all(np.array_equal(p.groups, first.groups) and np.array_equal(p.targets, first.targets) for p in predictions)


def evidence_of(predictions: Sequence[Predictions], number: str) -> Evidence | None:
    """What the seeds of a row, all on the same test samples, say of a number; ``None`` where it is undefined."""
    parts = [judged(p).statistics.get(number) for p in predictions]
    statistics = [part for part in parts if part is not None]
    left_out = left_out_of(predictions[0])
    if len(statistics) < len(parts) or left_out.n_subjects < 2:
        return None
    found = measured(statistics, left_out)
    if np.isnan(found.values).any():
        return None
    return Evidence(found, left_out, subjects_digest(predictions[0]))


def subjects_digest(p: Predictions) -> str:
    """Of the subject and the target of each test sample, in their order."""
    whole = hashlib.sha256()
    for array in (p.groups.astype("<i8"), np.ascontiguousarray(p.targets), p.mask):
        whole.update(b"none" if array is None else f"{array.shape} {array.dtype.kind}".encode() + array.tobytes())
    return whole.hexdigest()
