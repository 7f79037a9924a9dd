"""Charts of one row's predictions: confusion matrix, ROC, precision and recall; numbers against their truth.

A chart is what ``charts.lines`` of ``templates/charts.js`` reads: ``kind`` is ``unit`` (both axes from 0 to 1),
``alike`` (both of one range) or ``epochs``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medgraft.benchmarks.metrics.classification import decisions
from medgraft.commands.plain_text import one_line
from medgraft.metric import Array, Predictions
from medgraft.metric.judging import objective_of

Chart = dict[str, Any]
MOST_CURVES = 6
"""Classes with a curve; of more, those with the most test samples."""
MOST_CLASSES = 15
"""Classes above which a confusion matrix is a carpet, not a table."""
MOST_POINTS = 80
FEWEST = 20
"""Test samples below which numbers have no chart of tenths."""


@dataclass(frozen=True)
class Judged:
    """Charts of a row's predictions.

    Attributes:
        confusion: Classes and counts, true class by predicted class; ``None`` for other tasks.
        lines: Charts of lines.
    """

    confusion: Chart | None = None
    lines: list[Chart] = field(default_factory=list)


def prediction_charts(seeds: Sequence[Predictions], names: Sequence[str]) -> Judged:
    """Charts of a row's predictions.

    Args:
        seeds: Predictions of each seed; curves are of the first, counts the mean of all.
        names: Names of the seeds.
    """
    if not seeds:
        return Judged()
    first, metrics = seeds[0], objective_of(seeds[0]).judged_by(seeds[0])
    of = f"Of {names[0]}." if len(seeds) > 1 else ""
    if "auc" in metrics and first.asked is None:
        return Judged(_confusion(seeds), _by_class(first, of))
    if "errors" in metrics and len(first.targets) >= FEWEST:
        return Judged(None, [_tenths(first, of)])
    return Judged()


def line(name: str, xs: Sequence[float], ys: Sequence[float]) -> dict[str, Any]:
    """One line of a chart."""
    return {"name": name, "xs": xs, "ys": ys}


def _confusion(seeds: Sequence[Predictions]) -> Chart | None:
    first, K = seeds[0], len(seeds[0].classes)
    if first.targets.ndim != 1 or not 2 <= K <= MOST_CLASSES:
        return None
    tables = [np.bincount(p.targets * K + p.scores.argmax(axis=1), minlength=K * K).reshape(K, K) for p in seeds]
    note = f"Counts are means over {len(seeds)} seeds." if len(seeds) > 1 else ""
    counts = np.mean(tables, axis=0).round(3).tolist()
    return {"classes": [one_line(name, 60) for name in first.classes], "counts": counts, "note": note}


def _by_class(p: Predictions, of: str) -> list[Chart]:
    binary = decisions(p)
    positives = binary.actual.sum(axis=1)
    usable = [k for k in range(len(p.classes)) if 0 < positives[k] < binary.counts[k].sum()]
    if p.targets.ndim == 1 and len(p.classes) == 2:
        usable = usable[1:]  # the other curve is the same from the other end
    chosen = sorted(sorted(usable, key=lambda k: -positives[k])[:MOST_CURVES])
    if not chosen:
        return []
    roc, recall = [], []
    for k in chosen:
        counts, name = binary.counts[k], one_line(p.classes[k], 40)
        true, false = steps(p.scores[counts, k], binary.actual[k, counts])
        at = thinned(len(true))
        found, wrong, right = true[at] / true[-1], false[at] / false[-1], (true / (true + false))[at]
        roc.append(line(name, _short(np.r_[0, wrong]), _short(np.r_[0, found])))
        recall.append(line(name, _short(found), _short(right)))
    if len(usable) > MOST_CURVES:
        of = f"The {MOST_CURVES} of {len(usable)} classes with the most test samples. {of}"
    roc_axes = {"x": "false positive rate", "y": "true positive rate", "diagonal": True}
    return [
        {"title": "ROC curves", "kind": "unit", **roc_axes, "lines": roc, "note": of},
        {"title": "Precision and recall", "kind": "unit", "x": "recall", "y": "precision", "lines": recall, "note": of},
    ]


def _short(values: Array) -> list[float]:
    return values.round(4).tolist()


def steps(scores: Array, actual: Array) -> tuple[Array, Array]:
    """Samples found and false alarms at each threshold, from the highest score down.

    As the first two of ``sklearn.metrics.roc_curve`` times their totals, every threshold kept; over ten thousand rows
    its checks of the arguments would take a minute.

    Args:
        scores: ``[n]``.
        actual: ``bool [n]``.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    true = np.cumsum(actual[order])[last]
    return true, 1 + last - true


def thinned(count: int, most: int = MOST_POINTS) -> Array:
    """Numbers ``[m]`` of at most ``most`` of ``count`` points, evenly, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _tenths(p: Predictions, of: str) -> Chart:
    """Predicted numbers against what was true, as means of tenths: single samples are nobody's to show."""
    predicted, true = p.scores.reshape(len(p.targets), -1)[:, 0], p.targets.astype(float)
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(10, len(true) // 10))
    ys = np.array([true[part].mean() for part in parts])
    half = np.array([1.96 * true[part].std(ddof=1) / len(part) ** 0.5 for part in parts])
    whole = line("means of parts", _short(np.array([predicted[part].mean() for part in parts])), _short(ys))
    whole |= {"low": _short(ys - half), "high": _short(ys + half)}
    note = f"Means of equally many test samples by prediction; bars are 95% intervals over samples. {of}"
    axes = {"kind": "alike", "x": "predicted", "y": "true", "diagonal": True}
    return {"title": "Predicted and true numbers", **axes, "lines": [whole], "note": note.strip()}
