"""Values of statistics with 95% intervals over test subjects."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from pydantic import BaseModel, ConfigDict

from medgraft.benchmarks.metrics.intervals import intervals_over_seeds
from medgraft.benchmarks.metrics.resampling import subject_bootstrap
from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.metric import Metric, Predictions, WeightedStatistic, value_of
from medgraft.metric.judging import objective_of

METHOD = "logit-t"
"""Of the intervals of a result (``data.interval_method``); results without one have percentiles of the resamples."""


class Estimate(BaseModel):
    """One number of a result.

    Attributes:
        value: Point value on all test samples; ``None`` where it is undefined (a label without positives).
        ci_low: Lower end of the 95% interval, ``None`` where it cannot be had.
        ci_high: Upper end.
        n: Test samples that entered.
        n_subjects: Subjects they come from; what the interval resamples.
        undefined_share: Share of resamples in which the metric was undefined and which were left out.
    """

    model_config = ConfigDict(extra="forbid")

    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_subjects: int
    undefined_share: float = 0.0


def left_out_of(p: Predictions) -> LeftOut:
    """The sets of weights that leave out test subjects, by the strata of the objective."""
    return LeftOut(p.groups, objective_of(p).strata(p))


def estimates(
    statistics: Mapping[str, WeightedStatistic],
    p: Predictions,
    resamples: int = 1000,
    seed: int = 0,
    metrics: Mapping[str, Metric] = MappingProxyType({}),
) -> dict[str, Estimate]:
    """Value and interval of each statistic.

    Args:
        statistics: Of ``p``.
        p: Predictions of ``n`` samples.
        resamples: Bootstrap resamples; 0 leaves the intervals out.
        seed: Of the resampling.
        metrics: Name of a statistic -> its metric, for its bounds; from 0 to 1 where it has none.
    """
    n, n_subjects = len(p.targets), int(p.groups.max()) + 1
    drawn = subject_bootstrap(statistics, p.groups, resamples, seed) if resamples else {}
    of_metrics = {name: metrics.get(name) or Metric() for name in drawn}
    found = intervals_over_seeds([statistics], [drawn], left_out_of(p), of_metrics) if drawn else {}
    result: dict[str, Estimate] = {}
    for name, statistic in statistics.items():
        value = value_of(statistic, n)
        if name not in found or np.isnan(value):
            defined = None if np.isnan(value) else value
            result[name] = Estimate(value=defined, ci_low=None, ci_high=None, n=n, n_subjects=n_subjects)
            continue
        (low, high), share = found[name], round(float(np.isnan(drawn[name]).mean()), 4)
        result[name] = Estimate(
            value=value, ci_low=low, ci_high=high, n=n, n_subjects=n_subjects, undefined_share=share
        )
    return result
