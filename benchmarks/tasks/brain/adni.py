"""Diagnosis and prognosis on ADNI from the T1 volume, from a note composed of the clinical tables, or from both.

Three-way (cognitively normal, mild cognitive impairment, Alzheimer's disease), any pair of these, and conversion: who
of those with mild cognitive impairment has Alzheimer's disease within a horizon. Splits are by subject, see
:mod:`medgraft.benchmarks.tasks.brain.visit_splits`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from medgraft.benchmarks.cohorts.adni.conversion import CONVERSION, conversion_labels
from medgraft.benchmarks.cohorts.adni.reader import DIAGNOSES, read_adni
from medgraft.benchmarks.cohorts.tables.tabular import table_baselines
from medgraft.benchmarks.cohorts.tables.visit_table import VisitTable
from medgraft.benchmarks.tasks.brain.visit_splits import describe_sites, strata_of
from medgraft.benchmarks.tasks.brain.visits import ContrastConfig, DiagnosisTask, Outcome, VisitConfig, VisitTask
from medgraft.benchmarks.tasks.splits import site_split
from medgraft.task import TaskConfig, Variant, subject_split

__all__ = ["DIAGNOSES", "AdniConfig", "AdniConversion", "AdniImage", "AdniImageText", "AdniTask", "AdniText", "Outcome"]


class AdniConfig(VisitConfig):
    """Options of every ADNI task.

    Attributes:
        variants: ``all`` lets training see every processed variant of a scan (MPR, GradWarp, B1, N3, Scaled) of a
            LONI download; validation and test hold the preferred one in either case.
        split: ``subject``, or ``site`` to hold whole sites out for the test.
        held_out_sites: The test sites of ``split: site``, by their number in the tables; drawn where none is named.
        stratify: Columns whose mixture the splits share.
    """

    variants: Literal["preferred", "all"] = "preferred"
    split: Literal["subject", "site"] = "subject"
    held_out_sites: tuple[str, ...] = ()
    stratify: tuple[Literal["dx", "sex", "site", "field_strength"], ...] = ("dx",)

    @model_validator(mode="after")
    def _held_out(self) -> AdniConfig:
        if self.held_out_sites and self.split != "site":
            raise ValueError("held_out_sites needs split: site")
        return self


class AdniTask(VisitTask):
    """Base of the ADNI tasks; subclasses say which inputs a sample has and what its target is."""

    cohort = "adni"
    Config: ClassVar[type[TaskConfig]] = AdniConfig
    config: AdniConfig

    def read(self, root: Path) -> VisitTable:
        """Reads a LONI or BIDS copy."""
        return read_adni(root, variants=self.config.variants == "all")

    def split(self, frame: pd.DataFrame, words: np.ndarray) -> dict[str, np.ndarray]:
        """Rows ``[m]`` of each split, by subject, or with whole sites in the test split; words are ``[n]``."""
        config = self.config
        strata = strata_of(frame.assign(dx=words), config.stratify)
        if config.split == "site":
            return site_split(frame, strata, config.fractions, config.split_seed, config.held_out_sites)
        return subject_split(frame["subject"].to_numpy(str), strata, config.fractions, config.split_seed)

    def provenance(
        self, table: VisitTable, frame: pd.DataFrame, targets: np.ndarray, splits: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See :meth:`VisitTask.provenance`; with the sites of each split."""
        facts = super().provenance(table, frame, targets, splits)
        return facts | {"split_by": self.config.split, "sites": describe_sites(frame, splits)}


class AdniDiagnosis(DiagnosisTask, AdniTask):
    """Diagnosis at the visit."""

    class Config(AdniConfig, ContrastConfig):
        """Options."""

    config: AdniConfig


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

    def label(self, table: VisitTable) -> tuple[pd.Series, tuple[str, ...]]:
        """The outcome of every visit with mild cognitive impairment."""
        return conversion_labels(table.frame, table.visits, self.horizon), CONVERSION

    def provenance(
        self, table: VisitTable, frame: pd.DataFrame, targets: np.ndarray, splits: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See :meth:`AdniTask.provenance` (targets ``[n]``); with the numbers of the tabular baselines."""
        facts = super().provenance(table, frame, targets, splits)
        return facts | {
            "horizon_months": self.horizon,
            "table_baselines": table_baselines(frame, targets, splits, CONVERSION),
        }
