"""Resamples of subjects, and what they make of statistics.

Two scans of one person are never two independent facts, so subjects are drawn, each with all its samples. They are
drawn in fractions: a resample gives every subject a weight of its own from the exponential distribution, whose mean and
variance are those of how often it would be drawn with replacement (Rubin, "The Bayesian bootstrap", Annals of
Statistics 9, 1981; Xu et al., "Applications of the fractional-random-weight bootstrap", The American Statistician 74,
2020). No weight is zero, so every resample has subjects of each class and of each label, in whatever combination
subjects have several, and a statistic is defined in all resamples or in none.

The resamples tell how far a statistic moves; what few subjects of a class do not tell of their own spread,
:mod:`medgraft.benchmarks.metrics.spread` adds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.spread import BATCH
from medgraft.metric import Array, WeightedStatistic


def fractional_weights(rng: np.random.Generator, resamples: int, n_subjects: int) -> Array:
    """Weights of subjects in each resample, ``float64 [R, S]`` above 0 with mean 1 in each."""
    weights = rng.standard_exponential((resamples, n_subjects))
    return weights * (n_subjects / weights.sum(axis=1, keepdims=True))


def subject_bootstrap(
    statistics: Mapping[str, WeightedStatistic], groups: Array, resamples: int = 1000, seed: int = 0
) -> dict[str, Array]:
    """Bootstrap distributions of several statistics under one set of resamples.

    Args:
        statistics: Name -> function of weights ``[R, n]`` giving the statistic of each resample ``[R]``.
        groups: ``[n]`` subject number of each sample, ``0 .. S - 1``.
        resamples: Number of resamples.
        seed: Of the resampling.

    Returns:
        Name -> ``[resamples]`` values, ``nan`` where undefined.
    """
    S = int(groups.max()) + 1
    if S < 2:
        return {name: np.full(resamples, np.nan) for name in statistics}  # one subject says nothing about another
    rng, parts = np.random.default_rng(seed), {name: list[Array]() for name in statistics}
    for start in range(0, resamples, BATCH):
        weights = np.take(fractional_weights(rng, min(BATCH, resamples - start), S), groups, axis=1)
        for name, statistic in statistics.items():
            parts[name].append(statistic(weights))
    return {name: np.concatenate(each) if each else np.zeros(0) for name, each in parts.items()}


def centre(distribution: Array, value: float, bounds: tuple[float, float]) -> Array:
    """Resamples ``[R]`` moved by the bootstrap's estimate of bias, so that ``value`` is their mean.

    The bias is the mean of the resamples less the value (Efron and Tibshirani, "An introduction to the bootstrap",
    1993, section 10.3); what the move takes over the bounds ends there.

    Example:
        >>> centre(np.array([0.5, 0.75, np.nan]), 0.125, (0.0, 1.0))
        array([0.  , 0.25,  nan])
    """
    defined = distribution[~np.isnan(distribution)]
    if not len(defined) or np.isnan(value):
        return distribution
    return (distribution - (defined.mean() - value)).clip(*bounds)
