"""Charts of one row's predictions: confusion matrix, ROC, precision and recall; numbers against their truth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medgraft.benchmarks.metrics.classification import decisions
from medgraft.benchmarks.site.charts.confusion import confusion_chart
from medgraft.benchmarks.site.charts.lines import Chart, Line, banded_chart, unit_chart
from medgraft.commands.plain_text import one_line
from medgraft.judging import objective_of
from medgraft.metric import Array, Predictions

MOST_CURVES = 6
"""Classes with a curve; of more, those with the most test samples."""
MOST_POINTS = 80
FEWEST = 20
"""Test samples below which numbers have no chart of tenths."""


def prediction_charts(seeds: Sequence[Predictions], names: Sequence[str]) -> list[Chart]:
    """Charts of a row's predictions.

    Args:
        seeds: Predictions of each seed; curves are of the first, counts the mean of all.
        names: Names of the seeds.
    """
    if not seeds:
        return []
    first, metrics = seeds[0], objective_of(seeds[0]).judged_by(seeds[0])
    if "auc" in metrics and first.asked is None:
        return [*_confusion(seeds), *_by_class(first, names[0] if len(seeds) > 1 else "")]
    if "errors" in metrics and len(first.targets) >= FEWEST:
        return [_tenths(first, names[0] if len(seeds) > 1 else "")]
    return []


def _confusion(seeds: Sequence[Predictions]) -> list[Chart]:
    first = seeds[0]
    if first.targets.ndim != 1:
        return []
    K = len(first.classes)
    tables = [np.bincount(p.targets * K + p.scores.argmax(axis=1), minlength=K * K).reshape(K, K) for p in seeds]
    note = f"Counts are means over {len(seeds)} seeds." if len(seeds) > 1 else ""
    chart = confusion_chart(np.mean(tables, axis=0), [one_line(name, 60) for name in first.classes], note)
    return [] if chart is None else [chart]


def _by_class(p: Predictions, seed: str) -> list[Chart]:
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
        roc.append(Line(name, np.r_[0, false[at] / false[-1]].tolist(), np.r_[0, true[at] / true[-1]].tolist()))
        recall.append(Line(name, (true[at] / true[-1]).tolist(), (true / (true + false))[at].tolist()))
    notes = [f"Of {seed}."] if seed else []
    if len(usable) > MOST_CURVES:
        notes.append(f"The {MOST_CURVES} of {len(usable)} classes with the most test samples.")
    note = " ".join(notes)
    return [
        unit_chart("ROC curves", roc, "false positive rate", "true positive rate", diagonal=True, note=note),
        unit_chart("Precision and recall", recall, "recall", "precision", note=note),
    ]


def steps(scores: Array, actual: Array) -> tuple[Array, Array]:
    """Samples found and false alarms at each threshold, from the highest score down.

    As the first two of ``sklearn.metrics.roc_curve`` times their totals, every threshold kept; of ten thousand rows its
    checks of the arguments would take a minute.

    Args:
        scores: ``[n]``.
        actual: ``bool [n]``.
    """
    order = np.argsort(-scores, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(scores[order])), len(scores) - 1]
    true = np.cumsum(actual[order])[last]
    return true, 1 + last - true


def thinned(count: int, most: int = MOST_POINTS) -> Array:
    """Numbers of at most ``most`` of ``count`` points, evenly, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def _tenths(p: Predictions, seed: str) -> Chart:
    """Predicted numbers against what was true, as means of tenths: single samples are nobody's to show."""
    predicted, true = p.scores.reshape(len(p.targets), -1)[:, 0], p.targets.astype(float)
    parts = np.array_split(np.argsort(predicted, kind="stable"), min(10, len(true) // 10 or 1))
    xs = [float(predicted[part].mean()) for part in parts]
    ys = [float(true[part].mean()) for part in parts]
    half = [1.96 * float(true[part].std(ddof=1)) / len(part) ** 0.5 if len(part) > 1 else 0.0 for part in parts]
    low, high = [y - h for y, h in zip(ys, half, strict=True)], [y + h for y, h in zip(ys, half, strict=True)]
    note = "Each point is the mean of a part of the test samples by prediction, bars its 95% interval (samples)."
    line = Line("means", xs, ys, low, high)
    return banded_chart("Predicted and true numbers", line, "predicted", "true", f"{note} {seed and f'Of {seed}.'}")
