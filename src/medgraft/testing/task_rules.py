"""Rules that hold for every task, on one copy of its data."""

from __future__ import annotations

import functools
import json
import re
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from medgraft.errors import ConfigError, DataError, MedgraftError
from medgraft.features import Features
from medgraft.metric import value_of
from medgraft.metric.judging import judged
from medgraft.modality import check_modalities, find_modality
from medgraft.objective import Batch, Objective, make_objective, objective_class, objective_name, pair_of
from medgraft.plugins import refused_version
from medgraft.task import SPLITS, Task, TaskConfig, TaskData
from medgraft.testing.adapter_rules.declaration import require_documented
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.file_copies import altered_copy, files_read
from medgraft.typed.pytorch import back_propagate, seed_random
from medgraft.typed.values import is_a

READ_PER_SPLIT = 3
WIDTH = 6


class TaskSubject:
    """One task and the data it reads.

    Args:
        label: Name of the task.
        build: Makes the task anew, with options that differ from its own.
        root: Gives the folder of its cohort; called when the first check needs it.
    """

    def __init__(self, label: str, build: Callable[..., Task], root: Callable[[], Path]) -> None:
        self.label, self.build, self._root = label, build, root

    @functools.cached_property
    def root(self) -> Path:
        """The cohort's folder."""
        return self._root()

    @functools.cached_property
    def task(self) -> Task:
        """The task as the author configured it."""
        return self.build()

    @functools.cached_property
    def data(self) -> TaskData:
        """What it loads; skips the check if it cannot, since one check says so."""
        try:
            return self.task.load(self.root)
        except Exception as error:  # an author's code; it_loads reports it
            raise unittest.SkipTest(f"it does not load; see it_loads ({type(error).__name__})") from None

    def cases(self) -> Sequence[str]:
        """The modalities of a sample."""
        return self.task.inputs

    def without_cases(self) -> str:
        """Why there are none."""
        return "its inputs are empty"


@rule("Leave api_version to the base class, or set it to the version that the plugin was written for.")
def api_version_is_spoken(subject: TaskSubject) -> None:
    """The plugin was written for a version of the contract that this medgraft speaks."""
    problem = refused_version(getattr(type(subject.task), "api_version", None))
    require(not problem, f"{type(subject.task).__name__} {problem}")


@rule("Describe each field under 'Attributes:' in the docstring of the nested Config, as `name: meaning`.")
def options_are_documented(subject: TaskSubject) -> None:
    """Every field of Config is described in its docstring."""
    require_documented(type(subject.task).Config)


@rule("Derive Config from medgraft.task.TaskConfig and leave extra='forbid' and frozen=True as they are.")
def options_are_strict(subject: TaskSubject) -> None:
    """A configuration is a TaskConfig, immutable, and refuses options that do not exist."""
    config = subject.task.config
    require(is_a(config, TaskConfig), f"config is a {type(config).__name__}")
    field = next(iter(type(config).model_fields), "anything")
    try:
        setattr(config, field, getattr(config, field, None))
    except ValueError:
        pass
    else:
        require(False, f"{field} can be set")
    try:
        subject.build(no_such_option=1)
    except (ConfigError, ValidationError):
        return
    require(False, "it takes the unknown option no_such_option=1")


@rule(
    "Set inputs (names of modalities), objective, cohort and primary on the class; a contrastive task has two inputs, "
    "or says which with pair = (first, second)."
)
def the_class_says_what_it_is(subject: TaskSubject) -> None:
    """Inputs, objective and primary metric are declared and fit together."""
    task = subject.task
    for name in ("inputs", "objective", "cohort"):
        require(getattr(task, name, None), f"{name} is not set")
    try:
        objective_class(task.objective)
    except MedgraftError as error:
        require(False, f"objective is {task.objective!r}: {error}")
        return
    try:
        check_modalities(task.inputs, "inputs")
        pair_of(task)
    except MedgraftError as error:
        require(False, str(error))


