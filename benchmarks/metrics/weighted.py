"""Statistics of decisions and scores as functions of sample weights, all resamples of a bootstrap at once.

A function takes weights ``[R, n]`` and gives the statistic of each of the ``R`` resamples, ``nan`` where it is
undefined. Weights of one give the statistic of the samples themselves.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np

from medgraft.metric import Array, WeightedStatistic, exactly

MOST_PAIRS = 250_000
"""Pairs of a positive and a negative up to which their order is kept as a matrix, 2 MB; more are sorted anew."""


def weighted_auc(scores: Array, positive: Array) -> WeightedStatistic:
    """AUROC of one score column as a function of sample weights; ties count half, undefined is ``nan``.

    Args:
        scores: ``float64 [n]``.
        positive: ``bool [n]``.

    Example:
        >>> auc = weighted_auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
        >>> auc(np.array([[1, 1, 1, 1], [1, 0, 1, 1]]))
        array([0.75, 1.  ])
    """
    if len(scores) == 0:
        return lambda weights: np.full(len(weights), np.nan)
    up, down = np.flatnonzero(positive), np.flatnonzero(~np.asarray(positive, bool))
    down = down[np.argsort(scores[down], kind="stable")]
    # For a positive, the negatives below it and half of those at it are what their sorted weights add up to.
    below, up_to = (np.searchsorted(scores[down], scores[up], side=side) for side in ("left", "right"))
    pairs = np.empty((0, 0))
    if len(up) * len(down) <= MOST_PAIRS:
        places = np.arange(len(down))
        pairs = 0.5 * (places < below[:, None]) + 0.5 * (places < up_to[:, None])

    def statistic(weights: Array) -> Array:
        positives, negatives = np.take(weights, up, axis=1), np.take(weights, down, axis=1)
        total = positives.sum(axis=1) * negatives.sum(axis=1)
        if pairs.size:
            area = ((positives @ pairs) * negatives).sum(axis=1)
        else:
            sums = np.pad(np.cumsum(negatives, axis=1), ((0, 0), (1, 0)))
            twice = np.take(sums, below, axis=1) + np.take(sums, up_to, axis=1)
            area = 0.5 * np.einsum("rm,rm->r", positives, twice)
        return np.divide(area, total, out=np.full(len(weights), np.nan), where=total > 0)

    return exactly(safe_auc(positive, scores), statistic)


def weighted_f1(predicted: Array, actual: Array) -> WeightedStatistic:
    """F1 of one binary decision ``[n]`` by weights ``[R, n]``; undefined (``nan``) where no sample is positive."""
    hit, wrong = (predicted & actual).astype(float), (predicted ^ actual).astype(float)
    positive = actual.astype(float)

    def statistic(weights: Array) -> Array:
        true_positive, errors = weights @ hit, weights @ wrong
        total = 2 * true_positive + errors
        return np.divide(2 * true_positive, total, out=np.full(len(weights), np.nan), where=weights @ positive > 0)

    return statistic


def share(part: Sequence[float] | Array, whole: Sequence[float] | Array) -> WeightedStatistic:
    """Sum over samples of a part ``[n]`` by that of the whole; undefined (``nan``) where there is no whole.

    Example:
        >>> share([1, 0], [2, 1])(np.array([[1.0, 1.0], [0.0, 1.0], [1.0, 0.0]]))
        array([0.33333333, 0.        , 0.5       ])
    """
    parts, wholes = np.array(part, float), np.array(whole, float)

    def statistic(weights: Array) -> Array:
        total = weights @ wholes
        return np.divide(weights @ parts, total, out=np.full(len(weights), np.nan), where=total > 0)

    return statistic


def once(statistic: WeightedStatistic) -> WeightedStatistic:
    """A statistic that is not computed twice for one array of weights: a mean over classes asks each class again."""
    last: list[Any] = [lambda: None, None]

    def remembered(weights: Array) -> Array:
        if last[0]() is not weights:
            last[:] = weakref.ref(weights), statistic(weights)
        return last[1]

    return remembered


def mean_of(parts: Sequence[WeightedStatistic]) -> WeightedStatistic:
    """Mean of statistics, in each resample over those that are defined there, as in the point value.

    A resample in which a rare class has no sample counts with the others. Leaving it out would keep resamples in which
    that class is well represented, and make the interval too narrow.
    """

    def statistic(weights: Array) -> Array:
        values = np.stack([part(weights) for part in parts]) if parts else np.full((1, len(weights)), np.nan)
        if len(weights) == 1:
            return np.array([mean_defined(values[:, 0].tolist())])
        defined = ~np.isnan(values)
        total, count = np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0)
        return np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)

    return statistic


def mean_defined(values: Sequence[float]) -> float:
    """Mean of what is not ``nan``."""
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")


def support_weighted(parts: list[WeightedStatistic], supports: Array) -> WeightedStatistic:
    """Mean of per-class statistics weighted by the classes' (resampled) support; ``supports`` is ``[K, n]``."""

    def statistic(weights: Array) -> Array:
        support = weights @ supports.T.astype(float)
        values = np.nan_to_num(np.stack([part(weights) for part in parts], axis=1))  # undefined has no support
        total = support.sum(axis=1)
        return np.divide((values * support).sum(axis=1), total, out=np.full(len(weights), np.nan), where=total > 0)

    return statistic


def masked(statistic: WeightedStatistic, keep: Array) -> WeightedStatistic:
    """A statistic of the samples ``keep``, ``bool [n]``, as a function of all samples' weights ``[R, n]``."""
    return lambda weights: statistic(weights[:, keep])


def weighted_recall(predicted: Array, actual: Array) -> WeightedStatistic:
    """Recall of one binary decision ``[n]``; undefined where no sample is positive."""

    def statistic(weights: Array) -> Array:
        total = weights @ actual.astype(float)
        return np.divide(
            weights @ (predicted & actual).astype(float), total, out=np.full(len(weights), np.nan), where=total > 0
        )

    return statistic


def weighted_precision(predicted: Array, actual: Array) -> WeightedStatistic:
    """Precision of one binary decision ``[n]``; 0 where nothing is predicted, undefined where no sample is positive."""

    def statistic(weights: Array) -> Array:
        total = weights @ predicted.astype(float)
        hits = weights @ (predicted & actual).astype(float)
        share = np.divide(hits, total, out=np.zeros(len(weights)), where=total > 0)
        return np.where(weights @ actual.astype(float) > 0, share, np.nan)

    return statistic


def safe_auc(actual: Array, scores: Array) -> float:
    """AUROC ``[n]``, ``nan`` where it is undefined."""
    from sklearn.exceptions import UndefinedMetricWarning
    from sklearn.metrics import roc_auc_score

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UndefinedMetricWarning)
        return float(roc_auc_score(actual, scores)) if len(np.unique(actual)) == 2 else float("nan")


def slug(name: str) -> str:
    """A class name as it stands in a metric's name.

    Example:
        >>> slug("Pleural Effusion")
        'pleural_effusion'
    """
    return name.lower().replace(" ", "_").replace("/", "_")
