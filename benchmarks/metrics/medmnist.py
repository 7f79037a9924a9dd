"""The two numbers of MedMNIST's ``Evaluator``, under names of their own: how its published tables are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medgraft.benchmarks.metrics.weighted import masked, mean_of, weighted_auc
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

THRESHOLD = 0.5


class MedMnist(Metric):
    """``medmnist_auc`` and ``medmnist_acc``, as ``getAUC`` and ``getACC`` of the package ``medmnist`` compute them.

    Of two classes the score of the second counts: the area under its ROC curve, and the share of samples that it puts
    on the right side of 0.5, which itself is no. Of more classes that exclude each other (grades too) the mean area of
    each against the rest, and the share whose likeliest class is right. Of labels the means over the labels of area and
    of accuracy at 0.5, whatever thresholds validation chose. Unlike ``auc_macro``, the mean is undefined where a class
    has no sample. Labels that do not count are left out, which the package does not know.

    Yang et al., "MedMNIST v2", Scientific Data 10:41 (2023); medmnist 3.0, ``evaluator.py``.
    """

    numbers = ("medmnist_auc", "medmnist_acc")
    title = "AUC and accuracy as MedMNIST's Evaluator has them"

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`."""
        areas, right, counts = _columns(p)
        shares = [_share(*pair) for pair in zip(right, counts, strict=True)]
        return {"medmnist_auc": _mean(areas), "medmnist_acc": _mean(shares)}


def _columns(p: Predictions) -> tuple[list[WeightedStatistic], list[Array], list[Array]]:
    """Of each column that is judged: the area, and ``bool [n]`` whether it is right and whether it counts."""
    n, K = p.scores.shape
    everything = np.ones(n, bool)
    if p.targets.ndim == 2:
        mask = np.ones((n, K), bool) if p.mask is None else p.mask.astype(bool)
        actual = p.targets.astype(bool)
        areas = [masked(weighted_auc(p.scores[m, k], actual[m, k]), m) for k, m in enumerate(mask.T)]
        return areas, list(((p.scores > THRESHOLD) == actual).T), list(mask.T)
    if K == 2:
        second = p.targets == 1
        return [weighted_auc(p.scores[:, 1], second)], [(p.scores[:, 1] > THRESHOLD) == second], [everything]
    areas = [weighted_auc(p.scores[:, k], p.targets == k) for k in range(K)]
    return areas, [p.scores.argmax(axis=1) == p.targets], [everything]


def _share(right: Array, counts: Array) -> WeightedStatistic:
    """Share of the samples that count which are right, by weights ``[R, n]``."""
    hit, all_of_them = (right & counts).astype(float), counts.astype(float)

    def statistic(weights: Array) -> Array:
        total = weights @ all_of_them
        return np.divide(weights @ hit, total, out=np.full(len(weights), np.nan), where=total > 0)

    return statistic


def _mean(parts: Sequence[WeightedStatistic]) -> WeightedStatistic:
    """Mean of all parts; undefined where one is, and in resamples over those that are defined there."""
    resampled = mean_of(parts)

    def statistic(weights: Array) -> Array:
        return np.mean([part(weights) for part in parts], axis=0) if len(weights) == 1 else resampled(weights)

    return statistic
