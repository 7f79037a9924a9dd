"""Values of statistics with 95% intervals over test subjects."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from pydantic import BaseModel, ConfigDict

from medgraft.benchmarks.metrics.intervals import interval_over_seeds
from medgraft.benchmarks.metrics.resampling import interval, subject_bootstrap
from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.judging import objective_of
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic, value_of

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
    left_out = left_out_of(p)
    result: dict[str, Estimate] = {}
    for name, statistic in statistics.items():
        value, distribution = value_of(statistic, n), drawn.get(name)
        if distribution is None or np.isnan(value):
            result[name] = estimate_of(value, None, n, n_subjects)
            continue
        metric = metrics.get(name) or Metric()
        low, high = interval_over_seeds(name, metric, [statistic], [value], distribution[None], left_out)
        share = round(float(np.isnan(distribution).mean()), 4)
        result[name] = Estimate(
            value=value, ci_low=low, ci_high=high, n=n, n_subjects=n_subjects, undefined_share=share
        )
    return result


def estimate_of(value: float, distribution: Array | None, n: int, n_subjects: int) -> Estimate:
    """A number with its interval.

    Args:
        value: ``nan`` where it is undefined.
        distribution: Resamples ``[R]``, ``nan`` where undefined; ``None`` for no interval.
        n: Test samples.
        n_subjects: Subjects they come from.
    """
    defined = None if np.isnan(value) else float(value)
    low, high, share = interval(distribution) if distribution is not None and defined is not None else (None, None, 0.0)
    return Estimate(
        value=defined, ci_low=low, ci_high=high, n=n, n_subjects=n_subjects, undefined_share=round(share, 4)
    )
