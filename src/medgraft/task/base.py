"""The contract of a task plugin: a cohort, a subject-level split, targets and an objective."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import ConfigDict

from medgraft.errors import ConfigError, DataError
from medgraft.options import Options
from medgraft.task.class_counts import check_told_apart, few_subjects, warn_of

if TYPE_CHECKING:
    from medgraft.objective import Objective

SPLITS = ("train", "val", "test")


class TaskConfig(Options):
    """Base of every task's configuration: unknown fields are errors, values are immutable.

    Attributes:
        later: Options of the class itself that came later -> the value that means what there was before them. At that
            value they are in no result, so that results from before them stay valid and in their rows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)

    later: ClassVar[Mapping[str, Any]] = MappingProxyType({})

    def recorded(self) -> dict[str, Any]:
        """The options as a result holds them, in JSON's types."""
        values: dict[str, Any] = self.model_dump(mode="json")
        later: dict[str, Any] = {}
        for owner in reversed(type(self).__mro__):  # each class may have options that came later
            later |= vars(owner).get("later", {})
        return {name: value for name, value in values.items() if later.get(name, ...) != value}


@dataclass(frozen=True)
class RawInputs:
    """The raw samples of one modality, read when they are needed.

    Attributes:
        read: Index -> raw sample as the modality says, such as an image ``uint8 [H, W]`` or a text. Raises
            :class:`~medgraft.errors.DataError` for a file that cannot be used; the sample is then skipped and counted.
        count: Number of samples.
        fingerprint: Digest of what ``read`` would return, for the cache of prepared inputs.
        colour: Images are read in colour, ``[H, W, 3]``, and so are new ones that a graft is to predict.
        present: Which samples have one, ``bool [n]``; ``None`` for all, which most objectives need. A sample that lacks
            it is never read, its prepared input is 0, and one that cannot be read lacks it.
    """

    read: Callable[[int], Any]
    count: int
    fingerprint: str
    colour: bool = False
    present: np.ndarray | None = None


@dataclass(frozen=True)
class Variant:
    """A task that differs from its family in defaults alone, named ``family:variant``.

    What is ``None`` or empty is as in the family.

    Attributes:
        title: One line for people.
        defaults: Option -> default that takes the place of the family's; a user may still set the option.
        inputs: Modalities a sample has.
        cohort: Name by which ``--data NAME=PATH`` gives the folder.
        primary: Metric that ranks the board.
        tags: Words that ``--tasks tag:WORD`` chooses it by, besides the family's.
        objective: Name of what is learnt.
    """

    title: str = ""
    defaults: Mapping[str, Any] = field(default_factory=dict[str, Any])
    inputs: tuple[str, ...] | None = None
    cohort: str | None = None
    primary: str | None = None
    tags: tuple[str, ...] = ()
    objective: str | None = None


