"""The contract of a task plugin: a cohort, a subject-level split, targets and an objective."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import ConfigDict

from medgraft.class_counts import check_told_apart, few_subjects, warn_of
from medgraft.errors import DataError
from medgraft.options import Options

Objective = Literal["multiclass", "multilabel", "contrastive", "prompted", "segmentation", "detection"]
SPLITS = ("train", "val", "test")


class TaskConfig(Options):
    """Base of every task's configuration: unknown fields are errors, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


@dataclass(frozen=True)
class RawInputs:
    """The raw samples of one modality, read when they are needed.

    Attributes:
        read: Index -> raw sample: image ``uint8 [H, W]``, volume ``float32 [D, H, W]`` or text. Raises
            :class:`~medgraft.errors.DataError` for a file that cannot be used; the sample is then skipped and counted.
        count: Number of samples.
        fingerprint: Digest of what ``read`` would return, for the cache of prepared inputs.
    """

    read: Callable[[int], Any]
    count: int
    fingerprint: str


@dataclass
class TaskData:
    """A task on one copy of its cohort.

    Attributes:
        inputs: Modality -> raw samples, all of the same length ``n``.
        targets: ``int64 [n]`` class indices (-1 where a training sample of a contrastive task has none), or
            ``float32 [n, L]`` labels. A dense task has one class, and 1 where the sample shows it.
        subjects: ``[n]`` subject keys; used for splits and intervals, never stored.
        splits: ``train``, ``val`` and ``test`` -> sample indices; no subject in two of them.
        classes: Names of the classes or labels.
        mask: ``[n, L]``, true where a label counts; ``None`` for all.
        labels: ``float32 [n, L]`` label vectors that guide a contrastive loss, or ``None``.
        prompts: One tuple of prompts per class, for zero-shot prediction.
        regions: For a dense task, index -> where the class is in the raw image: a boolean mask ``[H, W]``, or boxes
            ``[k, 4]`` as left, top, right and bottom in fractions of width and height.
        uncertain_class: Labels may also be 2, *uncertain*, which is learnt as a class of its own and left out of the
            prediction: p(1) / (p(0) + p(1)), as U-MultiClass in Irvin et al., 2019.
        variants: Further metrics by name, see :mod:`medgraft.benchmarks.metric_variants`.
        asked: ``int64 [n]``, number of the question that a sample's prompt asks, where one model answers several; it
            guides training, and diagnostics are told by it, but no prediction reads it.
        questions: Names of these questions.
        answers: Classes that answer each question; no class answers two. Empty where every class answers each.
        untrainable: Why nothing can be trained on these data, in words; empty where it can.
        phantom: The cohort is generated.
        provenance: What a result records about the data: counts, reader's report, generator, ceilings. No identifiers.
    """

    inputs: Mapping[str, RawInputs]
    targets: np.ndarray
    subjects: np.ndarray = field(repr=False)  # keys of people, which no log may hold
    splits: Mapping[str, np.ndarray]
    classes: tuple[str, ...]
    mask: np.ndarray | None = None
    labels: np.ndarray | None = None
    prompts: tuple[tuple[str, ...], ...] | None = None
    regions: Callable[[int], np.ndarray] | None = None
    uncertain_class: bool = False
    variants: tuple[str, ...] = ()
    asked: np.ndarray | None = None
    questions: tuple[str, ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()
    untrainable: str = ""
    phantom: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    def check(self) -> TaskData:
        """Asserts that the parts fit together and that no subject is in two splits.

        Raises:
            DataError: They do not; a split with a leak must never be trained on. Or all samples of the training or of
                the test split are of one class, which any model predicts.
        """
        n = len(self.targets)
        lengths = {name: raw.count for name, raw in self.inputs.items()} | {"subjects": len(self.subjects)}
        if any(length != n for length in lengths.values()):
            raise DataError(f"a task has {n} targets but {lengths}")
        for name, table in (("mask", self.mask), ("labels", self.labels), ("asked", self.asked)):
            if table is not None and len(table) != n:
                raise DataError(f"a task has {n} targets but {len(table)} rows of {name}")
        if missing := [name for name in SPLITS if name not in self.splits or len(self.splits[name]) == 0]:
            raise DataError(f"the {' and '.join(missing)} split has no sample; the cohort is too small or incomplete")
        self._check_questions()
        seen: dict[str, str] = {}
        for name, index in self.splits.items():
            if len(index) and (np.min(index) < 0 or np.max(index) >= n or len(np.unique(index)) != len(index)):
                raise DataError(f"the {name} split names a sample twice, or one that is not there")
            for subject in np.unique(self.subjects[index]):
                if seen.setdefault(subject, name) != name:
                    raise DataError(f"a subject is in both the {seen[subject]} and the {name} split")
        self._check_classes()
        return self

    def _check_classes(self) -> None:
        """Refuses what leaves nothing to tell apart; names, in log and provenance, classes that a split has none of."""
        labelled = {name: self.splits[name] for name in SPLITS}
        if self.targets.ndim == 1:  # a contrastive task trains on pairs, whose targets are -1
            labelled = {name: index for name, index in labelled.items() if (self.targets[index] >= 0).any()}
        if self.regions is not None:
            if empty := [name for name, index in labelled.items() if name != "val" and not self.targets[index].any()]:
                raise DataError(f"no sample of the {' and '.join(empty)} split shows {self.classes[0]!r}")
            return
        judged = {name: index for name, index in labelled.items() if name == "test" or self._learns_from(name)}
        asked = list(zip(self.questions, self.answers, strict=True)) if self.answers else []
        groups = asked or [("", range(len(self.classes)))]
        check_told_apart(self.targets, self.mask, judged, self.classes, groups)
        scarce = {name: index for name, index in labelled.items() if name in judged or name == "val"}
        if found := few_subjects(self.targets, self.mask, self.subjects, scarce, self.classes):
            self.provenance["missing_in_splits"] = found
            warn_of(found)

    def _learns_from(self, name: str) -> bool:
        """Whether labels of a split are trained on; pairs are not, and where there are none nothing is trained."""
        return name == "train" and not self.untrainable and self.labels is None

    def _check_questions(self) -> None:
        if self.asked is None:
            return
        if len(self.asked) and not 0 <= self.asked.min() <= self.asked.max() < len(self.questions):
            raise DataError(f"samples ask questions {self.asked.min()} to {self.asked.max()} of {len(self.questions)}")
        trained = np.unique(self.asked[self.splits["train"]])
        if idle := [name for i, name in enumerate(self.questions) if i not in trained]:
            raise DataError(f"no training sample asks {' or '.join(map(repr, idle))}; leave the question out")
        if not self.answers:
            return
        known = sorted(k for classes in self.answers for k in classes)
        if len(self.answers) != len(self.questions) or known != list(range(len(self.classes))):
            raise DataError(f"{len(self.questions)} questions have the answers {self.answers}; each class answers one")
        owner = {k: question for question, classes in enumerate(self.answers) for k in classes}
        if any(owner.get(int(k)) != q for k, q in zip(self.targets, self.asked, strict=True)):
            raise DataError("a sample's class does not answer the question that it asks")

    def split_hash(self) -> str:
        """Digest of which subject and sample is in which split; the same on every machine with the same data."""
        digest = hashlib.sha256()
        for name in SPLITS:
            rows = sorted(f"{self.subjects[i]}|{i}" for i in self.splits[name])
            digest.update(f"{name}:{';'.join(rows)}\n".encode())
        return digest.hexdigest()


class Task:
    """Base class of task plugins.

    Attributes:
        api_version: Version of this contract that the plugin was written for.
        version: Raised whenever a change of the task changes its numbers.
        inputs: Modalities a sample has, in the order in which a head reads them.
        objective: What is learned and how it is predicted.
        cohort: Name by which ``--data NAME=PATH`` gives the folder.
        primary: Metric that ranks the board.
        Config: The task's options; a nested class of that name.
    """

    api_version: ClassVar[int] = 1
    version: ClassVar[int] = 1
    inputs: ClassVar[tuple[str, ...]]
    objective: ClassVar[Objective]
    cohort: ClassVar[str]
    primary: ClassVar[str] = "f1_macro"

    Config: ClassVar[type[TaskConfig]] = TaskConfig

    def __init__(self, config: TaskConfig | None = None) -> None:
        self.config = config if config is not None else self.Config()

    @classmethod
    def modalities(cls) -> tuple[str, ...]:
        """Modalities that an encoder must have: those of a sample, and text where prompts stand for the classes."""
        return (*cls.inputs, "text") if cls.objective == "prompted" else cls.inputs

    def load(self, root: Path) -> TaskData:
        """Reads the cohort at ``root``.

        Raises:
            DataError: The folder is not what the task reads.
        """
        raise TypeError(f"{type(self).__name__} must implement load()")


def subject_split(
    subjects: Sequence[str] | np.ndarray, strata: Sequence[Any] | np.ndarray, fractions: Mapping[str, float], seed: int
) -> dict[str, np.ndarray]:
    """Splits samples by subject, stratified by the subject's first stratum.

    Args:
        subjects: Subject of each sample.
        strata: Stratum of each sample, for example the diagnosis.
        fractions: Split -> share of the subjects; they sum to 1.
        seed: Defines the split, together with the subject keys; the order of the samples does not matter.

    Returns:
        Split -> sample indices, ascending.

    Example:
        >>> parts = subject_split(["a", "a", "b", "c", "d"], [0, 0, 0, 0, 0], {"train": 0.5, "test": 0.5}, 0)
        >>> {name: len(index) for name, index in sorted(parts.items())}
        {'test': 2, 'train': 3}
    """
    first: dict[str, Any] = {}
    for subject, stratum in zip(subjects, strata, strict=True):
        first.setdefault(str(subject), stratum)
    names, shares = list(fractions), np.array(list(fractions.values()), float)
    if not np.isclose(shares.sum(), 1.0):
        raise ValueError(f"fractions sum to {shares.sum()}, not to 1")
    home: dict[str, str] = {}
    for position, stratum in enumerate(sorted({str(value) for value in first.values()})):
        members = sorted(subject for subject, value in first.items() if str(value) == stratum)
        members = list(np.random.default_rng([seed, position]).permutation(members))
        bounds = np.round(np.cumsum(shares) * len(members)).astype(int)
        for name, low, high in zip(names, [0, *bounds[:-1]], bounds, strict=True):
            home.update(dict.fromkeys(members[low:high], name))
    where = np.array([home[str(subject)] for subject in subjects])
    return {name: np.flatnonzero(where == name) for name in names}
