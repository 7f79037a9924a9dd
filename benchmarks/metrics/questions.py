"""Metrics of a model that answers several questions: each question by itself, and their unweighted mean.

A question with many samples or classes counts as much in the mean as any other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.classification import F1, Accuracy, Auc
from medgraft.benchmarks.metrics.weighted import mean_of, slug
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

BY_QUESTION = {
    "f1": "f1_macro",
    "auc": "auc_macro",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
}
"""Prefix of a question's metric, followed by ``_<question>`` -> the metric within the question."""

AVERAGED = ("f1_macro", "f1_weighted", "auc_macro", "accuracy", "balanced_accuracy")
WITHIN: tuple[Metric, ...] = (F1(), Auc(), Accuracy())


class Questions(Metric):
    """``f1_<question>`` and so on, and means over the questions; one that no test sample asks is undefined."""

    title = "questions"
    numbers = AVERAGED

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`; ``p`` has ``asked``, ``questions`` and ``answers``."""
        assert p.asked is not None
        by_question: dict[str, dict[str, WeightedStatistic]] = {}
        for number, (name, classes) in enumerate(zip(p.questions, p.answers, strict=True)):
            rows, within = np.flatnonzero(p.asked == number), {}
            if len(rows):
                of_question = _of_question(p, rows, classes)
                within = {key: part for metric in WITHIN for key, part in metric.statistics(of_question).items()}
            by_question[slug(name)] = {
                key: _of_rows(within[key], rows) if key in within else _undefined for key in AVERAGED
            }
        overall = {metric: mean_of([each[metric] for each in by_question.values()]) for metric in AVERAGED}
        return overall | {
            f"{prefix}_{name}": each[metric]
            for name, each in by_question.items()
            for prefix, metric in BY_QUESTION.items()
        }


def _undefined(weights: Array) -> Array:
    return np.full(len(weights), np.nan)


def _of_question(p: Predictions, rows: Array, classes: tuple[int, ...]) -> Predictions:
    targets = np.searchsorted(np.sort(classes), p.targets[rows])
    names = tuple(p.classes[k] for k in sorted(classes))
    return Predictions(p.scores[np.ix_(rows, np.sort(classes))], targets, p.groups[rows], names)


def _of_rows(statistic: WeightedStatistic, rows: Array) -> WeightedStatistic:
    """A statistic of some samples as a function of all samples' weights; undefined where none of them was drawn."""

    def whole(weights: Array) -> Array:
        part = weights[:, rows]
        some = part.sum(axis=1) > 0
        values = np.full(len(weights), np.nan)
        if some.any():
            values[some] = statistic(part[some])
        return values

    return whole
