"""Metrics of people where a sample is a part of one: scores are averaged over the samples of a subject first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from medgraft.benchmarks.metrics.classification import F1, Accuracy, Auc
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

PREFIX = "subject_"


class BySubject(Metric):
    """``subject_f1_macro``, ``subject_auc_macro`` and ``subject_balanced_accuracy``.

    The probabilities of a subject are the means of those of its samples, such as the windows of a recording. A subject
    whose samples have several labels counts once for each of them. The weight of a subject is that of its first sample:
    whoever resamples or leaves out subjects weighs all samples of one alike.
    """

    title = "of subjects, probabilities averaged over their samples"
    numbers = tuple(f"{PREFIX}{name}" for name in ("f1_macro", "auc_macro", "balanced_accuracy"))

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`; for classes that exclude each other, nothing for labels."""
        if p.targets.ndim != 1:
            return {}
        pairs = np.stack([p.groups, p.targets], axis=1)
        units, first, of_sample, counts = np.unique(
            pairs, axis=0, return_index=True, return_inverse=True, return_counts=True
        )
        scores = np.zeros((len(units), p.scores.shape[1]))
        np.add.at(scores, of_sample.reshape(-1), p.scores)
        people = replace(
            p, scores=scores / counts[:, None], targets=units[:, 1], groups=units[:, 0], asked=None, columns={}
        )
        found: dict[str, WeightedStatistic] = {}
        for metric in (F1(), Auc(), Accuracy()):
            found |= metric.statistics(people)
        return {name: _of_samples(found[name.removeprefix(PREFIX)], first) for name in self.numbers}


def _of_samples(statistic: WeightedStatistic, first: Array) -> WeightedStatistic:
    """A statistic of subjects by weights of samples ``[R, n]``; ``first`` is the first sample of each subject."""

    def by_samples(weights: Array) -> Array:
        return statistic(weights[:, first])

    return by_samples
