"""Metrics of a model that answers several questions: each question by itself, and their unweighted mean.

A question with many samples or classes counts as much in the mean as any other.
"""

from __future__ import annotations

import numpy as np

from medgraft.benchmarks.metrics import (
    Array,
    Predictions,
    WeightedStatistic,
    mean_defined,
    mean_of,
    multiclass_points,
    slug,
)

BY_QUESTION = {
    "f1": "f1_macro",
    "auc": "auc_macro",
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced_accuracy",
}
"""Prefix of a question's metric, followed by ``_<question>`` -> the metric within the question."""

AVERAGED = ("f1_macro", "f1_weighted", "auc_macro", "accuracy", "balanced_accuracy")


def question_points(p: Predictions) -> tuple[dict[str, float], dict[str, WeightedStatistic]]:
    """Point values and weighted statistics: ``f1_<question>`` and so on, and means over the questions.

    A question that no test sample asks is undefined, and left out of the means.

    Args:
        p: Predictions with ``asked``, ``questions`` and ``answers``.
    """
    assert p.asked is not None
    found: list[tuple[str, dict[str, float], dict[str, WeightedStatistic]]] = []
    for number, (name, classes) in enumerate(zip(p.questions, p.answers, strict=True)):
        rows = np.flatnonzero(p.asked == number)
        values, weighted = ({}, {}) if len(rows) == 0 else multiclass_points(_of_question(p, rows, classes))
        found.append((slug(name), values, {key: _of_rows(part, rows) for key, part in weighted.items()}))
    points: dict[str, float] = {}
    weighted: dict[str, WeightedStatistic] = {}
    for metric in AVERAGED:
        points[metric] = mean_defined([values.get(metric, float("nan")) for _, values, _ in found])
        if parts := [own[metric] for _, _, own in found if metric in own]:
            weighted[metric] = mean_of(parts)
    for name, values, own in found:
        for prefix, metric in BY_QUESTION.items():
            points[f"{prefix}_{name}"] = values.get(metric, float("nan"))
            if metric in own:
                weighted[f"{prefix}_{name}"] = own[metric]
    return points, weighted


def _of_question(p: Predictions, rows: Array, classes: tuple[int, ...]) -> Predictions:
    targets = np.searchsorted(np.sort(classes), p.targets[rows])
    names = tuple(p.classes[k] for k in sorted(classes))
    return Predictions(p.scores[np.ix_(rows, np.sort(classes))], targets, p.groups[rows], names)


def _of_rows(statistic: WeightedStatistic, rows: Array) -> WeightedStatistic:
    """A statistic of some samples as a function of all samples' weights; undefined where none of them was drawn."""

    def whole(weights: Array) -> Array:
        own = weights[:, rows]
        some = own.sum(axis=1) > 0
        values = np.full(len(weights), np.nan)
        if some.any():
            values[some] = statistic(own[some])
        return values

    return whole
