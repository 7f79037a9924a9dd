"""Rules that hold for every task, on one copy of its data."""

from __future__ import annotations

import functools
import json
import re
import unittest
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from pydantic import ValidationError

from medgraft.errors import ConfigError, DataError
from medgraft.features import Features
from medgraft.plugins import refused_version
from medgraft.task import SPLITS, Objective, Task, TaskConfig, TaskData
from medgraft.testing.adapter_declaration import require_documented
from medgraft.testing.check import Rule, require, rule
from medgraft.testing.file_copies import altered_copy, files_read

READ_PER_SPLIT = 3
WIDTH = 6
PROMPTED = ("contrastive", "prompted")
"""Objectives that know classes by their prompts, without a head."""

DENSE = ("segmentation", "detection")
"""Objectives whose targets are masks or boxes; ``targets`` then says which samples have any."""


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
    require(isinstance(config, TaskConfig), f"config is a {type(config).__name__}")
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


@rule("Set inputs, objective, cohort and primary on the class; a contrastive task has two inputs, text the second.")
def the_class_says_what_it_is(subject: TaskSubject) -> None:
    """Inputs, objective and primary metric are declared and fit together."""
    task = subject.task
    for name in ("inputs", "objective", "cohort"):
        require(getattr(task, name, None), f"{name} is not set")
    known = get_args(Objective)
    require(task.objective in known, f"objective is {task.objective!r}, not one of {', '.join(known)}")
    strange = set(task.inputs) - {"image", "volume", "text"}
    require(not strange, f"inputs name {sorted(strange)}")
    paired = len(task.inputs) == 2 and task.inputs[1] == "text"
    require(task.objective != "contrastive" or paired, f"it is contrastive and its inputs are {task.inputs}")


@rule("Mend load(), or pass the folder that it reads.")
def it_loads(subject: TaskSubject) -> None:
    """load() reads the folder, gives the inputs that the class names, and its parts fit together."""
    data = subject.task.load(subject.root)
    require(isinstance(data, TaskData), f"load() returns a {type(data).__name__}")
    subject.data = data  # other checks need not load it again
    require(set(data.inputs) == set(subject.task.inputs), f"it loads {sorted(data.inputs)}, not {subject.task.inputs}")
    lengths = {len(data.targets), len(data.subjects), *(raw.count for raw in data.inputs.values())}
    require(len(lengths) == 1, f"targets, subjects and inputs have lengths {sorted(lengths)}")
    for name in SPLITS:
        index = data.splits.get(name, np.array([], int))
        require(len(index), f"the {name} split is empty")
        require(len(np.unique(index)) == len(index), f"the {name} split names a sample twice")
        require(np.min(index) >= 0 and np.max(index) < len(data.targets), f"the {name} split leaves the samples")


@rule("Split by subject with medgraft.task.subject_split, not by sample.")
def no_subject_is_in_two_splits(subject: TaskSubject) -> None:
    """Splits are disjoint by subject."""
    data = subject.data
    found = {name: set(data.subjects[index]) for name, index in data.splits.items()}
    for i, first in enumerate(found):
        for second in list(found)[i + 1 :]:
            shared = found[first] & found[second]
            require(not shared, f"{len(shared)} subjects are in both the {first} and the {second} split")


@rule("Seed every draw from the configuration, sort what a folder lists, and use no global random state.")
def loading_repeats_itself(subject: TaskSubject) -> None:
    """Two loads give the same splits, targets and fingerprints, whatever the global random state."""
    first = subject.data
    state = np.random.get_state()
    try:
        np.random.seed(12345)
        torch.manual_seed(12345)
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
    "fingerprint=medgraft.benchmarks.content.file_facts(paths, root).",
    each=True,
)
def other_content_is_another_fingerprint(subject: TaskSubject, case: str) -> None:
    """A copy of the folder with other bytes in files of the same names, sizes and dates has other fingerprints."""
    raw, train = subject.data.inputs[case], subject.data.splits["train"]
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
    hashed, own = subject.data.split_hash(), getattr(subject.task.config, "split_seed")  # noqa: B009  the plugin's own
    others = [subject.build(split_seed=own + k).load(subject.root) for k in (1, 2, 3)]
    require(any(other.split_hash() != hashed for other in others), "split_seed changes no split")
    subjects = set(subject.data.subjects.tolist())
    require(all(set(o.subjects.tolist()) == subjects for o in others), "split_seed changes the subjects")


@rule("Give int64 class indices below len(classes), or float32 labels 0 and 1, one column per class.")
def targets_are_within_classes(subject: TaskSubject) -> None:
    """Every target that counts is one of the classes."""
    data, objective = subject.data, subject.task.objective
    K = len(data.classes)
    require((1 if objective in DENSE else 2) <= K and len(set(data.classes)) == K, f"classes are {data.classes}")
    if objective in PROMPTED:
        prompts = data.prompts or ()
        require(len(prompts) == K and all(prompts), f"there are prompts for {len(prompts)} of {K} classes")
    if objective in DENSE:
        require(np.isin(data.targets, (0, 1)).all(), "targets that say whether there is a region are not 0 and 1")
        return
    if objective == "multilabel" or (objective == "contrastive" and data.targets.ndim == 2):
        require(data.targets.shape[1:] == (K,), f"targets have shape {data.targets.shape}, classes are {K}")
        counted = data.targets if data.mask is None else data.targets[data.mask.astype(bool)]
        require(np.isin(counted, (0, 1)).all(), "labels that count hold other values than 0 and 1")
        return
    require(data.targets.ndim == 1, f"targets have shape {data.targets.shape}, not [n]")
    for name, index in data.splits.items():
        lowest = -1 if objective == "contrastive" and name != "test" else 0
        values = data.targets[index]
        require((values >= lowest).all() and (values < K).all(), f"the {name} split has targets beyond {K} classes")


