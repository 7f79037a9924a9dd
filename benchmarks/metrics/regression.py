"""Metrics of predicted numbers: errors, and correlations of values and of ranks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

INFINITE = float("inf")


class Errors(Metric):
    """``mae``, the mean absolute error, and ``rmse``, the root of the mean squared one, in the unit of the target."""

    title = "error"
    numbers = ("mae", "rmse")
    bounds: ClassVar[tuple[float, float]] = (0.0, INFINITE)
    higher_is_better: ClassVar[bool] = False

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; ``p.scores`` are ``[n, 1]``, ``p.targets`` ``[n]``."""
        error = p.scores[:, 0] - p.targets

        def mae(weights: Array) -> Array:
            return weights @ np.abs(error) / weights.sum(axis=1)

        def rmse(weights: Array) -> Array:
            return np.sqrt(weights @ error**2 / weights.sum(axis=1))

        return {"mae": mae, "rmse": rmse}


class Correlation(Metric):
    """``pearson`` of predictions and targets, and ``spearman``, that of their ranks; ties share their mean rank."""

    title = "correlation"
    numbers = ("pearson", "spearman")
    bounds: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; ``p.scores`` are ``[n, 1]``, ``p.targets`` ``[n]``."""
        x, y = p.scores[:, 0].astype(float), p.targets.astype(float)
        rank_x, rank_y = weighted_ranks(x), weighted_ranks(y)

        def pearson(weights: Array) -> Array:
            return weighted_correlation(x[None], y[None], weights)

        def spearman(weights: Array) -> Array:
            return weighted_correlation(rank_x(weights), rank_y(weights), weights)

        return {"pearson": pearson, "spearman": spearman}


def weighted_correlation(x: Array, y: Array, weights: Array) -> Array:
    """Pearson's correlation in each resample; ``nan`` where one of the two does not vary.

    Args:
        x: ``[1 or R, n]``.
        y: Likewise.
        weights: ``[R, n]``.

    Example:
        >>> weighted_correlation(np.array([[1.0, 2, 3]]), np.array([[1.0, 2, 2]]), np.ones((1, 3))).round(3)
        array([0.866])
    """
    total = weights.sum(axis=1, keepdims=True)
    dx = x - (weights * x).sum(axis=1, keepdims=True) / total
    dy = y - (weights * y).sum(axis=1, keepdims=True) / total
    xx, yy, xy = ((weights * a * b).sum(axis=1) for a, b in ((dx, dx), (dy, dy), (dx, dy)))
    # What is left of equal numbers after their mean was taken off is rounding, and no spread.
    tiny = (1e-14 * np.abs(x).max() * len(x.T)) ** 2, (1e-14 * np.abs(y).max() * len(y.T)) ** 2
    defined = (xx > tiny[0]) & (yy > tiny[1])
    return np.divide(xy, np.sqrt(xx * yy), out=np.full(len(weights), np.nan), where=defined).clip(-1, 1)


def weighted_ranks(values: Array) -> WeightedStatistic:
    """Mean ranks ``[R, n]`` of values ``[n]``, each counted as often as its weight says.

    Example:
        >>> weighted_ranks(np.array([0.3, 0.1, 0.3]))(np.array([[1, 1, 1], [1, 2, 0]]))
        array([[2.5, 1. , 2.5],
               [3. , 1.5, 3. ]])
    """
    _, group = np.unique(values, return_inverse=True)
    members = np.eye(group.max() + 1)[group] if len(group) else np.zeros((0, 0))

    def ranks(weights: Array) -> Array:
        size = weights @ members
        return (np.cumsum(size, axis=1) - size + (size + 1) / 2)[:, group]

    return ranks
