"""Intervals of means over seeds, and classes that too few test subjects have for any interval.

What a 95% interval of a board contains: other test subjects from the same population, and other seeds of the same
training. What it does not contain: another cohort, another split into training and test, another choice of
hyper-parameters.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean

import numpy as np

from medgraft.benchmarks.metrics.bootstrap import LEVEL, centre, subject_bootstrap
from medgraft.metric import Array, WeightedStatistic, value_of

Ends = tuple[float | None, float | None]
Bounds = tuple[float, float]

FEW = 10
"""Test subjects of a class below which an interval is too narrow: simulated coverage falls under nine in ten."""

RESAMPLES = 1000


def pooled_intervals(
    each: Sequence[Mapping[str, WeightedStatistic]],
    groups: Array,
    bounds: Mapping[str, Bounds],
    centred: Iterable[str] = (),
) -> dict[str, Ends]:
    """Intervals of the mean over seeds, which resample subjects and seeds.

    Args:
        each: Statistics of two seeds at least on one test split of ``n`` samples.
        groups: ``int64 [n]`` subject number of each sample.
        bounds: Name of each number wanted -> the smallest and largest value of its metric.
        centred: Names whose resamples are centred, see :func:`medgraft.benchmarks.metrics.bootstrap.centre`.
    """
    names = [name for name in bounds if all(name in statistics for statistics in each)]
    parts = {f"{s} {name}": statistics[name] for s, statistics in enumerate(each) for name in names}
    drawn = subject_bootstrap(parts, groups, RESAMPLES)
    ends: dict[str, Ends] = {}
    for name in names:
        values = [value_of(statistics[name], len(groups)) for statistics in each]
        by_seed = [drawn[f"{s} {name}"] for s in range(len(each))]
        if name in centred:
            by_seed = [centre(row, value, bounds[name]) for row, value in zip(by_seed, values, strict=True)]
        ends[name] = seed_interval(np.stack(by_seed), np.array(values), bounds[name])
    return ends


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
    spread = _student(S - 1) * math.sqrt(between / S) if S > 1 else 0.0
    low = mean - math.hypot(mean - fmean(lows), spread)
    high = mean + math.hypot(fmean(highs) - mean, spread)
    return max(low, min(bounds[0], *lows)), min(high, bounds[1])


@functools.cache
def _student(freedom: int) -> float:
    """End of Student's interval of level :data:`LEVEL`; a board of thousands of rows asks for the same few."""
    from scipy.special import stdtrit  # what scipy.stats calls, without the second that its import takes

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def few_subjects(counts: Mapping[str, int]) -> dict[str, int]:
    """Classes that fewer than :data:`FEW` test subjects have, of the test subjects of each class."""
    return {name: count for name, count in counts.items() if count < FEW}
