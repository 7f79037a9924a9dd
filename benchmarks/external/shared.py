"""What two cohorts both label, and predictions seen through it.

A graft that was trained on one cohort is judged on another by the classes that both have, and by the same classes at
home, so that the difference is of the persons and not of the question.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from medgraft.errors import DataError
from medgraft.metric import Array, Predictions
from medgraft.task import SPLITS, Task, TaskData

Kind = Literal["classes", "labels", "numbers"]
SUMS_TO_ONE = 1e-4
"""Rows of scores whose sums are as near to 1 as this are probabilities of classes; half precision rounds them."""


@dataclass(frozen=True)
class Labelling:
    """What a task labels its samples with.

    Attributes:
        kind: Classes that exclude each other, labels that do not, or numbers.
        classes: Names, empty for numbers.
        same_as: Class -> the name by which other cohorts know it.
    """

    kind: Kind
    classes: tuple[str, ...]
    same_as: Mapping[str, str] = field(default_factory=dict[str, str])

    @classmethod
    def of(cls, targets: Array, classes: tuple[str, ...], same_as: Mapping[str, str] | None = None) -> Labelling:
        """From targets ``[n]`` or ``[n, K]`` and the names of the classes."""
        kind: Kind = "numbers" if not classes else "classes" if targets.ndim == 1 else "labels"
        return cls(kind, classes, same_as or {})

    @property
    def finding(self) -> bool:
        """Whether there are two classes, of which the second is a finding and the first its absence."""
        return self.kind == "classes" and len(self.classes) == 2


@dataclass(frozen=True)
class Shared:
    """Classes that two tasks share.

    Attributes:
        kind: How predictions are judged.
        classes: Their names at home.
        home: Their columns at home, ``[K]``.
        away: Their columns, or numbers of classes, in the other cohort, ``[K]``.
        left_at_home: Classes at home that the other cohort has not.
        left_away: Classes of the other cohort that are not at home.
    """

    kind: Kind
    classes: tuple[str, ...]
    home: tuple[int, ...]
    away: tuple[int, ...]
    left_at_home: tuple[str, ...] = ()
    left_away: tuple[str, ...] = ()

    def told(self) -> str:
        """What is compared, in words."""
        if self.kind == "numbers":
            return "numbers"
        text = ", ".join(self.classes)
        return f"{text} (not {', '.join(self.left_at_home)})" if self.left_at_home else text


def plain_name(name: str) -> str:
    """A name without case, dashes and underscores.

    Example:
        >>> plain_name("Pleural_Effusion"), plain_name("COVID-19")
        ('pleural effusion', 'covid 19')
    """
    return " ".join(re.split(r"[\s_-]+", name.casefold().strip()))


def shared_classes(home: Labelling, away: Labelling, match: Mapping[str, str] | None = None) -> Shared:
    """The classes that a graft was trained for and another cohort labels, in the order at home.

    Names are compared without case, dashes and underscores, after each task's own list of other names. A task of two
    classes whose second is a finding (*No Finding*, *pneumonia*) is compared with labels by that finding alone: what
    the first one is depends on what else was looked for.

    Args:
        home: Of the task that the graft was trained for.
        away: Of the other one.
        match: Name in the other cohort -> name at home, where they differ.

    Raises:
        DataError: They share too little to be judged by.
    """
    if (home.kind == "numbers") != (away.kind == "numbers"):
        raise DataError(f"one task has {home.kind} and the other {away.kind}; there is nothing to compare")
    if home.kind == "numbers":
        return Shared("numbers", (), (), ())
    ours, theirs = _named(home, away, {}), _named(away, home, match or {})
    common = [name for name in ours if name in theirs]
    kind: Kind = "classes" if home.kind == away.kind == "classes" else "labels"
    if len(common) < (2 if kind == "classes" else 1):
        raise DataError(
            f"the classes {_listed(home)} and {_listed(away)} have {'one' if common else 'none'} in common and two are "
            "needed, or a finding that is a label of the other; --match THEIRS=OURS says which are the same, and a "
            "task may have an option to label more"
        )
    at_home, there = tuple(ours[name] for name in common), tuple(theirs[name] for name in common)
    return Shared(
        kind,
        tuple(home.classes[k] for k in at_home),
        at_home,
        there,
        tuple(home.classes[k] for k in ours.values() if k not in at_home),
        tuple(away.classes[k] for k in theirs.values() if k not in there),
    )


def _listed(labelling: Labelling) -> str:
    return ", ".join(labelling.classes[:8]) + (", ..." if len(labelling.classes) > 8 else "")


def _named(labelling: Labelling, other: Labelling, match: Mapping[str, str]) -> dict[str, int]:
    """Plain name of each class that can be compared -> its number.

    Raises:
        DataError: Classes and labels are of kinds that cannot be compared, two classes have one name, or a name to be
            matched does not exist.
    """
    known = {plain_name(name): name for name in labelling.classes}
    renamed = {plain_name(theirs): plain_name(ours) for theirs, ours in match.items()}
    if unknown := [name for name in match if plain_name(name) not in known]:
        raise DataError(f"--match {unknown[0]}=...: the other cohort has no class {unknown[0]!r}; {_listed(labelling)}")
    if unknown := [name for name in match.values() if plain_name(name) not in _other_names(other)]:
        raise DataError(f"--match ...={unknown[0]}: the graft knows no class {unknown[0]!r}; {_listed(other)}")
    if labelling.kind == "classes" and other.kind == "labels":
        if not labelling.finding:
            raise DataError(
                f"the classes {_listed(labelling)} exclude each other and {_listed(other)} do not; only a task of two "
                "classes, a finding and its absence, is compared with labels"
            )
        numbers = [1]
    else:
        numbers = list(range(len(labelling.classes)))
    named: dict[str, int] = {}
    for k in numbers:
        name = labelling.classes[k]
        plain = plain_name(labelling.same_as.get(name, name))
        plain = renamed.get(plain_name(name), plain)
        if plain in named:
            raise DataError(f"the classes {labelling.classes[named[plain]]!r} and {name!r} would both be {plain!r}")
        named[plain] = k
    return named


def _other_names(labelling: Labelling) -> set[str]:
    return {plain_name(name) for each in labelling.classes for name in (each, labelling.same_as.get(each, each))}


def labels_in_common(
    home: Task, at_home: TaskData, away: Task, there: TaskData, match: dict[str, str] | None = None
) -> Shared:
    """What two tasks both label.

    Args:
        home: That a graft is trained for.
        at_home: What it read.
        away: To be tested on.
        there: What it read.
        match: Name of a class there -> name at home.

    Raises:
        DataError: Too little, or a sample of the other cohort lacks an input; the message says which.
    """
    if missing := [name for name in home.inputs if name not in there.inputs]:
        raise DataError(f"its samples have no {' and no '.join(missing)}, which the graft reads")
    for task, data in ((home, at_home), (away, there)):
        if data.regions is not None or data.answers:
            raise DataError(f"task {task.cohort!r} asks for places or several questions, which are not compared")
        if data.columns:
            raise DataError("targets with further columns, such as times with events, are not compared")
    return shared_classes(
        Labelling.of(at_home.targets, at_home.classes, home.same_as),
        Labelling.of(there.targets, there.classes, away.same_as),
        match,
    )


def samples_away(data: TaskData) -> np.ndarray:
    """Numbers ``int64 [n]`` of the samples that are tested on: a test split that the data name, else all of them."""
    parts = ("test",) if data.given_test else SPLITS
    index = np.sort(np.concatenate([data.splits[name] for name in parts]).astype(np.int64))
    return index[data.targets[index] >= 0] if data.classes and data.targets.ndim == 1 else index  # pairs have no class


@dataclass(frozen=True)
class Truth:
    """Targets in terms of the shared classes.

    Attributes:
        targets: ``int64 [n]``, ``float32 [n, K]`` or ``float64 [n]``.
        mask: ``bool [n, K]`` or ``None``.
        used: ``bool [m]``, samples of a shared class, of ``m``.
    """

    targets: Array
    mask: Array | None
    used: Array


def truth(targets: Array, mask: Array | None, kind: Kind, columns: tuple[int, ...]) -> Truth:
    """Targets of ``m`` samples as numbers or columns of the shared classes.

    Args:
        targets: ``[m]`` numbers of classes or numbers, or labels ``[m, L]``; a label of 2 is uncertain.
        mask: ``[m, L]``, where a label counts, or ``None``.
        kind: How predictions are judged.
        columns: Numbers of the shared classes there.
    """
    everyone = np.ones(len(targets), bool)
    if kind == "numbers":
        return Truth(targets.astype(np.float64), None, everyone)
    if kind == "classes":
        place = {k: i for i, k in enumerate(columns)}
        used = np.isin(targets, columns)
        return Truth(np.array([place[int(k)] for k in targets[used]], np.int64), None, used)
    if targets.ndim == 1:
        return Truth((targets == columns[0]).astype(np.float32)[:, None], None, everyone)
    chosen = targets[:, columns]
    counts = np.ones(chosen.shape, bool) if mask is None else mask[:, columns].astype(bool)
    counts &= chosen != 2
    return Truth(np.where(counts, chosen, 0).astype(np.float32), counts, everyone)


def seen_through(
    scores: Array,
    facts: Truth,
    groups: Array,
    shared: Shared,
    thresholds: Array | None,
    objective: str,
) -> Predictions:
    """Predictions of the shared classes alone.

    Probabilities of classes that exclude each other are divided by their sum over the shared ones: a graft is asked
    which of these it is.

    Args:
        scores: ``[m, L]`` as the graft gives them, of all of its classes.
        facts: What is true of the ``m`` samples.
        groups: ``int64 [m]`` subject numbers.
        shared: The classes.
        thresholds: ``[L]`` from the validation samples at home, or ``None``.
        objective: Name of the objective at home.
    """
    used = facts.used
    _, groups = np.unique(groups[used], return_inverse=True)
    scores = scores[used]
    if shared.kind == "numbers":
        return Predictions(scores, facts.targets, groups, (), objective=objective)
    chosen = scores[:, shared.home]
    if shared.kind == "classes":
        if chosen.shape[1] < scores.shape[1] and _are_probabilities(scores):
            total = chosen.sum(axis=1, keepdims=True)
            chosen = np.where(total > 0, chosen / np.where(total > 0, total, 1), 1 / chosen.shape[1])
        return Predictions(chosen, facts.targets, groups, shared.classes, objective="multiclass")
    known = np.full(scores.shape[1], 0.5) if thresholds is None else thresholds
    return Predictions(
        chosen, facts.targets, groups, shared.classes, facts.mask, known[list(shared.home)], objective="multilabel"
    )


def _are_probabilities(scores: Array) -> bool:
    return bool((scores >= 0).all() and (np.abs(scores.sum(axis=1) - 1) < SUMS_TO_ONE).all())
