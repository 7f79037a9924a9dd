"""Months from mild cognitive impairment to Alzheimer's disease, where for many only a time without it is known.

The visits and rules of :mod:`medgraft.benchmarks.cohorts.adni.conversion`, without a horizon: whoever was followed
counts until the last visit.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import Field

from medgraft.benchmarks.cohorts.adni.conversion import TimeToDementia, histories_of, time_to_dementia
from medgraft.benchmarks.cohorts.tables.visit_table import VisitTable
from medgraft.benchmarks.tasks.brain.adni import AdniConfig, AdniTask, Outcome
from medgraft.errors import DataError

SEEN, CENSORED = "AD later", "censored"


class AdniConversionTime(AdniTask):
    """Time to Alzheimer's disease of visits with mild cognitive impairment, from the T1 volume."""

    inputs = ("volume",)
    cohort = "adni_visits"
    objective = "survival"
    primary = "c_index"

    class Config(AdniConfig):
        """Options.

        Attributes:
            horizons: Months at which the area under the curve is asked; quartiles of the training events where empty.
        """

        horizons: tuple[Annotated[float, Field(gt=0)], ...] = (24.0, 36.0)

    def outcome(self, table: VisitTable) -> Outcome:
        """Months to the event or to the last visit.

        Raises:
            DataError: No visit with MCI was followed.
        """
        assert isinstance(self.config, AdniConversionTime.Config)
        histories, words, times = histories_of(table.visits), [], []
        for subject, month, dx in zip(table.frame["subject"], table.frame["month"], table.frame["dx"], strict=True):
            outcome: TimeToDementia | str = "not MCI" if dx != "MCI" else "undated"
            if dx == "MCI" and not pd.isna(month):
                outcome = time_to_dementia(histories.get(subject, ()), float(month))
            if isinstance(outcome, TimeToDementia):
                times.append(outcome)
                words.append(SEEN if outcome.event else CENSORED)
            else:
                words.append(outcome)
        if not times:
            raise DataError("no visit with MCI has a later visit with a diagnosis, so no time can be told")
        named = pd.Series(words, index=table.frame.index, dtype=object)
        months, event = (np.array(column, float) for column in zip(*times, strict=True))
        used = named.isin((SEEN, CENSORED)).to_numpy(bool)
        return Outcome(named, used, months, columns={"event": event}, horizons=self.config.horizons)
