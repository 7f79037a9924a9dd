"""Whether a task's samples have classes to tell apart, and which classes have too few people to say much of them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence

import numpy as np

from medgraft.errors import DataError

logger = logging.getLogger(__name__)


def check_told_apart(
    targets: np.ndarray,
    mask: np.ndarray | None,
    splits: Mapping[str, np.ndarray],
    classes: Sequence[str],
    groups: Sequence[tuple[str, Sequence[int]]],
) -> None:
    """Refuses samples that are all alike: any model is right on them, and any score is empty.

    Labels that never vary in the test split alone are no reason: their scores are undefined and say so.

    Args:
        targets: ``int64 [n]`` classes, -1 for none, or ``[n, L]`` labels of which 1 is present.
        mask: ``[n, L]``, true where a label counts; ``None`` for all.
        splits: Those to look at -> sample indices.
        classes: Names.
        groups: Name of a question and the classes that answer it; one nameless group where there are no questions.

    Raises:
        DataError: Of one class, or with the same labels, are all samples of a split (that answer a question).
    """
    for split, index in splits.items():
        if targets.ndim == 2:
            if split != "test" and not any(
                len(np.unique(_counted(targets, mask, index, k))) > 1 for k in range(targets.shape[1])
            ):
                raise DataError(
                    f"no label of the {split} split is present in some samples and absent in others ({_few(classes)}); "
                    "there is nothing to tell apart"
                )
            continue
        labels = np.unique(targets[index])
        for question, answers in groups:
            present = [classes[k] for k in answers if k in labels]
            if len(present) == 1:
                clause = f" that answer {question!r}" if question else ""
                raise DataError(
                    f"all samples of the {split} split{clause} are of one class, {present[0]!r}; there is nothing to "
                    "tell apart. Give data of at least two classes, or leave the question out"
                )


def few_subjects(
    targets: np.ndarray,
    mask: np.ndarray | None,
    subjects: np.ndarray,
    splits: Mapping[str, np.ndarray],
    classes: Sequence[str],
) -> dict[str, dict[str, int]]:
    """Classes that some split of ``[n]`` targets has no subject of -> number of subjects in each split."""
    missing: dict[str, dict[str, int]] = {}
    for k, name in enumerate(classes):
        counts: dict[str, int] = {}
        for split, index in splits.items():
            members = targets[index] == k if targets.ndim == 1 else targets[index, k] == 1
            if targets.ndim == 2 and mask is not None:
                members = members & mask[index, k].astype(bool)
            counts[split] = len(np.unique(subjects[index][members]))
        if not all(counts.values()):
            missing[name] = counts
    return missing


def warn_of(missing: Mapping[str, Mapping[str, int]]) -> None:
    """Names them in the log, once."""
    entries = (f"{name} ({', '.join(f'{split} {count}' for split, count in n.items())})" for name, n in missing.items())
    _say(f"too few subjects for every split to have one, so scores say little: {'; '.join(entries)}")


@functools.lru_cache(maxsize=512)
def _say(text: str) -> None:
    logger.warning("%s", text)


def _counted(targets: np.ndarray, mask: np.ndarray | None, index: np.ndarray, k: int) -> np.ndarray:
    values = targets[index, k]
    return values if mask is None else values[mask[index, k].astype(bool)]


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (" and so on" if len(names) > 5 else "")
