"""Diagnosis from ADNI's resting-state runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.fmri.adni import read_adni_rest
from medgraft.benchmarks.cohorts.fmri.table import RestTable
from medgraft.benchmarks.tasks.brain.visits import Contrast
from medgraft.benchmarks.tasks.fmri.resting import RestDiagnosis


class AdniFmri(RestDiagnosis):
    """Any of CN, MCI and AD from a run; every run of a person counts, and none is in two splits."""

    cohort = "adni_fmri"
    identifiers = "adni"

    class Config(RestDiagnosis.Config):
        """Options.

        Attributes:
            contrast: The diagnoses to be told apart; runs with another one are left out and counted.
            task: Label of the runs, as in ``task-rest``.
        """

        contrast: Contrast = "CN-AD"
        task: str = "rest"

    config: Config

    def read(self, root: Path) -> RestTable:
        """Reads derivatives and ADNIMERGE."""
        return read_adni_rest(root, task=self.config.task)

    def labels(self, frame: pd.DataFrame) -> tuple[list[Any], tuple[str, ...], str]:
        """See :meth:`RestTask.labels`."""
        if self.config.target == "sex":
            return super().labels(frame)
        return list(frame["dx"]), tuple(self.config.contrast.split("-")), "no diagnosis of the contrast"