@rule(
    "Return image uint8 [H, W], volume float32 [D, H, W] or a text from read(); raise DataError for a bad file.",
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
    if modality == "text":
        if not isinstance(sample, str):
            return f"is {type(sample).__name__}, not a text"
        return "" if empty or sample.strip() else "is an empty text"
    kind, rank = (np.uint8, 2) if modality == "image" else (np.float32, 3)
    if not isinstance(sample, np.ndarray) or sample.dtype != kind or sample.ndim != rank:
        return f"is {getattr(sample, 'dtype', type(sample).__name__)} of shape {getattr(sample, 'shape', '')}"
    return "" if np.isfinite(sample).all() else "holds values that are not finite"


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
        found = keys & words
        require(not found, f"{where} holds the keys of {len(found)} subjects")
        require(str(subject.root) not in text, f"{where} holds the folder of the cohort")


@rule("Put the reader's report in provenance['reader']: used, and skipped by reason.")
def skipped_files_are_counted(subject: TaskSubject) -> None:
    """Provenance says how many files the reader used and how many it skipped, by reason."""
    reports = list(_reports(subject.data.provenance.get("reader", {})))
    require(reports, "provenance['reader'] holds no report with 'used' and 'skipped'")
    for report in reports:
        require(isinstance(report["used"], int), f"'used' is {report['used']!r}")
        counts = report["skipped"].values() if isinstance(report["skipped"], Mapping) else [report["skipped"]]
        require(all(isinstance(count, int) and count >= 0 for count in counts), f"'skipped' is {report['skipped']!r}")
    total = sum(report["used"] for report in reports)
    require(total > 0, "the reader used no file")


def _reports(found: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(found, Mapping) and "used" in found and "skipped" in found:
        yield found
    elif isinstance(found, Mapping):
        for inner in found.values():
            yield from _reports(inner)


@rule("Choose the objective that fits targets and classes.")
def the_objective_fits(subject: TaskSubject) -> None:
    """The objective builds a head for the classes and gives a finite loss and gradient on the task's targets."""
    from medgraft.benchmarks.objectives import Batch, joined, make_objective

    task, data = subject.task, subject.data
    _skip_dense(task)
    objective = make_objective(task.objective, data, task.inputs)
    index = data.splits["train"][:8]
    made = {name: _features(len(index), seed) for seed, name in enumerate(task.inputs)}
    head = objective.make_head(made)
    if head is None:
        require(task.objective in PROMPTED, "the objective makes no head")
        return
    logits = head(joined(made, task.inputs))
    require(logits.shape == (len(index), len(data.classes)), f"the head gives {list(logits.shape)}")
    mask = None if data.mask is None else torch.as_tensor(data.mask[index])
    batch = Batch(torch.as_tensor(data.targets[index]), mask, index=index)
    holder: Any = type("Holder", (), {"head": head})
    value = objective.loss(holder, made, batch)
    value.backward()
    finite = value.isfinite() and all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    require(finite, f"the loss on its targets is {value.item()}, or a gradient is not finite")


def _skip_dense(task: Task) -> None:
    if task.objective in DENSE:
        raise unittest.SkipTest(f"{task.objective} reads a grid of tokens, which this check does not make")


def _features(n: int, seed: int) -> Features:
    pooled = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))
    return Features(pooled[:, None], pooled, 0, (1,))


@rule("Name a primary metric that the objective has, and keep at least two classes in the test split.")
def metrics_are_finite(subject: TaskSubject) -> None:
    """On the test split, predictions at random give the primary metric a finite value."""
    from medgraft.benchmarks.metrics import Predictions, evaluate

    data = subject.data
    _skip_dense(subject.task)
    test = data.splits["test"]
    K = len(data.classes)
    scores = np.random.default_rng(0).random((len(test), K))
    if data.targets.ndim == 1:
        scores /= scores.sum(axis=1, keepdims=True)
    groups = np.unique(data.subjects[test], return_inverse=True)[1]
    mask = None if data.mask is None else data.mask[test]
    thresholds = np.full(K, 0.5) if data.targets.ndim == 2 else None
    found = evaluate(Predictions(scores, data.targets[test], groups, data.classes, mask, thresholds), resamples=0)
    primary = subject.task.primary
    require(primary in found, f"primary is {primary!r}, the metrics are {', '.join(sorted(found))[:200]}")
    value = found[primary].value
    require(value is not None and np.isfinite(value), f"{primary} of the test split is {value}")


RULES: tuple[Rule, ...] = (
    api_version_is_spoken,
    options_are_documented,
    options_are_strict,
    the_class_says_what_it_is,
    it_loads,
    no_subject_is_in_two_splits,
    loading_repeats_itself,
    other_content_is_another_fingerprint,
    the_split_seed_defines_the_split,
    targets_are_within_classes,
    raw_inputs_load,
    nothing_names_a_subject,
    skipped_files_are_counted,
    the_objective_fits,
    metrics_are_finite,
)