@rule("Mend load(), or pass the folder that it reads.")
def it_loads(subject: TaskSubject) -> None:
    """load() reads the folder, gives the inputs that the class names, and its parts fit together."""
    data = subject.task.load(subject.root)
    require(is_a(data, TaskData), f"load() returns a {type(data).__name__}")
    subject.data = data  # other checks need not load it again
    require(set(data.inputs) == set(subject.task.inputs), f"it loads {sorted(data.inputs)}, not {subject.task.inputs}")
    lengths = {len(data.targets), len(data.subjects), *(raw.count for raw in data.inputs.values())}
    require(len(lengths) == 1, f"targets, subjects and inputs have lengths {sorted(lengths)}")
    for name in SPLITS:
        index = data.splits.get(name, np.array([], int))
        if name == "val" and not data.validated and not len(index):
            continue
        require(len(index), f"the {name} split is empty")
        require(len(np.unique(index)) == len(index), f"the {name} split names a sample twice")
        require(np.min(index) >= 0 and np.max(index) < len(data.targets), f"the {name} split leaves the samples")


@rule("Split by subject with medgraft.task.subject_split, not by sample.")
def no_subject_is_in_two_splits(subject: TaskSubject) -> None:
    """Splits are disjoint by subject."""
    data = subject.data
    subjects = {name: set(data.subjects[index]) for name, index in data.splits.items()}
    for i, first in enumerate(subjects):
        for second in list(subjects)[i + 1 :]:
            shared = subjects[first] & subjects[second]
            require(not shared, f"{len(shared)} subjects are in both the {first} and the {second} split")


@rule("Seed every draw from the configuration, sort what a folder lists, and use no global random state.")
def loading_repeats_itself(subject: TaskSubject) -> None:
    """Two loads give the same splits, targets and fingerprints, whatever the global random state."""
    first = subject.data
    state = np.random.get_state()
    try:
        np.random.seed(12345)
        seed_random(12345)
        second = subject.task.load(subject.root)
    finally:
        np.random.set_state(state)
    require(first.split_hash() == second.split_hash(), "two loads give other splits")
    same = first.targets.shape == second.targets.shape and np.array_equal(first.targets, second.targets)
    require(same, "two loads give other targets")
    for name, raw in first.inputs.items():
        require(raw.fingerprint, f"the fingerprint of {name} is empty")
        require(raw.fingerprint == second.inputs[name].fingerprint, f"two loads give {name} other fingerprints")


@rule(
    "Put the content of the files into the fingerprint, not their dates alone: "
    "fingerprint=medgraft.files.content.file_facts(paths, root).",
    each=True,
)
def other_content_is_another_fingerprint(subject: TaskSubject, case: str) -> None:
    """A copy of the folder with other bytes in files of the same names, sizes and dates has other fingerprints."""
    raw, train = subject.data.inputs[case], subject.data.splits["train"]
    if raw.present is not None:
        train = train[raw.present[train]]
    if not len(train):
        raise unittest.SkipTest("no training sample has it")
    files = files_read(subject.root, lambda: raw.read(int(train[0])))
    if not files:
        raise unittest.SkipTest("it reads no file of its folder, or not by Python's own means, when it reads a sample")
    with altered_copy(subject.root, files) as copy:
        try:
            other = subject.build().load(copy)
        except DataError:
            raise unittest.SkipTest("it reads the files while it loads, and refuses damaged ones") from None
        same = other.inputs[case].fingerprint == raw.fingerprint
    require(not same, "a copy of the folder with other bytes in a sample's file has the same fingerprint")


@rule("Make split_seed define the split, and nothing else of it.")
def the_split_seed_defines_the_split(subject: TaskSubject) -> None:
    """Another split_seed gives another split of the same subjects."""
    if "split_seed" not in type(subject.task).Config.model_fields:
        raise unittest.SkipTest("it has no option 'split_seed'; its split is fixed")
    hashed, seed = subject.data.split_hash(), getattr(subject.task.config, "split_seed")  # noqa: B009  the plugin's own
    others = [subject.build(split_seed=seed + k).load(subject.root) for k in (1, 2, 3)]
    if subject.data.given_test and all(other.split_hash() == hashed for other in others):
        raise unittest.SkipTest("these data name their own splits; split_seed is for data that do not")
    require(any(other.split_hash() != hashed for other in others), "split_seed changes no split")
    subjects = set(subject.data.subjects.tolist())
    require(all(set(o.subjects.tolist()) == subjects for o in others), "split_seed changes the subjects")


