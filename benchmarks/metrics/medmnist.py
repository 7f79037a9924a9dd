"""The two numbers of MedMNIST's ``Evaluator``, under names of their own: how its published tables are computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medgraft.benchmarks.metrics.weighted import masked, mean_of, weighted_auc
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

THRESHOLD = 0.5


class MedMnistAuc(Metric):
    """``getAUC`` of the package ``medmnist``: of two classes by the score of the second, of more the mean of each.

    Of classes that exclude each other (grades too) each is held against the rest, and of labels each against its
    absence. Unlike ``auc_macro``, the mean is undefined where a class has no sample. Labels that do not count are left
    out, which the package does not know.

    Yang et al., "MedMNIST v2", Scientific Data 10:41 (2023); medmnist 3.0, ``evaluator.py``.
    """

    numbers = ("medmnist_auc",)
    title = "AUC as MedMNIST's Evaluator has it"

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`."""
        return {"medmnist_auc": _mean(_areas(p))}


class MedMnistAcc(Metric):
    """``getACC`` of the package ``medmnist``: the share of samples that are right, of labels the mean of theirs.

    Of two classes the score of the second must be above 0.5, of more the likeliest is the decision. Of labels a score
    above 0.5 is yes, whatever thresholds validation chose. Labels that do not count are left out, which the package
    does not know.

    Yang et al., "MedMNIST v2", Scientific Data 10:41 (2023); medmnist 3.0, ``evaluator.py``.
    """

    numbers = ("medmnist_acc",)
    title = "accuracy as MedMNIST's Evaluator has it"

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`."""
        if p.targets.ndim == 2:
            right = (p.scores > THRESHOLD) == p.targets.astype(bool)
            return {"medmnist_acc": _mean([_share(*pair) for pair in zip(right.T, _mask(p).T, strict=True)])}
        two = p.scores.shape[1] == 2
        guess = p.scores[:, 1] > THRESHOLD if two else p.scores.argmax(axis=1)
        return {"medmnist_acc": _share(guess == p.targets, np.ones(len(guess), bool))}


def _areas(p: Predictions) -> list[WeightedStatistic]:
    """The area under the ROC curve of each column that is judged."""
    if p.targets.ndim == 2:
        actual = p.targets.astype(bool)
        return [masked(weighted_auc(p.scores[m, k], actual[m, k]), m) for k, m in enumerate(_mask(p).T)]
    K = p.scores.shape[1]
    return [weighted_auc(p.scores[:, k], p.targets == k) for k in ((1,) if K == 2 else range(K))]


def _mask(p: Predictions) -> Array:
    """Which labels count, ``bool [n, K]``."""
    return np.ones(p.targets.shape, bool) if p.mask is None else p.mask.astype(bool)


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
