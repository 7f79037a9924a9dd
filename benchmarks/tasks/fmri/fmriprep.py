"""Classes of people, their sex and their age from resting-state runs that went through fMRIPrep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd

from medgraft.benchmarks.cohorts.fmri.fmriprep import read_fmriprep
from medgraft.benchmarks.cohorts.fmri.table import RestTable
from medgraft.benchmarks.tasks.fmri.resting import CONTRASTS, RestAge, RestConfig, RestDiagnosis
from medgraft.errors import DataError
from medgraft.task import TaskConfig, Variant

MOST_CLASSES = 10


class DerivativesConfig(RestConfig):
    """Options of tasks on fMRIPrep's derivatives.

    Attributes:
        column: Column of ``participants.tsv`` with the diagnosis; empty to find it by its name (``diagnosis``, ``dx``,
            ``group``).
        task: Label of the runs, as in ``task-rest``.
    """

    column: str = ""
    task: str = "rest"


class Fmriprep(RestDiagnosis):
    """The words of a column of ``participants.tsv``; the sex as a variant."""

    cohort = "fmriprep"
    identifiers = "fmriprep"
    variants: ClassVar[Mapping[str, Variant]] = {"sex": Variant(defaults={"target": "sex"}), **CONTRASTS}

    class Config(RestDiagnosis.Config, DerivativesConfig):
        """Options.

        Attributes:
            classes: The words that are told apart, in the order of the classes; runs of other people are left out and
                counted. Empty for all that the column has, by name.
        """

        classes: tuple[str, ...] = ()

    config: Config

    def read(self, root: Path) -> RestTable:
        """Reads derivatives."""
        return read_fmriprep(root, column=self.config.column, task=self.config.task)

    def labels(self, frame: pd.DataFrame) -> tuple[list[Any], tuple[str, ...], str]:
        """See :meth:`RestTask.labels`.

        Raises:
            DataError: The column has one word, or too many to be classes.
        """
        if self.config.target == "sex":
            return super().labels(frame)
        words = list(frame["dx"])
        classes = self.config.classes or tuple(sorted({word for word in words if word is not None}))
        if not 2 <= len(classes) <= MOST_CLASSES:
            raise DataError(
                f"the diagnosis of participants.tsv has {len(classes)} different words; name another column, or the "
                "classes"
            )
        return words, classes, "no diagnosis of the task"


class FmriprepAge(RestAge):
    """Age in years."""

    cohort = "fmriprep"
    identifiers = "fmriprep"
    Config: ClassVar[type[TaskConfig]] = DerivativesConfig

    def read(self, root: Path) -> RestTable:
        """Reads derivatives."""
        assert isinstance(self.config, DerivativesConfig)
        return read_fmriprep(root, column=self.config.column, task=self.config.task)
