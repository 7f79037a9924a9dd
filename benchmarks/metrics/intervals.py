"""Intervals of a number over test subjects and over the seeds of a row, and classes with too few subjects for any.

What a 95% interval of a board contains: other test subjects from the same population, and other seeds of the same
training. What it does not contain: another cohort, another split into training and test, another choice of
hyper-parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from medgraft.benchmarks.metrics.resampling import centre, subject_bootstrap
from medgraft.benchmarks.metrics.spread import LeftOut, Spread
from medgraft.benchmarks.metrics.student import LEVEL, Bounds, Ends, ends, never_seen, quantile
from medgraft.metric import Array, Metric, WeightedStatistic, value_of

FEW = 10
"""Test subjects of a class below which some intervals are too narrow.

In simulation (:mod:`medgraft.benchmarks.audit.interval_coverage`) ten are enough for all metrics, 94% or more. With
three, 86% of balanced accuracies hold, while AUC and F1 do.
"""

RESAMPLES = 1000


@dataclass(frozen=True)
class Uncertainty:
    """How far a mean over seeds would move, over subjects and seeds: what an interval of any level is made of.

    Attributes:
        value: The mean.
        bounds: Smallest and largest possible value.
        variance: Of the mean; ``nan`` where it cannot be had.
        freedom: Degrees of freedom of the variance.
        subjects: Those that a value at its bound rests on.
        rows: ``[s, R]`` centred resamples of each seed, of metrics whose intervals are percentiles of them.
        seeds: ``[s]`` values of the seeds.
    """

    value: float
    bounds: Bounds
    variance: float
    freedom: float
    subjects: int
    seeds: Array
    rows: Array | None = None

    def ends(self, level: float = LEVEL) -> Ends:
        """Lower and upper end of an interval; ``None`` where there is none."""
        if self.rows is not None:
            return seed_interval(self.rows, self.seeds, self.bounds, level=level)
        return ends(self.value, self.variance, self.freedom, self.bounds, self.subjects, level)


def intervals_over_seeds(
    each: Sequence[Mapping[str, WeightedStatistic]],
    drawn: Sequence[Mapping[str, Array]],
    left_out: LeftOut,
    metrics: Mapping[str, Metric],
) -> dict[str, Ends]:
    """Intervals of the means of numbers over the seeds of a row, see :func:`over_seeds`.

    Returns:
        Name -> lower and upper end; ``None`` where a number is undefined, or is so without some subject.
    """
    return {name: found.ends() for name, found in over_seeds(each, drawn, left_out, metrics).items()}


def over_seeds(
    each: Sequence[Mapping[str, WeightedStatistic]],
    drawn: Sequence[Mapping[str, Array]],
    left_out: LeftOut,
    metrics: Mapping[str, Metric],
) -> dict[str, Uncertainty]:
    """How far the means of numbers over the seeds of a row, one or several, would move on one test split.

    The variance over subjects is that of the mean: of the jackknife or of the resamples, whichever is larger (they
    agree where a metric is smooth; where it is not, the jackknife may be too small). The variance over seeds is added,
    with degrees of freedom of its own, one fewer than there are seeds (Satterthwaite, Biometrics Bulletin 2, 1946).
    What chance makes of the same subjects from seed to seed is in both, so the interval is a little too wide,
    and never narrower than one that takes the seeds as given.

    Args:
        each: Statistics of the seeds.
        drawn: Of each seed the same resamples of the subjects, name -> ``[R]``.
        left_out: Of the test split.
        metrics: Name of each number wanted -> its metric.
    """
    n, nothing = len(left_out.groups), float("nan")
    smooth = [name for name, metric in metrics.items() if not metric.centred and left_out.n_subjects > 1]
    influences = [left_out.influences({name: statistics[name] for name in smooth}) for statistics in each]
    found: dict[str, Uncertainty] = {}
    for name, metric in metrics.items():
        values = np.array([value_of(statistics[name], n) for statistics in each])
        rows, mean = np.stack([by_name[name] for by_name in drawn]), float(values.mean())
        found[name] = Uncertainty(mean, metric.bounds, nothing, 1.0, left_out.n_subjects, values)
        if left_out.n_subjects < 2 or np.isnan(values).any():
            continue
        if metric.centred:
            rows = np.stack([centre(row, value, metric.bounds) for row, value in zip(rows, values, strict=True)])
            found[name] = replace(found[name], rows=rows)
            continue
        influence = np.mean([by_name[name] for by_name in influences], axis=0)
        variance, freedom = _over_both(values, rows.mean(axis=0), left_out, left_out.spread(influence))
        at_bound = mean in metric.bounds
        subjects = _resting_on(name, metric, each[0][name], left_out) if at_bound else left_out.n_subjects
        found[name] = Uncertainty(mean, metric.bounds, variance, freedom, subjects, values)
    return found


def paired_interval(
    first: Sequence[WeightedStatistic],
    second: Sequence[WeightedStatistic],
    left_out: LeftOut,
    metric: Metric,
    resamples: int = RESAMPLES,
) -> Ends:
    """Interval of the mean over seeds of one number less another, on the same subjects and by the same seeds.

    The difference is asked as a number of its own, so that what both share of a subject's difficulty or of a seed's
    luck cancels: its variance over subjects and over the differences of the seeds is that of :func:`over_seeds`. Ends
    are Student's in the metric's own unit, as of :mod:`medgraft.benchmarks.statistics.comparison`. Where no subject
    tells the two apart there is no spread to start from; then they may differ in as many subjects as none of a test set
    of this size would show.

    Args:
        first: Statistics of the seeds.
        second: Of the same seeds in the same order.
        left_out: Of the test split that both have.
        metric: Of the numbers.
        resamples: Of the subjects.

    Returns:
        Lower and upper end; ``None`` where a difference is undefined, or is so without some subject.
    """
    n, width = left_out.n_subjects, metric.bounds[1] - metric.bounds[0]
    parts = {str(s): _less(*pair) for s, pair in enumerate(zip(first, second, strict=True))}
    values = np.array([value_of(part, len(left_out.groups)) for part in parts.values()])
    if n < 2 or np.isnan(values).any():
        return None, None
    rows = np.stack(list(subject_bootstrap(parts, left_out.groups, resamples).values()))
    if metric.centred:
        rows = np.stack([centre(row, value, (-width, width)) for row, value in zip(rows, values, strict=True)])
        return seed_interval(rows, values, (-width, width))
    influence = np.mean(list(left_out.influences(parts).values()), axis=0)
    variance, freedom = _over_both(values, rows.mean(axis=0), left_out, left_out.spread(influence))
    difference = float(values.mean())
    low, high = ends(difference, variance, freedom, (-math.inf, math.inf), n)
    if low is None or high is None:
        return None, None
    if variance == 0 and math.isfinite(width):
        low, high = difference - width * never_seen(n), difference + width * never_seen(n)
    return max(low, -width), min(high, width)


def _less(first: WeightedStatistic, second: WeightedStatistic) -> WeightedStatistic:
    return lambda weights: first(weights) - second(weights)


def _over_both(values: Array, means: Array, left_out: LeftOut, spread: Spread) -> tuple[float, float]:
    """Variance over subjects and seeds, and its degrees of freedom.

    Args:
        values: ``[s]``, of the seeds.
        means: ``[R]``, of the seeds in each resample.
        left_out: Of the test split.
        spread: Of the mean over subjects.
    """
    n, S = left_out.n_subjects, len(values)
    defined = means[~np.isnan(means)]
    resampled = float(defined.var()) * float(spread.inflation) * (n + 1) / n if len(defined) else 0.0
    freedom = float(spread.freedom)
    if np.isnan(spread.variance):
        return float("nan"), freedom
    over_subjects, over_seeds = max(float(spread.variance), resampled), float(values.var(ddof=1)) / S if S > 1 else 0.0
    if over_seeds > 0:
        doubt = over_subjects**2 / freedom + over_seeds**2 / (S - 1)
        freedom = (over_subjects + over_seeds) ** 2 / doubt
    return over_subjects + over_seeds, freedom


def pooled_intervals(
    each: Sequence[Mapping[str, WeightedStatistic]], left_out: LeftOut, metrics: Mapping[str, Metric]
) -> dict[str, Ends]:
    """Intervals of the means over seeds of several numbers, see :func:`intervals_over_seeds`.

    Args:
        each: Statistics of the seeds, one or more, on one test split of ``n`` samples.
        left_out: Of the test split.
        metrics: Name of each number wanted -> its metric; those that a seed has not are left out.
    """
    kept = {name: metric for name, metric in metrics.items() if all(name in statistics for statistics in each)}
    wanted = [{name: statistics[name] for name in kept} for statistics in each]
    drawn = [subject_bootstrap(statistics, left_out.groups, RESAMPLES) for statistics in wanted]
    return intervals_over_seeds(wanted, drawn, left_out, kept)


def _resting_on(name: str, metric: Metric, statistic: WeightedStatistic, left_out: LeftOut) -> int:
    """Subjects that a value at its bound rests on: all, or those of the rarest class that the number needs."""
    if name in metric.over_samples:
        return left_out.n_subjects
    needed = left_out.fewest(statistic)
    if needed is not None:
        return needed
    return left_out.rarest if name in metric.numbers else left_out.n_subjects


def seed_interval(
    by_seed: Array, values: Array, bounds: Bounds = (0.0, 1.0), seed: int = 0, level: float = LEVEL
) -> Ends:
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
        level: Of the interval.

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
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    between = float(values.var(ddof=1)) / S if S > 1 else 0.0
    if between > 0:
        freedom = (S - 1) * (max(float(drawn.var()), between) / between) ** 2
        wider = stats.t.ppf((1 + level) / 2, freedom) / stats.norm.ppf((1 + level) / 2)
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
