"""Splits of somebody's own data: those of the file, checked, or new ones by subject; and who must not be parted.

Files of equal content are one sample twice, so their subjects stay in one split, whoever they are said to be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.tables.reading import folded
from medgraft.errors import DataError
from medgraft.task import SPLITS

WORDS = {
    "train": ("train", "training", "trn", "tr", "fit"),
    "val": ("val", "valid", "validation", "dev", "development", "tune", "tuning"),
    "test": ("test", "testing", "tst", "holdout", "heldout", "eval", "evaluation"),
}
"""Split -> the words for it, folded."""

SHARED = "a subject, or a file, that is in a later split too"


def joined_subjects(subjects: Sequence[str], digests: Sequence[str]) -> tuple[np.ndarray, int]:
    """Subjects ``[n]`` such that equal files are of one, and how many subjects were joined for it.

    Args:
        subjects: ``[n]`` keys.
        digests: ``[n]`` content of each sample; empty for one that takes no part.

    Example:
        >>> joined_subjects(["a", "b", "c"], ["1", "2", "1"])
        (array(['a', 'b', 'a'], dtype='<U1'), 1)
    """
    parent: dict[str, str] = {subject: subject for subject in subjects}

    def root(subject: str) -> str:
        while parent[subject] != subject:
            parent[subject] = parent[parent[subject]]
            subject = parent[subject]
        return subject

    first: dict[str, str] = {}
    for subject, digest in zip(subjects, digests, strict=True):
        if digest:
            a, b = root(first.setdefault(digest, subject)), root(subject)
            parent[max(a, b)] = min(a, b)
    joined = np.array([root(subject) for subject in subjects], str)
    return joined, len(set(subjects)) - len(set(joined.tolist()))


def named_splits(column: Any, task: str) -> np.ndarray:
    """``train``, ``val`` or ``test`` for each row ``[n]``; empty where the row says nothing.

    Raises:
        DataError: There are other words, or no row is for training or for the test.
    """
    known = {word: split for split, words in WORDS.items() for word in words}
    words = column.map(lambda value: "" if pd.isna(value) else folded(value))
    ignore = f"leave the column out with --set {task}.split=none, and a split by subject is made"
    if strange := sorted({str(value) for value, word in zip(column, words, strict=True) if word and word not in known}):
        raise DataError(
            f"column {column.name!r} says {', '.join(map(repr, strange[:5]))}; a split is train, val or test; {ignore}"
        )
    splits = np.array([known.get(word, "") for word in words], str)
    if missing := [name for name in ("train", "test") if not (splits == name).any()]:
        raise DataError(f"column {column.name!r} has no row for {' and '.join(missing)}; {ignore}")
    return splits


def kept_apart(splits: np.ndarray, subjects: np.ndarray, *, drop: bool, task: str) -> tuple[np.ndarray, Counter[str]]:
    """A table's own splits once nobody is in two of them.

    Args:
        splits: ``[n]`` names; empty for a row that is not used.
        subjects: ``[n]`` keys; whoever shares a file is one, see :func:`joined_subjects`.
        drop: Leave rows out of the earlier of two splits; otherwise they are an error.
        task: Whose option the remedy names.

    Returns:
        The splits, empty where a row was left out, and how many were for which reason.

    Raises:
        DataError: A subject is in two splits.
    """
    latest: dict[str, int] = {}
    for key, split in zip(subjects, splits, strict=True):
        if split:
            latest[key] = max(latest.get(key, 0), SPLITS.index(split))
    early = np.array([bool(s) and SPLITS.index(s) < latest[k] for k, s in zip(subjects, splits, strict=True)], bool)
    if not early.any():
        return splits, Counter()
    if not drop:
        count = len(set(subjects[early].tolist()))
        who = "1 subject, or a file of one, is" if count == 1 else f"{count} subjects, or files of theirs, are"
        raise DataError(
            f"{who} in two splits, which leaks; --set {task}.shared=drop leaves them out of the earlier one, --set "
            f"{task}.split=none makes a new split by subject"
        )
    return np.where(early, "", splits), Counter({SHARED: int(early.sum())})


def new_splits(
    subjects: np.ndarray, strata: np.ndarray, fractions: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """A split by subject in which every stratum has a subject in each part, where it has as many.

    Args:
        subjects: ``[n]`` keys.
        strata: ``[n]``; a subject is in that of its first sample.
        fractions: Split -> share of the subjects; training is among them and gets what is left.
        seed: Defines the split, together with the keys; the order of the samples does not matter.

    Returns:
        Split -> sample numbers ``int64 [m]``, ascending.

    Example:
        >>> shares = {"train": 0.7, "val": 0.1, "test": 0.2}
        >>> parts = new_splits(np.array(list("abcd")), np.zeros(4), shares, 0)
        >>> {name: len(index) for name, index in parts.items()}
        {'train': 2, 'val': 1, 'test': 1}
    """
    first: dict[str, str] = {}
    for subject, stratum in zip(subjects.tolist(), strata.tolist(), strict=True):
        first.setdefault(subject, str(stratum))
    others = sorted((name for name in fractions if name != "train"), key=lambda name: -fractions[name])
    home: dict[str, str] = {}
    for position, stratum in enumerate(sorted(set(first.values()))):
        members = sorted(subject for subject, value in first.items() if value == stratum)
        waiting = np.random.default_rng([seed, position, 71]).permutation(members).tolist()
        for name in others:
            count = max(1, round(fractions[name] * len(members))) if len(waiting) > 1 else 0
            taken, waiting = waiting[: min(count, len(waiting) - 1)], waiting[min(count, len(waiting) - 1) :]
            home.update(dict.fromkeys(taken, name))
        home.update(dict.fromkeys(waiting, "train"))
    where = np.array([home[subject] for subject in subjects.tolist()])
    return {name: np.flatnonzero(where == name) for name in fractions}


def split_indices(
    splits: np.ndarray | None,
    subjects: np.ndarray,
    strata: np.ndarray,
    fractions: Mapping[str, float],
    seed: int,
) -> dict[str, np.ndarray]:
    """Split -> sample numbers ``int64 [m]``; validation is taken from training subjects where the file has none.

    Args:
        splits: ``[n]`` names from the file, or ``None`` for a split by subject.
        subjects: ``[n]`` keys.
        strata: ``[n]``, by which a new split is balanced.
        fractions: Split -> share of the subjects.
        seed: Defines a new split.
    """
    if splits is None:
        return new_splits(subjects, strata, fractions, seed)
    parts: dict[str, Any] = {name: np.flatnonzero(splits == name) for name in SPLITS}
    if not len(parts["val"]):
        train, share = parts["train"], fractions["val"] / (fractions["train"] + fractions["val"])
        inner = new_splits(subjects[train], strata[train], {"train": 1 - share, "val": share}, seed)
        parts |= {name: train[index] for name, index in inner.items()}
    return parts