@rule("Give targets as the objective asks for them: int64 class indices below len(classes), float32 labels 0 and 1.")
def targets_fit_the_objective(subject: TaskSubject) -> None:
    """The objective takes the task's targets, classes and prompts."""
    try:
        _objective_of(subject).check(subject.data, subject.task.inputs)
    except DataError as error:
        require(False, str(error))


def _objective_of(subject: TaskSubject) -> type[Objective]:
    """The objective's class; skips the check if there is none of the name, since one check says so."""
    try:
        return objective_class(subject.task.objective)
    except MedgraftError:
        raise unittest.SkipTest("its objective cannot be had; see the_class_says_what_it_is") from None


@rule(
    "Return from read() what the modality says, such as an image uint8 [H, W]; raise DataError for a bad file.",
    each=True,
)
def raw_inputs_load(subject: TaskSubject, case: str) -> None:
    """The first samples of each split are read, in the form that encoders prepare."""
    raw, read = subject.data.inputs[case], 0
    for name, index in subject.data.splits.items():
        for i in index[:READ_PER_SPLIT]:
            try:
                sample = raw.read(int(i))
            except DataError:
                continue
            read += 1
            problem = _misread(case, sample, empty=name != "train")
            require(not problem, f"a sample of the {name} split {problem}")
    require(read, "no sample could be read")


def _misread(modality: str, sample: Any, *, empty: bool) -> str:
    """What is wrong with a sample; ``empty`` allows one without a text, as test images without a report are."""
    try:
        find_modality(modality).check(sample)
    except DataError as error:
        return str(error).removeprefix("a sample ")
    return "is an empty text" if not empty and isinstance(sample, str) and not sample.strip() else ""


@rule("Keep subjects, file names and folders out of provenance and out of the data's repr.")
def nothing_names_a_subject(subject: TaskSubject) -> None:
    """Neither what a result records nor the data's repr holds a subject's key or the cohort's folder."""
    data = subject.data
    try:
        recorded = json.dumps(dict(data.provenance))
    except (TypeError, ValueError) as error:
        require(False, f"provenance cannot be written as JSON: {error}")
        return
    keys = {str(key) for key in data.subjects if len(str(key)) > 3}
    for where, text in (("provenance", recorded), ("repr(data)", repr(data))):
        words = set(re.findall(r"[\w.\-]+", text))
        named = keys & words
        require(not named, f"{where} holds the keys of {len(named)} subjects")
        require(str(subject.root) not in text, f"{where} holds the folder of the cohort")


@rule("Put the reader's report in provenance['reader']: used, and skipped by reason.")
def skipped_files_are_counted(subject: TaskSubject) -> None:
    """Provenance says how many files the reader used and how many it skipped, by reason."""
    reports = list(_reports(subject.data.provenance.get("reader", {})))
    require(reports, "provenance['reader'] holds no report with 'used' and 'skipped'")
    for report in reports:
        require(isinstance(report["used"], int), f"'used' is {report['used']!r}")
        counts = report["skipped"].values() if is_a(report["skipped"], Mapping) else [report["skipped"]]
        require(all(isinstance(count, int) and count >= 0 for count in counts), f"'skipped' is {report['skipped']!r}")
    total = sum(report["used"] for report in reports)
    require(total > 0, "the reader used no file")


def _reports(facts: Any) -> Iterator[Mapping[str, Any]]:
    if is_a(facts, Mapping) and "used" in facts and "skipped" in facts:
        yield facts
    elif is_a(facts, Mapping):
        for inner in facts.values():
            yield from _reports(inner)


