"""Degree of dementia on OASIS-1, -2 or -3 in the classes, inputs and words of the ADNI tasks.

A Clinical Dementia Rating of 0, 0.5 and 1 or more stands for CN, MCI and AD, so that what was trained on ADNI can be
judged on people of another hospital; it is no diagnosis, and every result says so. See
:mod:`medgraft.benchmarks.cohorts.oasis.labels`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from pydantic import model_validator

from medgraft.benchmarks.cohorts.oasis.images import TITLES
from medgraft.benchmarks.cohorts.oasis.labels import NOTES, Labels, Unassessed
from medgraft.benchmarks.cohorts.oasis.reader import OasisTable, read_oasis
from medgraft.benchmarks.cohorts.tables.visit_table import VisitTable
from medgraft.benchmarks.tasks.brain.visits import ContrastConfig, DiagnosisTask
from medgraft.task import TaskConfig, Variant


class OasisConfig(ContrastConfig):
    """Options of the OASIS tasks.

    Attributes:
        labels: ``cdr``; or the column ``group`` of OASIS-2 or ``dx1`` of OASIS-3, which tell CN from AD alone.
        unassessed: People under 60 of OASIS-1 without a rating: left out and counted, or CN.
    """

    labels: Labels = "cdr"
    unassessed: Unassessed = "left_out"

    @model_validator(mode="after")
    def _told_apart(self) -> OasisConfig:
        if self.labels != "cdr" and self.contrast != "CN-AD":
            raise ValueError(f"labels: {self.labels} tells CN from AD alone; set contrast: CN-AD besides")
        return self


class Oasis(DiagnosisTask):
    """Degree of dementia from the T1 volume; from a note, from both, and any two of the three classes, as variants."""

    inputs = ("volume",)
    cohort = "oasis"
    Config: ClassVar[type[TaskConfig]] = OasisConfig
    attributes = ("sex", "age", "education", "education_level", "field_strength", "scanner")
    analyze = True
    variants: ClassVar[Mapping[str, Variant]] = {
        "text": Variant(inputs=("text",)),
        "image_text": Variant(inputs=("volume", "text")),
        "ad_cn": Variant(defaults={"contrast": "CN-AD"}),
        "mci_cn": Variant(defaults={"contrast": "CN-MCI"}),
        "ad_mci": Variant(defaults={"contrast": "MCI-AD"}),
    }

    def read(self, root: Path) -> OasisTable:
        """Reads whichever of the three the folder holds."""
        assert isinstance(self.config, OasisConfig)
        images = "volume" in self.inputs
        return read_oasis(root, labels=self.config.labels, unassessed=self.config.unassessed, images=images)

    def provenance(
        self, table: VisitTable, frame: pd.DataFrame, targets: np.ndarray, splits: dict[str, np.ndarray]
    ) -> dict[str, Any]:
        """See :meth:`~medgraft.benchmarks.tasks.brain.visits.VisitTask.provenance`; with study and kind of label."""
        assert isinstance(self.config, OasisConfig) and isinstance(table, OasisTable)
        facts = super().provenance(table, frame, targets, splits)
        notes = [f"{TITLES[table.study]}: {NOTES[self.config.labels]}"]
        if self.config.unassessed == "cn" and table.study == "oasis1":
            notes.append("people under 60 without a rating are CN by choice, so age alone tells many of them")
        if "text" in self.inputs and self.config.text_policy == "full" and table.study == "oasis3":
            notes.append("notes hold the sum of boxes of the very rating that is the label")
        return facts | {"study": table.study, "labels": self.config.labels, "notes": notes}
