"""Base of tasks on a table of visits with a T1 volume and clinical facts each, such as ADNI's or OASIS's.

A sample is a visit's volume, a note composed of its clinical facts, or both. Splits are by subject; validation and test
hold first visits only, see :mod:`medgraft.benchmarks.tasks.brain.visit_splits`. Tasks of two cohorts with the same
inputs and classes are alike to a model: the notes are in the same words, the classes in the same order.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.tables.clinical_text import TEXT_FIELDS, TextPolicy, compose_text, fields_in
from medgraft.benchmarks.cohorts.tables.visit_table import VisitTable
from medgraft.benchmarks.cohorts.volumes.load import VOLUMES_VERSION, load_spaced, parts_of
from medgraft.benchmarks.tasks.brain.visit_splits import first_visits_only, strata_of
from medgraft.benchmarks.tasks.splits import SplitConfig
from medgraft.errors import DataError
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, subject_split

Contrast = Literal["CN-MCI-AD", "CN-AD", "CN-MCI", "MCI-AD"]
WITHOUT_TEXT = "no field for the note"


class VisitConfig(SplitConfig):
    """Options of every task on visits.

    Attributes:
        text_policy: Which fields the clinical note may use; none of them ever holds the label itself.
            ``without_criteria`` leaves out MMSE and CDR, which define it; ``cognitive`` has MMSE, ``full`` both.
        train_visits: ``all`` visits of the training subjects, or their first one only.
    """

    text_policy: TextPolicy = "cognitive"
    train_visits: Literal["all", "baseline"] = "all"


class ContrastConfig(VisitConfig):
    """Options of a diagnosis.

    Attributes:
        contrast: The diagnoses to be told apart; visits with another one are left out and counted.
    """

    contrast: Contrast = "CN-MCI-AD"


@dataclass(frozen=True)
class Outcome:
    """What a task asks of the rows of a table.

    Attributes:
        words: A word for each row ``[n]``: the stratum of a row that is used, the reason of one that is left out.
        used: ``bool [n]``.
        targets: ``[m]`` of the rows that are used.
        classes: Names, where targets are numbers of classes.
        columns: Further facts ``[m]`` of the rows that are used.
        horizons: Times at which predictions of time are judged.
    """

    words: pd.Series
    used: np.ndarray
    targets: np.ndarray
    classes: tuple[str, ...] = ()
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    horizons: tuple[float, ...] = ()


class VisitTask(Task):
    """Base of tasks on visits; subclasses read a table, and say which inputs a sample has and what its target is.

    Attributes:
        attributes: Columns by groups of which results tell the primary metric.
        analyze: Whether volumes may be pairs of Analyze 7.5, which do not say left from right; see
            :func:`~medgraft.benchmarks.cohorts.volumes.load.load_volume`.
    """

    objective = "multiclass"
    Config: ClassVar[type[TaskConfig]] = VisitConfig
    config: VisitConfig
    attributes: ClassVar[tuple[str, ...]] = ("sex", "age", "site", "field_strength")
    analyze: ClassVar[bool] = False

    def read(self, root: Path) -> VisitTable:
        """The cohort's table.

        Raises:
            DataError: The folder is no copy of the cohort.
        """
        raise TypeError(f"{type(self).__name__} must implement read()")

    def label(self, table: VisitTable) -> tuple[pd.Series, tuple[str, ...]]:
        """A word per row of the table, and the classes; rows with another word are left out and counted by it."""
        raise TypeError(f"{type(self).__name__} must implement label()")

    def outcome(self, table: VisitTable) -> Outcome:
        """Classes of the rows, from :meth:`label`.

        Raises:
            DataError: No row is of some class.
        """
        words, classes = self.label(table)
        used = words.isin(classes).to_numpy(bool)
        targets = np.array([classes.index(word) for word in words[used]], dtype=np.int64)
        self._check_classes(classes, targets, Counter(words[~used]))
        return Outcome(words, used, targets, classes)

    def load(self, root: Path) -> TaskData:
        """Reads a copy, in any layout that the cohort's reader knows.

        Raises:
            DataError: The folder does not hold the cohort, or nobody whom the task asks for.
        """
        table = self.read(root)
        outcome = self.outcome(table)
        left_out = Counter(outcome.words[~outcome.used])
        frame = pd.DataFrame(table.frame[outcome.used]).reset_index(drop=True)
        splits = first_visits_only(
            frame,
            self.split(frame, np.array(outcome.words[outcome.used], str)),
            training_too=self.config.train_visits == "baseline",
        )
        if "text" in self.inputs:  # after the split, which is one for all inputs
            has_text = np.array([bool(fields_in(row, self.config.text_policy)) for row in frame.to_dict("records")])
            left_out += Counter({WITHOUT_TEXT: int((~has_text).sum())})
            splits = {name: index[has_text[index]] for name, index in splits.items()}
        return TaskData(
            inputs={name: self._raw(name, frame, root) for name in self.inputs},
            targets=outcome.targets,
            subjects=frame["subject"].to_numpy(str),
            splits=splits,
            classes=outcome.classes,
            columns=outcome.columns,
            attributes={name: frame[name].to_numpy(object) for name in self.attributes if name in frame},
            horizons=outcome.horizons,
            phantom=table.phantom,
            provenance={
                **self.provenance(table, frame, outcome.targets, splits),
                "left_out": {str(word): int(n) for word, n in left_out.items()},
            },
        )

    def _check_classes(self, classes: tuple[str, ...], targets: np.ndarray, left_out: Counter[Any]) -> None:
        counts = {name: int((targets == k).sum()) for k, name in enumerate(classes)}
        if not all(counts.values()):
            numbers = ", ".join(f"{n} {name}" for name, n in [*counts.items(), *left_out.items()])
            raise DataError(f"the task tells {' from '.join(classes)}, and the cohort has only: {numbers}")

    def split(self, frame: pd.DataFrame, words: np.ndarray) -> dict[str, np.ndarray]:
        """Rows ``[m]`` of each split, by subject, stratified by the words ``[n]`` of the outcome."""
        strata = strata_of(frame.assign(dx=words), ("dx",))
        return subject_split(frame["subject"].to_numpy(str), strata, self.config.fractions, self.config.split_seed)

    def _raw(self, modality: str, frame: pd.DataFrame, root: Path) -> RawInputs:
        if modality == "text":
            notes = [compose_text(row, self.config.text_policy) for row in frame.to_dict("records")]
            digest = hashlib.sha256("\n".join(notes).encode()).hexdigest()
            return RawInputs(notes.__getitem__, len(notes), digest)
        paths = [str(path) for path in frame["image"]]
        files = [str(part) for path in paths for part in dict.fromkeys(parts_of(Path(path)))]
        facts = f"{file_facts(files, root)}|{reading_facts(VOLUMES_VERSION)}"
        return RawInputs(lambda i: load_spaced(paths[i], analyze=self.analyze), len(paths), facts)

    def provenance(
        self, table: VisitTable, frame: pd.DataFrame, targets: np.ndarray, splits: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """What a result says about the data (rows ``used``, ``bool [n]``); no identifiers."""
        report = table.report
        facts: dict[str, Any] = {
            "layout": table.layout,
            "generator": table.generator,
            "reader": {"used": report.used, "skipped": dict(report.skipped), "notes": dict(report.notes)},
            "dx_source": {str(k): int(v) for k, v in frame["dx_source"].value_counts().items()},
            "split_by": "subject",
        }
        if "text" in self.inputs:
            held = Counter(name for row in frame.to_dict("records") for name in fields_in(row, self.config.text_policy))
            facts["text_policy"] = self.config.text_policy
            facts["text_fields"] = [name for name in TEXT_FIELDS[self.config.text_policy] if held[name]]
            facts["texts_with_field"] = {name: held[name] for name in facts["text_fields"]}
        return facts


class DiagnosisTask(VisitTask):
    """Diagnosis at the visit, as the table's column ``dx`` has it."""

    Config: ClassVar[type[TaskConfig]] = ContrastConfig

    @property
    def contrast(self) -> str:
        """The diagnoses that are told apart, joined by ``-``."""
        assert isinstance(self.config, ContrastConfig)
        return self.config.contrast

    def label(self, table: VisitTable) -> tuple[pd.Series, tuple[str, ...]]:
        """The visit's diagnosis."""
        return pd.Series(table.frame["dx"], dtype=object), tuple(self.contrast.split("-"))

    def provenance(
        self, table: VisitTable, frame: pd.DataFrame, targets: np.ndarray, splits: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See :meth:`VisitTask.provenance`; with a phantom's best reachable score, known for three classes."""
        facts = super().provenance(table, frame, targets, splits)
        if table.bayes and self.contrast == "CN-MCI-AD":
            key = "both" if len(self.inputs) > 1 else ("text" if self.inputs == ("text",) else "image")
            facts["bayes_f1_macro"] = table.bayes[key]
        return facts