@rule("Choose the objective that fits targets and classes.")
def the_objective_fits(subject: TaskSubject) -> None:
    """The objective builds a head and gives one row of scores per sample, a finite loss and a gradient."""
    objective = _of_pooled_features(subject)
    task, data = subject.task, subject.data
    index = data.splits["train"][:8]
    features = {name: _features(len(index), seed) for seed, name in enumerate(task.inputs)}
    head = objective.make_head(features)
    if head is None:
        require(objective.needs, "the objective makes no head")
        return
    holder: Any = type("Holder", (), {"head": head})
    scores = objective.scores(holder, features, objective.context(holder))
    require(len(scores) == len(index), f"it gives scores {list(scores.shape)} for {len(index)} samples")
    mask = None if data.mask is None else torch.as_tensor(data.mask[index])
    views = {name: _features(len(index), 100 + seed) for seed, name in enumerate(task.inputs)}
    batch = Batch(torch.as_tensor(data.targets[index]), mask, index=index, again=views if objective.views else None)
    value = objective.loss(holder, features, batch)
    back_propagate(value)
    finite = value.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    require(finite, f"the loss on its targets is {value.item()}, or a gradient is not finite")


def _of_pooled_features(subject: TaskSubject) -> Objective:
    """The objective, if made-up pooled features are all that it reads."""
    cls = _objective_of(subject)
    try:
        objective = make_objective(cls, subject.data, subject.task.inputs, pair_of(subject.task))
    except DataError:
        raise unittest.SkipTest("its targets do not fit; see targets_fit_the_objective") from None
    if "tokens" in objective.needs:
        name = subject.task.objective
        raise unittest.SkipTest(f"{name} reads a grid of tokens, which this check does not make")
    return objective


def _features(n: int, seed: int) -> Features:
    pooled = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Features(pooled[:, None], pooled, 0, (1,))


@rule("Name a primary metric that the objective has, and keep at least two classes in the test split.")
def metrics_are_finite(subject: TaskSubject) -> None:
    """On the test split, predictions at random give the primary metric a finite value."""
    objective, data = _of_pooled_features(subject), subject.data
    random = np.random.default_rng(0)

    made = _scores_of_features(subject, objective)

    def guess(index: np.ndarray) -> np.ndarray:
        if made is not None:
            return made(index)
        scores = random.random((len(index), max(1, len(data.classes))))
        return scores / scores.sum(axis=1, keepdims=True) if objective.one_class_each else scores

    groups = np.unique(data.subjects[data.splits["test"]], return_inverse=True)[1]
    predictions = replace(
        objective.predictions(guess, data.splits, groups), objective=objective_name(subject.task.objective)
    )
    statistics = judged(predictions).statistics
    primary = subject.task.primary
    require(primary in statistics, f"primary is {primary!r}, the metrics are {', '.join(sorted(statistics))[:200]}")
    value = value_of(statistics[primary], len(groups))
    require(np.isfinite(value), f"{primary} of the test split is {value}")


def _scores_of_features(subject: TaskSubject, objective: Objective) -> Callable[[np.ndarray], np.ndarray] | None:
    """Scores of a fresh head on made-up features, where they are none of one for each class; else ``None``."""
    features = {name: _features(1, seed) for seed, name in enumerate(subject.task.inputs)}
    head = objective.make_head(features)
    if head is None:
        return None
    holder: Any = type("Holder", (), {"head": head})

    @torch.no_grad()
    def scores(index: np.ndarray) -> np.ndarray:
        made = {name: _features(len(index), seed) for seed, name in enumerate(subject.task.inputs)}
        return objective.scores(holder, made, objective.context(holder)).double().numpy()

    return None if scores(np.arange(1)).shape == (1, max(1, len(subject.data.classes))) else scores


RULES: tuple[Rule[TaskSubject], ...] = (
    api_version_is_spoken,
    options_are_documented,
    options_are_strict,
    the_class_says_what_it_is,
    it_loads,
    no_subject_is_in_two_splits,
    loading_repeats_itself,
    other_content_is_another_fingerprint,
    the_split_seed_defines_the_split,
    targets_fit_the_objective,
    raw_inputs_load,
    nothing_names_a_subject,
    skipped_files_are_counted,
    the_objective_fits,
    metrics_are_finite,
)
