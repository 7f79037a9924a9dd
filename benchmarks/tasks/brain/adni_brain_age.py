"""Age from the T1 volume of ADNI: what a brain looks like beside the date of birth.

Trained and tested on cognitively normal visits by default, as brain age is defined (Cole and Franke, "Predicting age
using neuroimaging", Trends in Neurosciences 40, 2017); ages are those at the visit, in years.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from medgraft.benchmarks.cohorts.tables.visit_table import VisitTable
from medgraft.benchmarks.tasks.brain.adni import AdniConfig, AdniTask, Outcome
from medgraft.errors import DataError

Diagnosis = Literal["CN", "MCI", "AD"]


class AdniBrainAge(AdniTask):
    """Age in years from the T1 volume."""

    inputs = ("volume",)
    objective = "regression"
    primary = "mae"

    class Config(AdniConfig):
        """Options.

        Attributes:
            diagnoses: Whose visits are used.
        """

        diagnoses: tuple[Diagnosis, ...] = Field(("CN",), min_length=1)

    def outcome(self, table: VisitTable) -> Outcome:
        """The age of each visit with one of the diagnoses.

        Raises:
            DataError: No such visit has an age.
        """
        assert isinstance(self.config, AdniBrainAge.Config)
        ages = np.asarray(pd.to_numeric(table.frame["age"], errors="coerce"), float)
        diagnosis: Any = table.frame["dx"].astype(object)
        selected = diagnosis.isin(self.config.diagnoses).to_numpy(bool)
        used = selected & np.isfinite(ages)
        if not used.any():
            raise DataError(f"no visit with the diagnosis {' or '.join(self.config.diagnoses)} has an age")
        words = diagnosis.where(used, "no age").where(selected, diagnosis)
        return Outcome(words, used, ages[used])
