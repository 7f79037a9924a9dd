"""Metrics of classes that exclude each other and of labels that do not.

Means over classes leave out what is undefined: a class without a test sample, a label without positives.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.metrics.weighted import (
    masked,
    mean_of,
    once,
    slug,
    support_weighted,
    weighted_auc,
    weighted_f1,
    weighted_precision,
    weighted_recall,
)
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic


@dataclass(frozen=True)
class Decisions:
    """Predictions of classes or labels as one binary decision for each of them.

    Attributes:
        actual: ``bool [K, n]``, true where a sample is of the class or has the label; false where that does not count.
        guessed: ``bool [K, n]``, likewise.
        counts: ``bool [K, n]``, where a label counts.
        names: ``K`` names, as they stand in those of metrics.
    """

    actual: Array
    guessed: Array
    counts: Array
    names: tuple[str, ...]


def decisions(p: Predictions) -> Decisions:
    """Of classes, the one with the highest score; of labels, those whose score reaches its threshold, or 0.5."""
    K, names = len(p.classes), tuple(map(slug, p.classes))
    if p.targets.ndim == 1:
        guess, each = p.scores.argmax(axis=1), np.arange(K)[:, None]
        return Decisions(p.targets[None] == each, guess[None] == each, np.ones((K, len(guess)), bool), names)
    counts = np.ones(p.targets.shape, bool) if p.mask is None else p.mask.astype(bool)
    thresholds = np.full(K, 0.5) if p.thresholds is None else p.thresholds
    actual, guessed = p.targets.astype(bool) & counts, (p.scores >= thresholds[None]) & counts
    return Decisions(actual.T, guessed.T, counts.T, names)


class F1(Metric):
    """``f1_macro``, the mean over classes; ``f1_weighted``, weighted by their samples; ``f1_<class>``."""

    title = "F1"
    numbers = ("f1_macro", "f1_weighted")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`."""
        binary = decisions(p)
        parts = [
            once(weighted_f1(guessed, actual)) for guessed, actual in zip(binary.guessed, binary.actual, strict=True)
        ]
        overall = {"f1_macro": mean_of(parts), "f1_weighted": support_weighted(parts, binary.actual)}
        return overall | {f"f1_{name}": part for name, part in zip(binary.names, parts, strict=True)}


class Precision(Metric):
    """``precision_macro``, ``precision_weighted`` and ``precision_<class>``; 0 where a class is never predicted."""

    title = "precision"
    numbers = ("precision_macro", "precision_weighted")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`."""
        binary = decisions(p)
        pairs = zip(binary.guessed, binary.actual, strict=True)
        parts = [once(weighted_precision(guessed, actual)) for guessed, actual in pairs]
        overall = {"precision_macro": mean_of(parts), "precision_weighted": support_weighted(parts, binary.actual)}
        return overall | {f"precision_{name}": part for name, part in zip(binary.names, parts, strict=True)}


class Auc(Metric):
    """``auc_macro``, the mean area under the ROC curve of each class against the rest, and ``auc_<class>``."""

    title = "AUC"
    numbers = ("auc_macro",)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`."""
        binary, parts = decisions(p), []
        for k, counts in enumerate(binary.counts):
            part = weighted_auc(p.scores[counts, k], binary.actual[k, counts])
            parts.append(once(part if counts.all() else masked(part, counts)))
        overall: dict[str, WeightedStatistic] = {"auc_macro": mean_of(parts)}
        return overall | {f"auc_{name}": part for name, part in zip(binary.names, parts, strict=True)}


class Accuracy(Metric):
    """``accuracy``, and ``balanced_accuracy``: the mean recall of the classes, whose own is ``recall_<class>``."""

    title = "accuracy"
    numbers = ("accuracy", "balanced_accuracy")
    over_samples = ("accuracy",)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`."""
        binary = decisions(p)
        correct = (p.scores.argmax(axis=1) == p.targets).astype(float)
        pairs = zip(binary.guessed, binary.actual, strict=True)
        parts = [once(weighted_recall(guessed, actual)) for guessed, actual in pairs]
        overall: dict[str, WeightedStatistic] = {
            "accuracy": lambda weights: weights @ correct / weights.sum(axis=1),
            "balanced_accuracy": mean_of(parts),
        }
        return overall | {f"recall_{name}": part for name, part in zip(binary.names, parts, strict=True)}


def best_thresholds(scores: Array, targets: Array, mask: Array | None = None) -> Array:
    """Per label, the threshold that maximises F1 on validation samples ``[n, K]``; 0.5 where there is no positive."""
    K = scores.shape[1]
    chosen = np.full(K, 0.5)
    for k in range(K):
        keep = np.ones(len(scores), bool) if mask is None else mask[:, k].astype(bool)
        s, y = scores[keep, k], targets[keep, k].astype(bool)
        if not y.any():
            continue
        order = np.argsort(-s, kind="stable")
        hits = np.cumsum(y[order])
        f1 = 2 * hits / (np.arange(1, len(s) + 1) + y.sum())
        last_of_tie = np.r_[s[order][1:] != s[order][:-1], True]
        chosen[k] = s[order][np.argmax(np.where(last_of_tie, f1, -1.0))]
    return chosen
