"""Training with few labels: a share of the subjects, or a number of samples per class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from medgraft.options import Seed
from medgraft.task import TaskConfig


class LabelBudget(TaskConfig):
    """Options of tasks that can be trained with few labels.

    Only the training split shrinks. Validation subjects choose thresholds and nothing else, and all of them stay.

    Attributes:
        label_fraction: Share of the training subjects that is kept, rounded up within each stratum; a smaller share is
            part of every larger one.
        shots: Training samples per class, each of another subject; fewer shots are part of more. A class with fewer
            gives all that it has. ``None`` for no limit.
        label_seed: Defines which subjects are kept.
    """

    label_fraction: float = Field(1.0, gt=0, le=1)
    shots: int | None = Field(None, ge=1)
    label_seed: Seed = 0

    @model_validator(mode="after")
    def _one_limit(self) -> LabelBudget:
        if self.shots is not None and self.label_fraction < 1:
            raise ValueError("shots and label_fraction are two ways to limit the labels; choose one")
        return self


def within_budget(
    index: np.ndarray, subjects: np.ndarray, classes: np.ndarray, strata: Sequence[Any] | np.ndarray, own: LabelBudget
) -> np.ndarray:
    """The training samples that the options leave.

    Args:
        index: Training samples.
        subjects: ``[n]`` subject of every sample.
        classes: ``[n, K]`` boolean, whether a sample counts for class ``k``; for ``shots``.
        strata: ``[n]`` stratum of every sample, for ``label_fraction``; a subject is in that of its first sample.
        own: The options.

    Returns:
        Part of ``index``, ascending.
    """
    index = np.sort(index)
    first: dict[str, str] = {}
    for sample in index:
        first.setdefault(str(subjects[sample]), str(strata[sample]))
    order = np.random.default_rng([own.label_seed, 29]).permutation(sorted(first)).tolist()
    if own.shots is None:
        kept: set[str] = set()
        for stratum in sorted(set(first.values())):
            members = [subject for subject in order if first[subject] == stratum]
            # Rounded first, because 0.07 * 100 is a little more than 7.
            kept.update(members[: int(np.ceil(round(own.label_fraction * len(members), 9)))])
        return index[[str(subjects[sample]) in kept for sample in index]]
    rank = {subject: place for place, subject in enumerate(order)}
    ordered = sorted(index.tolist(), key=lambda sample: rank[str(subjects[sample])])
    chosen: set[int] = set()
    for k in range(classes.shape[1]):
        one_each: dict[str, int] = {}
        for sample in ordered:
            if classes[sample, k]:
                one_each.setdefault(str(subjects[sample]), sample)
        chosen.update(list(one_each.values())[: own.shots])
    return np.array(sorted(chosen), dtype=index.dtype)


def class_table(targets: np.ndarray, n_classes: int) -> np.ndarray:
    """Which samples count for which class, ``[n, K]``; a last column holds samples without any label."""
    if targets.ndim == 1:
        return targets[:, None] == np.arange(n_classes)
    present = targets == 1
    return np.column_stack([present, ~present.any(axis=1)])
