"""Differences of two rows on the same test subjects, with the two levels that a row has: subjects and seeds.

Both rows are asked under the same subjects left out, the same resamples, so that what the rows share of a subject's
difficulty cancels. Seeds of different rows have nothing in common, whatever their numbers, and are drawn independently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.metric import Array, WeightedStatistic, value_of


@dataclass(frozen=True)
class Measured:
    """One number of a row on one test split.

    Attributes:
        values: ``float64 [s]``, of each seed.
        influences: ``float64 [D]``, of the mean over the seeds, see :meth:`LeftOut.influences`.
    """

    values: Array
    influences: Array

    @property
    def value(self) -> float:
        """Mean over the seeds."""
        return float(self.values.mean())

    @property
    def over_seeds(self) -> float:
        """Variance of the mean over the seeds; 0 for one seed, whose row says nothing of others."""
        return float(self.values.var(ddof=1)) / len(self.values) if len(self.values) > 1 else 0.0


@dataclass(frozen=True)
class Differences:
    """Of several pairs of rows, arrays ``[P]``.

    Attributes:
        value: First less second, in the metric's own unit.
        variance: Of that, over subjects and seeds.
        freedom: Its degrees of freedom.
        over_subjects: The part of the variance that more test subjects would make smaller.
    """

    value: Array
    variance: Array
    freedom: Array
    over_subjects: Array

    def p_values(self) -> Array:
        """Two-sided ``[P]``, of no difference, by Student's distribution; 1 where nothing differs at all."""
        from scipy.special import stdtr

        nothing = (self.value == 0) & (self.variance == 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            t = np.abs(self.value) / np.sqrt(self.variance)
        return np.where(nothing, 1.0, 2 * stdtr(self.freedom, -t))


def measured(statistics: Sequence[WeightedStatistic], left_out: LeftOut) -> Measured:
    """One number of a row, of the statistics of its seeds."""
    values = np.array([value_of(statistic, len(left_out.groups)) for statistic in statistics])
    found = left_out.influences({str(s): statistic for s, statistic in enumerate(statistics)})
    return Measured(values, np.mean(list(found.values()), axis=0))


def differences(rows: Sequence[Measured], pairs: Sequence[tuple[int, int]] | Array, left_out: LeftOut) -> Differences:
    """First less second of each pair of rows.

    The variance is that of :func:`medgraft.benchmarks.metrics.intervals.intervals_over_seeds` for the difference: the
    jackknife's over subjects, and each row's over its seeds, with Satterthwaite's degrees of freedom.

    Args:
        rows: All on the test split of ``left_out``.
        pairs: ``[P, 2]`` numbers of rows.
        left_out: Of the test split.
    """
    first, second = np.asarray(pairs, int).reshape(-1, 2).T
    influences = np.stack([row.influences for row in rows])
    spread = left_out.spread(influences[first] - influences[second])
    values = np.array([row.value for row in rows])
    seeds = np.array([row.over_seeds for row in rows])
    left = np.array([max(len(row.values) - 1, 1) for row in rows])
    total = spread.variance + seeds[first] + seeds[second]
    doubt = spread.variance**2 / spread.freedom + seeds[first] ** 2 / left[first] + seeds[second] ** 2 / left[second]
    freedom = np.divide(total**2, doubt, out=np.array(spread.freedom, float), where=doubt > 0)
    return Differences(values[first] - values[second], total, freedom, spread.variance)


def holm(p_values: Array) -> Array:
    """Holm's adjusted p-values ``[P]`` (Scandinavian Journal of Statistics 6, 1979).

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03])).round(3).tolist()
        [0.03, 0.06, 0.06]
    """
    p_values = np.asarray(p_values, float)
    order, P = np.argsort(p_values, kind="stable"), len(p_values)
    adjusted = np.empty(P)
    adjusted[order] = np.minimum(np.maximum.accumulate((P - np.arange(P)) * p_values[order]), 1.0)
    return adjusted
