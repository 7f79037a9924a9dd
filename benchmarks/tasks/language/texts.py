"""What the tasks of texts share: samples, what is left out of them and counted, splits, and the columns of their data.

A task reads its cohort into :class:`TextSample` rows and hands them through three functions::

    samples = usable(samples, table.report, config, "reports")  # empty, boilerplate, not English, twice: counted
    samples, splits = official(samples, table.report, config)   # or: samples, splits = shares(samples, config)
    return text_data(samples, splits, config, inputs={"image": radiographs([s.source for s in samples], root)}, ...)

``report`` is the reader's :class:`~medgraft.benchmarks.cohorts.tables.reading.ReadReport`, so that what was left out
stands with the rest in a result's provenance; the options are :class:`TextConfig` and what derives from it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.benchmarks.tasks.language.usable import EMPTY, FOREIGN, Language, fault_of
from medgraft.benchmarks.tasks.splits import SplitConfig
from medgraft.benchmarks.texts.preferences import feedback_columns
from medgraft.errors import DataError
from medgraft.options import Seed
from medgraft.task import RawInputs, TaskData, subject_split
from medgraft.task.text_options import TextTaskConfig

LETTERS = "ABCDEFGHIJ"
"""Letters of choices."""


@dataclass(frozen=True)
class TextSample:
    """One text about one image or volume.

    Attributes:
        source: The image or volume, as the task knows it: an absolute path, or a key of its own.
        subject: Key of the person, or of what stands for one, such as a case; never stored.
        prompt: What the language model is asked.
        reference: The right text; of a choice ``"B. left lung"``.
        split: ``train``, ``val`` or ``test`` where the data say so, else empty.
        kind: ``closed`` or ``open`` and the question's type, ``"closed:plane"``; empty for reports.
        choices: Texts of the options, without letters; empty where there are none.
        answer: Letter of the right option; empty where there are none.
        truth: The statements that hold, as JSON of :mod:`medgraft.benchmarks.metrics.texts.statements`; empty where
            nobody knows them.
    """

    source: str
    subject: str
    prompt: str
    reference: str
    split: str = ""
    kind: str = ""
    choices: tuple[str, ...] = ()
    answer: str = ""
    truth: str = ""


class TextConfig(TextTaskConfig):
    """Options of every task of texts, with those of :class:`medgraft.task.text_options.CounterMeasures`.

    Attributes:
        limit: Tokens of a generated text at most.
        beams: Beams of the search; 1 is greedy.
        language: ``en`` leaves texts out that are not English, ``any`` keeps them.
    """

    limit: int = Field(96, ge=1, le=4096)
    beams: int = Field(1, ge=1, le=16)
    language: Language = "en"


class OfficialConfig(TextConfig):
    """Options where the data name their test split; patients of training become validation where they name none.

    Attributes:
        val_fraction: Share of the training patients left for validation, where the data have no validation split.
        split_seed: Defines that share, for all seeds of a sweep.
    """

    val_fraction: float = Field(0.1, gt=0, lt=1)
    split_seed: Seed = 0


class SharesConfig(TextConfig, SplitConfig):
    """Options where the data name no splits; those of :class:`SplitConfig` with a smaller test split."""

    test_fraction: float = Field(0.2, gt=0, lt=1)


def one_line(text: object) -> str:
    """A text without line breaks and repeated blanks; empty of ``None`` and NaN."""
    return "" if text is None or text != text else " ".join(str(text).split())


def multiple_choice(question: str, choices: Sequence[str], right: int) -> dict[str, Any]:
    """Prompt, reference, choices and answer of a question with options, as fields of :class:`TextSample`.

    Example:
        >>> asked = multiple_choice("Which side?", ["left", "right"], 1)
        >>> asked["prompt"], asked["reference"], asked["answer"]
        ('Which side? Choices: A. left B. right', 'B. right', 'B')

    Raises:
        DataError: There are fewer than two options, more than letters, or no right one.
    """
    if not 2 <= len(choices) <= len(LETTERS) or not 0 <= right < len(choices):
        raise DataError(
            f"{question!r} has {len(choices)} options, the right one at {right}; 2 to {len(LETTERS)} can be"
        )
    options = " ".join(f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False))
    return {
        "prompt": f"{question} Choices: {options}",
        "reference": f"{LETTERS[right]}. {choices[right]}",
        "choices": tuple(choices),
        "answer": LETTERS[right],
    }


def usable(
    samples: Sequence[TextSample], report: ReadReport, config: TextConfig, what: Literal["reports", "answers"]
) -> list[TextSample]:
    """The samples whose texts can be learned from; the others are counted by reason in ``report``.

    Left out are empty texts, samples that say again what another one says, reports that are only boilerplate, and with
    ``language: en`` reports, or questions, that are not English.

    Args:
        samples: All of them.
        report: Where those left out are counted.
        config: The task's options.
        what: Whether the right texts are reports, or answers of a few words, of which only emptiness can be told.

    Raises:
        DataError: No sample is left; says why, and what to do where the texts are in another language.
    """
    kept, faults, seen = [], Counter[str](), set[tuple[str, ...]]()
    for sample in samples:
        sample = replace(sample, prompt=one_line(sample.prompt), reference=one_line(sample.reference))
        said = sample.source, sample.prompt, sample.reference, sample.split
        if what == "reports":
            fault = fault_of(sample.reference, config.language)
        else:
            fault = EMPTY if not (sample.reference and sample.prompt) else fault_of(sample.prompt, "any")
            fault = fault or (FOREIGN if config.language == "en" and fault_of(sample.prompt, "en") else "")
        fault = fault or ("said twice" if said in seen else "")
        if fault:
            faults[fault] += 1
            continue
        seen.add(said)
        kept.append(sample)
    for fault, count in faults.items():
        report.skip(fault, count=count)
    if not kept:
        reasons = ", ".join(f"{fault}: {count}" for fault, count in faults.most_common())
        remedy = "; set language: any to keep texts in other languages" if faults[FOREIGN] else ""
        raise DataError(f"none of {len(samples)} texts can be learned from ({reasons or 'there is none'}){remedy}")
    report.used = len(kept)
    return kept


def official(
    samples: Sequence[TextSample], report: ReadReport, config: OfficialConfig | SharesConfig
) -> tuple[list[TextSample], dict[str, np.ndarray]]:
    """Samples in the splits that the data name, and the splits' numbers of samples ``[m]``.

    A person who is tested is never trained on: samples of a subject that a later split has too are left out of the
    earlier one and counted. Where no sample is for validation, training patients are, by ``config.val_fraction``.

    Raises:
        DataError: A sample has no split, or training or test has none.
    """
    rank = {"train": 0, "val": 1, "test": 2}
    if strange := sorted({sample.split for sample in samples} - set(rank)):
        raise DataError(f"samples are in the splits {', '.join(map(repr, strange))}; known are train, val and test")
    last: dict[str, int] = {}
    for sample in samples:
        last[sample.subject] = max(last.get(sample.subject, 0), rank[sample.split])
    kept = [sample for sample in samples if rank[sample.split] == last[sample.subject]]
    if len(kept) < len(samples):
        report.skip("subject of a later split", count=len(samples) - len(kept))
    report.used = len(kept)
    where = np.array([sample.split for sample in kept], str)
    splits = {name: np.flatnonzero(where == name) for name in rank}
    if not len(splits["train"]) or not len(splits["test"]):
        counts = {name: len(index) for name, index in splits.items()}
        raise DataError(f"the data's own splits have {counts} samples with usable texts; train and test need some")
    if not len(splits["val"]):
        subjects = np.array([kept[i].subject for i in splits["train"]], str)
        parts = {"train": 1 - config.val_fraction, "val": config.val_fraction}
        held = subject_split(subjects, np.zeros(len(subjects)), parts, config.split_seed)
        splits["train"], splits["val"] = splits["train"][held["train"]], splits["train"][held["val"]]
    return kept, splits


def shares(samples: Sequence[TextSample], config: SharesConfig) -> tuple[list[TextSample], dict[str, np.ndarray]]:
    """The samples, and their numbers ``[m]`` in each split, drawn by subject."""
    subjects = np.array([sample.subject for sample in samples], str)
    return list(samples), subject_split(subjects, np.zeros(len(subjects)), config.fractions, config.split_seed)


def columns_of(samples: Sequence[TextSample]) -> dict[str, np.ndarray]:
    """The columns ``[n]`` that the objective and the metrics read, as texts.

    ``prompt`` and ``reference`` always; ``truth`` where that of every sample is known; ``kind``, ``choices`` (JSON) and
    ``answer`` where the samples are questions.
    """

    def column(values: Sequence[str]) -> np.ndarray:
        return np.array(values, object)  # not of one width, which the longest report would set for all

    columns = {
        "prompt": column([sample.prompt for sample in samples]),
        "reference": column([sample.reference for sample in samples]),
    }
    if samples and all(sample.truth for sample in samples):
        columns["truth"] = column([sample.truth for sample in samples])
    if any(sample.kind for sample in samples):
        columns["kind"] = column([sample.kind for sample in samples])
        columns["choices"] = column([json.dumps(sample.choices) if sample.choices else "" for sample in samples])
        columns["answer"] = column([sample.answer for sample in samples])
    return columns


def text_data(
    samples: Sequence[TextSample],
    splits: Mapping[str, np.ndarray],
    config: TextConfig,
    *,
    inputs: Mapping[str, RawInputs],
    phantom: bool,
    provenance: dict[str, Any],
    root: Path | None = None,
    given_test: bool = False,
    attributes: Mapping[str, np.ndarray] | None = None,
) -> TaskData:
    """The task's data.

    Args:
        samples: ``n`` of them.
        splits: Split -> numbers of samples, ``[m]`` each.
        config: The task's options.
        inputs: Images or volumes, one for each sample.
        phantom: See :class:`~medgraft.task.TaskData`, as what follows.
        provenance: What a result records; no identifiers.
        root: Folder of the data, in which a table of feedback may lie; ``None`` where a task takes none.
        given_test: The data name their test split.
        attributes: Facts by whose groups metrics are told.
    """
    columns = columns_of(samples) | feedback_columns(config.feedback, root, [name_of(each, root) for each in samples])
    kinds = Counter(sample.kind for sample in samples if sample.kind)
    asked, questions = questions_asked([sample.kind for sample in samples], splits["train"])
    return TaskData(
        inputs=inputs,
        targets=np.zeros(len(samples), np.int64),
        subjects=np.array([sample.subject for sample in samples], str),
        splits=splits,
        classes=(),
        asked=asked,
        questions=questions,
        columns=columns,
        decoding={"limit": config.limit, "beams": config.beams},
        countermeasures=config.countermeasures(),
        attributes=attributes or {},
        given_test=given_test,
        phantom=phantom,
        provenance={**provenance, **({"samples_per_kind": dict(sorted(kinds.items()))} if kinds else {})},
        also_read=(digest_of(samples),),
    )


def questions_asked(kinds: Sequence[str], train: np.ndarray) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Which question each sample asks, by its kind, for adapters that tell questions apart in training.

    Kinds that no training sample has count with the rarest that one has, as ``other``: nobody could learn them.

    Args:
        kinds: Of ``n`` samples; empty for reports.
        train: Numbers of the training samples, ``[m]``.

    Returns:
        ``int64 [n]`` and the names of the questions, by the alphabet; ``None`` and no names where all ask the same.

    Example:
        >>> asked, names = questions_asked(["open:side", "closed:size", "open:side", "open:age"], np.arange(3))
        >>> asked.tolist(), names
        ([0, 1, 0, 1], ('open:side', 'other'))
    """
    kinds = [kind or "report" for kind in kinds]
    trained = Counter(kinds[i] for i in train)
    if missing := set(kinds) - set(trained):
        rarest = min(trained, key=lambda kind: (trained[kind], kind), default="")
        kinds = ["other" if kind in missing or kind == rarest else kind for kind in kinds]
    names = tuple(sorted(set(kinds)))
    if len(names) < 2:
        return None, ()
    return np.array([names.index(kind) for kind in kinds], np.int64), names


def name_of(sample: TextSample, root: Path | None) -> str:
    """By which a table of feedback names a sample: its file's path in the folder of the data, or the task's own key."""
    path = Path(sample.source)
    return path.relative_to(root).as_posix() if root is not None and path.is_relative_to(root) else sample.source


def digest_of(samples: Sequence[TextSample]) -> str:
    """Digest of the texts, which no table may hold: results on other texts are other results."""
    digest = hashlib.sha256()
    for sample in samples:
        for text in (sample.prompt, sample.reference, sample.split, sample.truth):
            digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