@dataclass
class TaskData:
    """A task on one copy of its cohort.

    Attributes:
        inputs: Modality -> raw samples, all of the same length ``n``.
        targets: ``int64 [n]`` class indices (-1 where a training sample of a contrastive task has none), or
            ``float32 [n, L]`` labels. A dense task has one class, and 1 where the sample shows it. Of other objectives
            what they say, such as ``float64 [n]`` numbers or times.
        subjects: ``[n]`` subject keys; used for splits and intervals, never stored.
        splits: ``train``, ``val`` and ``test`` -> sample indices; no subject in two of them.
        classes: Names of the classes or labels; empty for an objective that has none.
        mask: ``[n, L]``, true where a label counts; ``None`` for all.
        labels: ``float32 [n, L]`` label vectors that guide a contrastive loss, or ``None``.
        prompts: One tuple of prompts per class, for zero-shot prediction.
        regions: For a dense task, index -> where the class is in the raw image: a boolean mask ``[H, W]``, or boxes
            ``[k, 4]`` as left, top, right and bottom in fractions of width and height.
        uncertain_class: Labels may also be 2, *uncertain*, which is learnt as a class of its own and left out of the
            prediction: p(1) / (p(0) + p(1)), as U-MultiClass in Irvin et al., 2019.
        variants: Further metrics by name, see :mod:`medgraft.benchmarks.metrics.published`.
        asked: ``int64 [n]``, number of the question that a sample's prompt asks, where one model answers several; it
            guides training, and diagnostics are told by it, but no prediction reads it.
        questions: Names of these questions.
        answers: Classes that answer each question; no class answers two. Empty where every class answers each.
        columns: Further facts ``[n, ...]`` that an objective reads, such as ``event`` for ``survival``.
        horizons: Times at which predictions of time are judged.
        decoding: How texts are generated: fields of :class:`medgraft.language_model.Decoding`.
        countermeasures: What keeps generated texts from stating what nobody saw: fields of
            :class:`medgraft.task.text_options.CounterMeasures`.
        alignment: How modalities are brought into one space: fields of
            :class:`medgraft.task.alignment_options.Alignment`.
        attributes: Fact of a person or sample (sex, age, site, scanner, view) -> words or numbers ``[n]``, by groups of
            which the primary metric is told besides; numbers become bands. Nothing learns from them.
        given_test: The data name their test split themselves. A graft of another cohort is then tested on it, else on
            all samples.
        validated: Whether there is a validation split. Without one ``val`` is empty, heads stay as they were trained,
            and the thresholds of labels are 0.5.
        also_read: Digests of what the task read that is in no table and no sample, such as reports in files of their
            own; a real copy is identified by them too.
        untrainable: Why nothing can be trained on these data, in words; empty where it can.
        phantom: The cohort is generated.
        provenance: What a result records about the data: counts, reader's report, generator, ceilings. No identifiers.
            Sentences under ``notes`` are shown when a sweep begins and with each of its tables.
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
    columns: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray])
    horizons: tuple[float, ...] = ()
    decoding: Mapping[str, Any] = field(default_factory=dict[str, Any])
    countermeasures: Mapping[str, Any] = field(default_factory=dict[str, Any])
    alignment: Mapping[str, Any] = field(default_factory=dict[str, Any])
    given_test: bool = False
    validated: bool = True
    attributes: Mapping[str, np.ndarray] = field(default_factory=dict[str, np.ndarray], repr=False)
    also_read: tuple[str, ...] = ()
    untrainable: str = ""
    phantom: bool = False
    provenance: dict[str, Any] = field(default_factory=dict[str, Any])

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
        for name, table in (
            ("mask", self.mask),
            ("labels", self.labels),
            ("asked", self.asked),
            *((f"present of {name}", raw.present) for name, raw in self.inputs.items()),
            *self.columns.items(),
            *self.attributes.items(),
        ):
            if table is not None and len(table) != n:
                raise DataError(f"a task has {n} targets but {len(table)} rows of {name}")
        if not self.validated and len(self.splits.get("val", ())):
            raise DataError(
                f"the data have no validation split, they say, and {len(self.splits['val'])} samples in it; leave val "
                "empty, or validated true"
            )
        needed = [name for name in SPLITS if self.validated or name != "val"]
        if missing := [name for name in needed if name not in self.splits or len(self.splits[name]) == 0]:
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
        if not self.classes:
            return
        labelled = {name: self.splits[name] for name in SPLITS if self.validated or name != "val"}
        if self.targets.ndim == 1:  # a contrastive task trains on pairs, whose targets are -1
            labelled = {name: index for name, index in labelled.items() if (self.targets[index] >= 0).any()}
        if self.regions is not None:
            if empty := [name for name, index in labelled.items() if name != "val" and not self.targets[index].any()]:
                raise DataError(f"no sample of the {' and '.join(empty)} split shows {self.classes[0]!r}")
            return
        judged = {name: index for name, index in labelled.items() if name == "test" or self._learns_from(name)}
        questions = list(zip(self.questions, self.answers, strict=True)) if self.answers else []
        groups = questions or [("", range(len(self.classes)))]
        check_told_apart(self.targets, self.mask, judged, self.classes, groups)
        scarce = {name: index for name, index in labelled.items() if name in judged or name == "val"}
        if missing := few_subjects(self.targets, self.mask, self.subjects, scarce, self.classes):
            self.provenance["missing_in_splits"] = missing
            warn_of(missing)

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
        indices = sorted(k for classes in self.answers for k in classes)
        if len(self.answers) != len(self.questions) or indices != list(range(len(self.classes))):
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
        inputs: Modalities that a sample has, by the names of their plugins, in the order in which a head reads them.
        objective: What is learned and how it is predicted: the name of an objective plugin, or its class.
        cohort: Name by which ``--data NAME=PATH`` gives the folder.
        primary: Metric that ranks the board.
        pair: The two inputs that a contrastive objective compares; by default the first that is no text, and the text.
        variants: Name -> tasks that differ from this one in defaults alone; ``family:name`` stands for one.
        tags: Words that ``--tasks tag:WORD`` chooses the task and its variants by.
        same_as: Class -> the name by which other cohorts know it, for a test of another cohort's graft.
        takes_names: ``task:NAME`` is the task under any name of the user's, with data (``--data task:NAME=PATH``) and
            options of its own.
        Config: The task's options; a nested class of that name.
    """

    api_version: ClassVar[int] = 1
    version: ClassVar[int] = 1
    inputs: tuple[str, ...]
    objective: str | type[Objective]
    cohort: ClassVar[str]
    primary: str = "f1_macro"
    pair: ClassVar[tuple[str, ...]] = ()
    variants: ClassVar[Mapping[str, Variant]] = {}
    tags: ClassVar[tuple[str, ...]] = ()
    same_as: ClassVar[Mapping[str, str]] = {}
    takes_names: ClassVar[bool] = False

    Config: ClassVar[type[TaskConfig]] = TaskConfig

    def __init__(self, config: TaskConfig | None = None) -> None:
        self.config = config if config is not None else self.Config()

    def settled(self, root: Path) -> Task:
        """The task for the data at ``root``, where these decide something; called when a sweep is planned.

        A task that learns what it is from its data (which column holds what, which objective) returns another one with
        that in its options, so that results say it and workers need not find it out again.

        Raises:
            DataError: The data are not what the task reads.
        """
        return self

    def download(self, root: Path, announce: Callable[[str], None]) -> None:
        """Fetches what is missing of the data; called only where a user asks for it, before anything is planned.

        Args:
            root: Folder that the user named; it may not exist yet.
            announce: Called with lines for the user.

        Raises:
            ConfigError: The task has nothing that can be fetched, which is so unless overridden.
            DataError: There is no network, or what came is not what was published.
        """
        raise ConfigError(f"{type(self).__name__} has no data that can be downloaded; leave out --download")

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
        subjects: Subject of each sample, ``[n]``.
        strata: Stratum of each sample, ``[n]``, for example the diagnosis.
        fractions: Split -> share of the subjects; they sum to 1.
        seed: Defines the split, together with the subject keys; the order of the samples does not matter.

    Returns:
        Split -> sample indices, ``int64 [m]``, ascending.

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
