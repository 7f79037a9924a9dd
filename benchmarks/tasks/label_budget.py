"""Training with few labels: a share of the subjects, or a number of samples per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Literal

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
        proportions: Of the shots: ``balanced``, the same number of each class, or ``cohort``, as many in all, and of
            each class in proportion to the training subjects who have it, so that a rare one may have none. Of labels
            that do not exclude each other, ``cohort`` takes subjects as they come.
        label_seed: Defines which subjects are kept.
    """

    later: ClassVar[Mapping[str, Any]] = MappingProxyType({"proportions": "balanced"})

    label_fraction: float = Field(1.0, gt=0, le=1)
    shots: int | None = Field(None, ge=1)
    proportions: Literal["balanced", "cohort"] = "balanced"
    label_seed: Seed = 0

    @model_validator(mode="after")
    def _one_limit(self) -> LabelBudget:
        if self.shots is not None and self.label_fraction < 1:
            raise ValueError("shots and label_fraction are two ways to limit the labels; choose one")
        if self.shots is None and self.proportions == "cohort":
            raise ValueError(
                "proportions 'cohort' are those of shots, and there is no number of shots; give one, or leave "
                "proportions out, since label_fraction and all labels have the cohort's own"
            )
        return self


def within_budget(
    index: np.ndarray,
    subjects: np.ndarray,
    classes: np.ndarray,
    strata: Sequence[Any] | np.ndarray,
    budget: LabelBudget,
) -> np.ndarray:
    """The training samples that the options leave.

    Args:
        index: Training samples.
        subjects: ``[n]`` subject of every sample.
        classes: ``[n, K]`` boolean, whether a sample counts for class ``k``; for ``shots``.
        strata: ``[n]`` stratum of every sample, for ``label_fraction``; a subject is in that of its first sample.
        budget: The options.

    Returns:
        Part of ``index``, ascending.
    """
    index = np.sort(index)
    first: dict[str, str] = {}
    for sample in index:
        first.setdefault(str(subjects[sample]), str(strata[sample]))
    order = np.random.default_rng([budget.label_seed, 29]).permutation(sorted(first)).tolist()
    if budget.shots is None:
        kept: set[str] = set()
        for stratum in sorted(set(first.values())):
            members = [subject for subject in order if first[subject] == stratum]
            # Rounded first, because 0.07 * 100 is a little more than 7.
            kept.update(members[: int(np.ceil(round(budget.label_fraction * len(members), 9)))])
        return index[[str(subjects[sample]) in kept for sample in index]]
    rank = {subject: place for place, subject in enumerate(order)}
    ordered = sorted(index.tolist(), key=lambda sample: rank[str(subjects[sample])])
    by_class = [_one_each(ordered, subjects, classes[:, k]) for k in range(classes.shape[1])]
    takes, total = [budget.shots] * len(by_class), budget.shots * len(by_class)
    if budget.proportions == "cohort":
        if (classes[index].sum(axis=1) > 1).any():
            by_class, takes = [_one_each(ordered, subjects, np.asarray(classes.any(axis=1)))], [total]
        else:
            takes = in_proportion([len(samples) for samples in by_class], total)
    chosen = {sample for samples, take in zip(by_class, takes, strict=True) for sample in samples[:take]}
    return np.array(sorted(chosen), dtype=index.dtype)


def _one_each(ordered: Sequence[int], subjects: np.ndarray, counts: np.ndarray) -> list[int]:
    """The first sample of each subject, ``[n]``, among those that count, ``bool [n]``."""
    one_each: dict[str, int] = {}
    for sample in ordered:
        if counts[sample]:
            one_each.setdefault(str(subjects[sample]), sample)
    return list(one_each.values())


def in_proportion(available: Sequence[int], total: int) -> list[int]:
    """Divides a number among classes in proportion to what each has, by the method of Webster and Sainte-Laguë.

    The next one goes to the class with the largest ``available / (2 given + 1)``, so that a larger total gives no class
    fewer, which a rounding of shares may do.

    Args:
        available: What there is of each class.
        total: How many to take; all there are where that is fewer.

    Example:
        >>> in_proportion([90, 9, 1], 10), in_proportion([90, 9, 1], 51), in_proportion([2, 1], 9)
        ([9, 1, 0], [45, 5, 1], [2, 1])
    """
    given = [0] * len(available)
    for _ in range(min(total, sum(available))):
        open_to = [k for k in range(len(given)) if given[k] < available[k]]
        given[max(open_to, key=lambda k: available[k] / (2 * given[k] + 1))] += 1
    return given


def class_table(targets: np.ndarray, n_classes: int) -> np.ndarray:
    """Which samples count for which class, ``[n, K]``; a last column holds samples without any label."""
    if targets.ndim == 1:
        return targets[:, None] == np.arange(n_classes)
    present = targets == 1
    return np.column_stack([present, ~present.any(axis=1)])
