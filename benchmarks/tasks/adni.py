"""Diagnosis and prognosis on ADNI from the T1 volume, from a note composed of the clinical tables, or from both.

Three-way (cognitively normal, mild cognitive impairment, Alzheimer's disease), any pair of these, and conversion: who
of those with mild cognitive impairment has Alzheimer's disease within a horizon. Splits are by subject, see
:mod:`medgraft.benchmarks.tasks.adni_splits`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from medgraft.benchmarks.cohorts.adni.conversion import CONVERSION, conversion_labels
from medgraft.benchmarks.cohorts.adni.reader import AdniTable, load_spaced, read_adni
from medgraft.benchmarks.cohorts.tables.clinical_text import TEXT_FIELDS, TextPolicy, compose_text, fields_in
from medgraft.benchmarks.cohorts.tables.tabular import table_baselines
from medgraft.benchmarks.cohorts.volumes.load import VOLUMES_VERSION
from medgraft.benchmarks.tasks.adni_splits import describe_sites, first_visits_only, site_split, strata_of
from medgraft.errors import DataError
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.options import Seed
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, Variant, subject_split

DIAGNOSES = ("CN", "MCI", "AD")
Contrast = Literal["CN-MCI-AD", "CN-AD", "CN-MCI", "MCI-AD"]
WITHOUT_TEXT = "no field for the note"


class AdniConfig(TaskConfig):
    """Options of every ADNI task.

    Attributes:
        text_policy: Which fields the clinical note may use; none of them ever holds the diagnosis.
            ``without_criteria`` leaves out MMSE and CDR, which define it; ``cognitive`` has MMSE, ``full`` both.
        train_visits: ``all`` visits of the training subjects, or their first one only.
        variants: ``all`` lets training see every processed variant of a scan (MPR, GradWarp, B1, N3, Scaled) of a
            LONI download; validation and test hold the preferred one in either case.
        split: ``subject``, or ``site`` to hold whole sites out for the test.
        held_out_sites: The test sites of ``split: site``, by their number in the tables; drawn where none is named.
        stratify: Columns whose mixture the splits share.
        test_fraction: Share of subjects in the test split.
        val_fraction: Share of subjects in the validation split.
        split_seed: Defines the split, for all seeds of a sweep.
    """

    text_policy: TextPolicy = "cognitive"
    train_visits: Literal["all", "baseline"] = "all"
    variants: Literal["preferred", "all"] = "preferred"
    split: Literal["subject", "site"] = "subject"
    held_out_sites: tuple[str, ...] = ()
    stratify: tuple[Literal["dx", "sex", "site", "field_strength"], ...] = ("dx",)
    test_fraction: float = Field(0.3, gt=0, lt=1)
    val_fraction: float = Field(0.1, gt=0, lt=1)
    split_seed: Seed = 0

    @model_validator(mode="after")
    def _some_train(self) -> AdniConfig:
        if self.test_fraction + self.val_fraction >= 1:
            raise ValueError("test_fraction and val_fraction leave no subject for training")
        if self.held_out_sites and self.split != "site":
            raise ValueError("held_out_sites needs split: site")
        return self


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


ATTRIBUTES = ("sex", "age", "site", "field_strength")
"""Columns by groups of which results tell the primary metric."""


class AdniTask(Task):
    """Base of the ADNI tasks; subclasses say which inputs a sample has and what its target is."""

    objective = "multiclass"
    cohort = "adni"
    Config: ClassVar[type[TaskConfig]] = AdniConfig
    config: AdniConfig

    def label(self, table: AdniTable) -> tuple[pd.Series, tuple[str, ...]]:
        """A word per row of the table, and the classes; rows with another word are left out and counted by it."""
        raise TypeError(f"{type(self).__name__} must implement label()")

    def outcome(self, table: AdniTable) -> Outcome:
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
        """Reads a LONI or BIDS copy.

        Raises:
            DataError: The folder holds no ADNI, or nobody whom the task asks for.
        """
        table = read_adni(root, variants=self.config.variants == "all")
        outcome = self.outcome(table)
        left_out = Counter(outcome.words[~outcome.used])
        frame = pd.DataFrame(table.frame[outcome.used]).reset_index(drop=True)
        splits = self._splits(frame, np.array(outcome.words[outcome.used], str))
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
            attributes={name: frame[name].to_numpy(object) for name in ATTRIBUTES if name in frame},
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

    def _splits(self, frame: pd.DataFrame, words: np.ndarray) -> dict[str, np.ndarray]:
        config = self.config
        fractions = {
            "train": 1 - config.test_fraction - config.val_fraction,
            "val": config.val_fraction,
            "test": config.test_fraction,
        }
        strata = strata_of(frame.assign(dx=words), config.stratify)
        if config.split == "site":
            splits = site_split(frame, strata, fractions, config.split_seed, config.held_out_sites)
        else:
            splits = subject_split(frame["subject"].to_numpy(str), strata, fractions, config.split_seed)
        return first_visits_only(frame, splits, training_too=config.train_visits == "baseline")

    def _raw(self, modality: str, frame: pd.DataFrame, root: Path) -> RawInputs:
        if modality == "text":
            notes = [compose_text(row, self.config.text_policy) for row in frame.to_dict("records")]
            digest = hashlib.sha256("\n".join(notes).encode()).hexdigest()
            return RawInputs(notes.__getitem__, len(notes), digest)
        paths = [str(path) for path in frame["image"]]
        facts = f"{file_facts(paths, root)}|{reading_facts(VOLUMES_VERSION)}"
        return RawInputs(lambda i: load_spaced(paths[i]), len(paths), facts)

    def provenance(
        self, table: AdniTable, frame: pd.DataFrame, targets: np.ndarray, splits: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """What a result says about the data (rows ``used``, ``bool [n]``); no identifiers."""
        report = table.report
        facts: dict[str, Any] = {
            "layout": table.layout,
            "generator": table.generator,
            "reader": {"used": report.used, "skipped": dict(report.skipped), "notes": dict(report.notes)},
            "dx_source": {str(k): int(v) for k, v in frame["dx_source"].value_counts().items()},
            "split_by": self.config.split,
            "sites": describe_sites(frame, splits),
        }
        if "text" in self.inputs:
            held = Counter(name for row in frame.to_dict("records") for name in fields_in(row, self.config.text_policy))
            facts["text_policy"] = self.config.text_policy
            facts["text_fields"] = [name for name in TEXT_FIELDS[self.config.text_policy] if held[name]]
            facts["texts_with_field"] = {name: held[name] for name in facts["text_fields"]}
        return facts


class AdniDiagnosis(AdniTask):
    """Diagnosis at the visit."""

    class Config(AdniConfig):
        """Options.

        Attributes:
            contrast: The diagnoses to be told apart; visits with another one are left out and counted.
        """

        contrast: Contrast = "CN-MCI-AD"

    @property
    def contrast(self) -> str:
        """The diagnoses that are told apart, joined by ``-``."""
        assert isinstance(self.config, AdniDiagnosis.Config)
        return self.config.contrast

    def label(self, table: AdniTable) -> tuple[pd.Series, tuple[str, ...]]:
        """The visit's diagnosis."""
        return pd.Series(table.frame["dx"], dtype=object), tuple(self.contrast.split("-"))

    def provenance(
        self, table: AdniTable, frame: pd.DataFrame, targets: np.ndarray, splits: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See :meth:`AdniTask.provenance`; with a phantom's best reachable score, known for three classes."""
        facts = super().provenance(table, frame, targets, splits)
        if table.bayes and self.contrast == "CN-MCI-AD":
            key = "both" if len(self.inputs) > 1 else ("text" if self.inputs == ("text",) else "image")
            facts["bayes_f1_macro"] = table.bayes[key]
        return facts


class AdniImage(AdniDiagnosis):
    """Diagnosis from the T1 volume; any two of the three, and a control without a domain gap, as variants."""

    inputs = ("volume",)
    variants: ClassVar[Mapping[str, Variant]] = {
        "ad_cn": Variant(defaults={"contrast": "CN-AD"}),
        "mci_cn": Variant(defaults={"contrast": "CN-MCI"}),
        "ad_mci": Variant(defaults={"contrast": "MCI-AD"}),
        "nogap": Variant(cohort="adni_nogap"),
    }


class AdniText(AdniDiagnosis):
    """Diagnosis from a note composed of the clinical tables."""

    inputs = ("text",)


class AdniImageText(AdniDiagnosis):
    """Diagnosis from volume and note."""

    inputs = ("volume", "text")


class AdniConversion(AdniTask):
    """Stable or progressive: who of those with mild cognitive impairment has Alzheimer's disease within the horizon.

    Labels by the rules of :mod:`medgraft.benchmarks.cohorts.adni.conversion`. Every result holds what the tables alone
    predict on the same test subjects (``data.table_baselines``): age and sex, APOE, cognition, hippocampal volume.
    """

    inputs = ("volume",)
    cohort = "adni_visits"
    primary = "auc_macro"
    variants: ClassVar[Mapping[str, Variant]] = {
        "text": Variant(inputs=("text",)),
        "image_text": Variant(inputs=("volume", "text")),
    }

    class Config(AdniConfig):
        """Options.

        Attributes:
            horizon: Months to look ahead; 24, 36 and 60 are published.
        """

        horizon: int = Field(36, ge=6, le=240)

    @property
    def horizon(self) -> int:
        """Months to look ahead."""
        assert isinstance(self.config, AdniConversion.Config)
        return self.config.horizon

    def label(self, table: AdniTable) -> tuple[pd.Series, tuple[str, ...]]:
        """The outcome of every visit with mild cognitive impairment."""
        return conversion_labels(table.frame, table.visits, self.horizon), CONVERSION

    def provenance(
        self, table: AdniTable, frame: pd.DataFrame, targets: np.ndarray, splits: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See :meth:`AdniTask.provenance`; with the numbers of the tabular baselines."""
        facts = super().provenance(table, frame, targets, splits)
        return facts | {
            "horizon_months": self.horizon,
            "table_baselines": table_baselines(frame, targets, splits, CONVERSION),
        }
