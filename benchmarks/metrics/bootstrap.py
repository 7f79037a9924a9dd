"""Values of statistics with 95% intervals that resample subjects.

Intervals come from :func:`scipy.stats.bootstrap` over subjects: its statistic gets resampled subject numbers, turns
them into a weight per sample, and evaluates all resamples at once. Two scans of one person are never two independent
facts.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from pydantic import BaseModel, ConfigDict

from medgraft.metric import Array, Predictions, WeightedStatistic, value_of

LEVEL = 0.95


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


def resample_weights(subjects: Array, n_subjects: int) -> Array:
    """Subject numbers of resamples ``[R, S]`` -> how often each subject was drawn, ``[R, S]``."""
    R = len(subjects)
    flat = subjects + np.arange(R)[:, None] * n_subjects
    return np.bincount(flat.ravel(), minlength=R * n_subjects).reshape(R, n_subjects)


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
    from scipy import stats

    S = int(groups.max()) + 1
    names = list(statistics)
    if S < 2:
        return {name: np.full(resamples, np.nan) for name in names}  # one subject says nothing about another

    def of_resamples(drawn: Array, axis: int = -1) -> Array:
        drawn = np.atleast_2d(np.asarray(drawn, dtype=np.int64))
        weights = resample_weights(drawn, S)[:, groups].astype(np.float64)
        return np.stack([statistics[name](weights) for name in names])

    with warnings.catch_warnings():
        # scipy warns when a percentile interval is degenerate; the caller handles undefined resamples itself.
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            (np.arange(S),),
            of_resamples,
            n_resamples=resamples,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(seed),
            batch=250,
        )
    return dict(zip(names, np.asarray(result.bootstrap_distribution), strict=True))


def estimates(
    statistics: Mapping[str, WeightedStatistic],
    p: Predictions,
    resamples: int = 1000,
    seed: int = 0,
    centred: Mapping[str, tuple[float, float]] = MappingProxyType({}),
) -> dict[str, Estimate]:
    """Value and interval of each statistic.

    Args:
        statistics: Of ``p``.
        p: Predictions of ``n`` samples.
        resamples: Bootstrap resamples; 0 leaves the intervals out.
        seed: Of the resampling.
        centred: Statistics whose intervals are centred, see :func:`centre` -> smallest and largest value.
    """
    n, n_subjects = len(p.targets), int(p.groups.max()) + 1
    distributions = subject_bootstrap(statistics, p.groups, resamples, seed) if resamples else {}
    result: dict[str, Estimate] = {}
    for name, statistic in statistics.items():
        value, distribution = value_of(statistic, n), distributions.get(name)
        if distribution is not None and name in centred:
            distribution = centre(distribution, value, centred[name])
        result[name] = estimate_of(value, distribution, n, n_subjects)
    return result


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


def interval(distribution: Array) -> tuple[float | None, float | None, float]:
    """Percentile interval of the defined ones of ``[R]`` resamples, and the share of undefined ones."""
    undefined = np.isnan(distribution)
    if undefined.all():
        return None, None, 1.0
    low, high = np.quantile(distribution[~undefined], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high), float(undefined.mean())


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
