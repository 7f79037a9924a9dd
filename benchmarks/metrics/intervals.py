"""Intervals of a number over test subjects and over the seeds of a row, and classes with too few subjects for any.

What a 95% interval of a board contains: other test subjects from the same population, and other seeds of the same
training. What it does not contain: another cohort, another split into training and test, another choice of
hyper-parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from medgraft.benchmarks.metrics.resampling import centre, subject_bootstrap
from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.benchmarks.metrics.student import LEVEL, Bounds, Ends, ends, quantile
from medgraft.metric import Array, Metric, WeightedStatistic, value_of

FEW = 10
"""Test subjects of a class below which an interval is too narrow: simulated coverage falls under nine in ten."""

RESAMPLES = 1000


def interval_over_seeds(
    name: str,
    metric: Metric,
    statistics: Sequence[WeightedStatistic],
    values: Sequence[float],
    drawn: Array,
    left_out: LeftOut,
) -> Ends:
    """Interval of the mean of a number over the seeds of a row, one or several, on one test split.

    The variance over subjects is that of the mean: of the jackknife or of the resamples, whichever is larger (they
    agree where a metric is smooth; where it is not, the jackknife may be too small). The variance over seeds is added,
    with degrees of freedom of its own, one fewer than there are seeds (Satterthwaite, Biometrics Bulletin 2, 1946).
    What chance makes of the same subjects from seed to seed is in both, so the interval is a little too wide,
    and never narrower than one that takes the seeds as given.

    Args:
        name: Of the number.
        metric: That it is of.
        statistics: Of each of ``s`` seeds.
        values: ``s`` point values.
        drawn: ``[s, R]``, the same resamples of the subjects for all seeds.
        left_out: Of the test split.
    """
    each, S = np.asarray(values, float), len(values)
    if left_out.n_subjects < 2 or np.isnan(each).any():
        return None, None
    if metric.centred:
        rows = np.stack([centre(row, value, metric.bounds) for row, value in zip(drawn, each, strict=True)])
        return seed_interval(rows, each, metric.bounds)
    influence = np.mean([left_out.influences(statistic) for statistic in statistics], axis=0)
    spread = left_out.spread(influence)
    means = drawn.mean(axis=0)
    n = left_out.n_subjects
    resampled = float(np.var(means[~np.isnan(means)])) * float(spread.inflation) * (n + 1) / n if len(means) else 0.0
    over_subjects, over_seeds = max(float(spread.variance), resampled), float(each.var(ddof=1)) / S if S > 1 else 0.0
    if np.isnan(spread.variance):
        return None, None
    freedom = float(spread.freedom)
    if over_seeds > 0:
        doubt = over_subjects**2 / freedom + over_seeds**2 / (S - 1)
        freedom = (over_subjects + over_seeds) ** 2 / doubt
    at_bound = each.mean() in metric.bounds
    subjects = _resting_on(name, metric, statistics[0], left_out) if at_bound else n
    return ends(float(each.mean()), over_subjects + over_seeds, freedom, metric.bounds, subjects)


def pooled_intervals(
    each: Sequence[Mapping[str, WeightedStatistic]], left_out: LeftOut, metrics: Mapping[str, Metric]
) -> dict[str, Ends]:
    """Intervals of the means over seeds of several numbers, see :func:`interval_over_seeds`.

    Args:
        each: Statistics of the seeds, one or more, on one test split of ``n`` samples.
        left_out: Of the test split.
        metrics: Name of each number wanted -> its metric.
    """
    names = [name for name in metrics if all(name in statistics for statistics in each)]
    parts = {f"{s} {name}": statistics[name] for s, statistics in enumerate(each) for name in names}
    drawn = subject_bootstrap(parts, left_out.groups, RESAMPLES)
    found: dict[str, Ends] = {}
    for name in names:
        statistics = [by_name[name] for by_name in each]
        values = [value_of(statistic, len(left_out.groups)) for statistic in statistics]
        by_seed = np.stack([drawn[f"{s} {name}"] for s in range(len(each))])
        found[name] = interval_over_seeds(name, metrics[name], statistics, values, by_seed, left_out)
    return found


def _resting_on(name: str, metric: Metric, statistic: WeightedStatistic, left_out: LeftOut) -> int:
    """Subjects that a value at its bound rests on: all, or those of the rarest class that the number needs."""
    if name in metric.over_samples:
        return left_out.n_subjects
    needed = left_out.fewest(statistic)
    if needed is not None:
        return needed
    return left_out.rarest if name in metric.numbers else left_out.n_subjects


def seed_interval(by_seed: Array, values: Array, bounds: Bounds = (0.0, 1.0), seed: int = 0) -> Ends:
    """Interval of a mean over seeds from the resamples of each seed.

    Two levels: each of the ``R`` resamples of the subjects, which are the same for all ``S`` seeds, is averaged over
    ``S - 1`` seeds drawn with replacement. ``S`` draws would make the spread of seeds too small by ``(S - 1) / S``;
    with ``S - 1`` its variance is unbiased (Rao and Wu, "Resampling inference with complex survey data", JASA 83,
    1988). Three seeds say little of their own spread, so the ends are moved outwards from the mean by the ratio of
    Student's quantile to the normal one, at the degrees of freedom of a sum of two variances of which only the seeds'
    is uncertain (Satterthwaite, Biometrics Bulletin 2, 1946). Seeds that agree move nothing.

    Args:
        by_seed: ``[S, R]``, ``nan`` where undefined.
        values: ``[S]`` point values.
        bounds: Smallest and largest possible value, at which the interval ends.
        seed: Of the draws.

    Returns:
        Lower and upper end; ``None`` where no resample or some seed's value is undefined.
    """
    from scipy import stats

    S, R = by_seed.shape
    if np.isnan(values).any():
        return None, None
    chosen = np.random.default_rng([seed, 41]).integers(S, size=(max(1, S - 1), R))
    drawn = by_seed[chosen, np.arange(R)].mean(axis=0)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return None, None
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    between = float(values.var(ddof=1)) / S if S > 1 else 0.0
    if between > 0:
        freedom = (S - 1) * (max(float(drawn.var()), between) / between) ** 2
        wider = stats.t.ppf((1 + LEVEL) / 2, freedom) / stats.norm.ppf((1 + LEVEL) / 2)
        low, high = (values.mean() + (end - values.mean()) * wider for end in (low, high))
    return float(max(low, bounds[0])), float(min(high, bounds[1]))


def joined_interval(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float], bounds: Bounds = (0.0, 1.0)
) -> Ends:
    """Interval of a mean over seeds where only each seed's own value and ends are at hand.

    The mean distance of the ends, and Student's interval of the seeds' mean, in quadrature. The former is a little too
    wide, since what seeds make of the same subjects is not quite the same.
    """
    mean, S = fmean(values), len(values)
    between = sum((value - mean) ** 2 for value in values) / (S - 1) if S > 1 else 0.0
    spread = quantile(S - 1) * math.sqrt(between / S) if S > 1 else 0.0
    low = mean - math.hypot(mean - fmean(lows), spread)
    high = mean + math.hypot(fmean(highs) - mean, spread)
    return max(low, min(bounds[0], *lows)), min(high, bounds[1])


def few_subjects(counts: Mapping[str, int]) -> dict[str, int]:
    """Classes that fewer than :data:`FEW` test subjects have, of the test subjects of each class."""
    return {name: count for name, count in counts.items() if count < FEW}
