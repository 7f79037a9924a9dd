"""Metrics on stored predictions, with intervals that resample subjects.

Point values come from scikit-learn. Intervals come from :func:`scipy.stats.bootstrap` over subjects: its statistic gets
resampled subject numbers, turns them into a weight per sample, and evaluates the weighted metric for all resamples at
once. Two scans of one person are never two independent facts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

Array = NDArray[Any]
WeightedStatistic = Callable[[Array], Array]
LEVEL = 0.95


class Metric(BaseModel):
    """One number of a result.

    Attributes:
        value: Point value on all test samples; ``None`` where it is undefined (a label without positives).
        ci_low: Lower end of the 95% interval, ``None`` where it cannot be had.
        ci_high: Upper end.
        n: Test samples that entered.
        n_subjects: Subjects they come from; what the interval resamples.
        undefined_share: Share of resamples in which the metric was undefined and which were left out.
    """

    model_config = ConfigDict(extra="forbid")

    value: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    n_subjects: int
    undefined_share: float = 0.0


@dataclass(frozen=True)
class Predictions:
    """Test predictions.

    Attributes:
        scores: ``float64 [n, K]``: class probabilities, or a probability per label. For dense tasks see
            :mod:`medgraft.benchmarks.dense_metrics`.
        targets: ``int64 [n]`` class indices, or ``[n, K]`` labels.
        groups: ``int64 [n]`` anonymous subject numbers.
        classes: ``K`` names.
        mask: ``[n, K]`` true where a label counts, or ``None``.
        thresholds: ``[K]`` decision thresholds of multi-label scores, or ``None``.
        objective: ``segmentation`` or ``detection`` for a dense task, else empty: the targets tell the other two apart.
        variants: Further metrics by name.
        asked: ``int64 [n]``, number of the question that each sample asks, or ``None``.
        questions: Their names.
        answers: Classes that answer each question; only these compete for its samples.
    """

    scores: Array
    targets: Array
    groups: Array
    classes: tuple[str, ...]
    mask: Array | None = None
    thresholds: Array | None = None
    objective: str = ""
    variants: tuple[str, ...] = ()
    asked: Array | None = None
    questions: tuple[str, ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()


def resample_weights(subjects: Array, n_subjects: int) -> Array:
    """Subject numbers of resamples ``[R, S]`` -> how often each subject was drawn, ``[R, S]``."""
    R = len(subjects)
    flat = subjects + np.arange(R)[:, None] * n_subjects
    return np.bincount(flat.ravel(), minlength=R * n_subjects).reshape(R, n_subjects)


def subject_bootstrap(
    statistics: Mapping[str, WeightedStatistic], groups: Array, resamples: int = 1000, seed: int = 0
) -> dict[str, Array]:
    """Bootstrap distributions of several metrics under one set of resamples.

    Args:
        statistics: Name -> function of weights ``[R, n]`` giving the metric of each resample ``[R]``.
        groups: ``[n]`` subject number of each sample, ``0 .. S - 1``.
        resamples: Number of resamples.
        seed: Of the resampling.

    Returns:
        Name -> ``[resamples]`` values, ``nan`` where undefined.
    """
    from scipy import stats

    S = int(groups.max()) + 1
    names = list(statistics)
    if S < 2:
        return {name: np.full(resamples, np.nan) for name in names}  # one subject says nothing about another

    def evaluate(drawn: Array, axis: int = -1) -> Array:
        drawn = np.atleast_2d(np.asarray(drawn, dtype=np.int64))
        weights = resample_weights(drawn, S)[:, groups].astype(np.float64)
        return np.stack([statistics[name](weights) for name in names])

    with warnings.catch_warnings():
        # scipy warns when a percentile interval is degenerate; the caller handles undefined resamples itself.
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            (np.arange(S),),
            evaluate,
            n_resamples=resamples,
            method="percentile",
            vectorized=True,
            rng=np.random.default_rng(seed),
            batch=250,
        )
    return dict(zip(names, np.asarray(result.bootstrap_distribution), strict=True))


def weighted_auc(scores: Array, positive: Array) -> WeightedStatistic:
    """AUROC of one score column as a function of sample weights; ties count half, undefined is ``nan``."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    is_positive = positive[order].astype(bool)

    def statistic(weights: Array) -> Array:
        w = weights[:, order]
        up = np.add.reduceat(w * is_positive, starts, axis=1)
        down = np.add.reduceat(w * ~is_positive, starts, axis=1)
        below = np.cumsum(down, axis=1) - down
        area = (up * (below + 0.5 * down)).sum(axis=1)
        total = up.sum(axis=1) * down.sum(axis=1)
        return np.divide(area, total, out=np.full(len(w), np.nan), where=total > 0)

    return statistic


def weighted_f1(predicted: Array, actual: Array) -> WeightedStatistic:
    """F1 of one binary decision as a function of sample weights; undefined (``nan``) where no sample is positive."""
    hit, wrong = (predicted & actual).astype(float), (predicted ^ actual).astype(float)
    positive = actual.astype(float)

    def statistic(weights: Array) -> Array:
        true_positive, errors = weights @ hit, weights @ wrong
        total = 2 * true_positive + errors
        return np.divide(2 * true_positive, total, out=np.full(len(weights), np.nan), where=weights @ positive > 0)

    return statistic


def mean_of(parts: Sequence[WeightedStatistic]) -> WeightedStatistic:
    """Mean of statistics, in each resample over those that are defined there, as in the point value.

    A resample in which a rare class has no sample counts with the others. Leaving it out would keep resamples in which
    that class is well represented, and make the interval too narrow.
    """

    def statistic(weights: Array) -> Array:
        values = np.stack([part(weights) for part in parts])
        known = ~np.isnan(values)
        total, count = np.where(known, values, 0.0).sum(axis=0), known.sum(axis=0)
        return np.divide(total, count, out=np.full(len(weights), np.nan), where=count > 0)

    return statistic


def mean_defined(values: Sequence[float]) -> float:
    """Mean of what is not ``nan``."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _support_weighted(parts: list[WeightedStatistic], supports: Array) -> WeightedStatistic:
    """Mean of per-class statistics weighted by the classes' (resampled) support; ``supports`` is ``[K, n]``."""

    def statistic(weights: Array) -> Array:
        support = weights @ supports.T.astype(float)
        values = np.nan_to_num(np.stack([part(weights) for part in parts], axis=1))  # undefined has no support
        total = support.sum(axis=1)
        return np.divide((values * support).sum(axis=1), total, out=np.full(len(weights), np.nan), where=total > 0)

    return statistic


def _masked(statistic: WeightedStatistic, keep: Array) -> WeightedStatistic:
    return lambda weights: statistic(weights[:, keep])


def _recall(predicted: Array, actual: Array) -> WeightedStatistic:
    def statistic(weights: Array) -> Array:
        total = weights @ actual.astype(float)
        return np.divide(
            weights @ (predicted & actual).astype(float), total, out=np.full(len(weights), np.nan), where=total > 0
        )

    return statistic


def _precision(predicted: Array, actual: Array) -> WeightedStatistic:
    """0 where nothing is predicted, as in the point value, and undefined where no sample is positive."""

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


def multiclass_points(p: Predictions) -> tuple[dict[str, float], dict[str, WeightedStatistic]]:
    """Point values and weighted statistics of a single-label task; means leave absent classes out, by name.

    The macro mean of recall is ``balanced_accuracy``, its mean weighted by support is ``accuracy``.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    K = len(p.classes)
    guess = p.scores.argmax(axis=1)
    one_hot, guessed = p.targets[None] == np.arange(K)[:, None], guess[None] == np.arange(K)[:, None]
    rates = precision_recall_fscore_support(p.targets, guess, labels=np.arange(K), zero_division=0)  # pyright: ignore
    precision, recall, f1, support = (np.asarray(rate) for rate in rates)
    present = np.flatnonzero(support)
    precision, recall, f1 = (np.where(support > 0, values, np.nan) for values in (precision, recall, f1))
    f1_parts = [weighted_f1(guessed[k], one_hot[k]) for k in range(K)]
    auc_parts = [weighted_auc(p.scores[:, k], one_hot[k]) for k in range(K)]
    aucs = [safe_auc(one_hot[k], p.scores[:, k]) for k in range(K)]
    points = {
        "f1_macro": float(np.mean(f1[present])),
        "f1_weighted": float(np.average(f1[present], weights=support[present])),
        "precision_macro": float(np.mean(precision[present])),
        "precision_weighted": float(np.average(precision[present], weights=support[present])),
        "auc_macro": mean_defined(aucs),
        "accuracy": float(accuracy_score(p.targets, guess)),
        "balanced_accuracy": float(np.mean(recall[present])),
    }
    correct = (guess == p.targets).astype(float)
    recalls = [_recall(guessed[k], one_hot[k]) for k in range(K)]
    precisions = [_precision(guessed[k], one_hot[k]) for k in range(K)]
    weighted: dict[str, WeightedStatistic] = {
        "f1_macro": mean_of([f1_parts[k] for k in present]),
        "f1_weighted": _support_weighted(f1_parts, one_hot),
        "precision_macro": mean_of([precisions[k] for k in present]),
        "precision_weighted": _support_weighted(precisions, one_hot),
        "accuracy": lambda w: w @ correct / w.sum(axis=1),
        "balanced_accuracy": mean_of([recalls[k] for k in present]),
    }
    if defined := [auc_parts[k] for k in range(K) if not np.isnan(aucs[k])]:
        weighted["auc_macro"] = mean_of(defined)
    for k, name in enumerate(map(slug, p.classes)):
        points |= {f"f1_{name}": float(f1[k]), f"auc_{name}": aucs[k]}
        points |= {f"precision_{name}": float(precision[k]), f"recall_{name}": float(recall[k])}
        weighted |= {f"f1_{name}": f1_parts[k], f"auc_{name}": auc_parts[k]}
        weighted |= {f"recall_{name}": recalls[k], f"precision_{name}": precisions[k]}
    return points, weighted


def multilabel_points(p: Predictions) -> tuple[dict[str, float], dict[str, WeightedStatistic]]:
    """Point values and weighted statistics of a multi-label task; means leave undefined labels out, by name."""
    K = len(p.classes)
    mask = np.ones(p.targets.shape, bool) if p.mask is None else p.mask.astype(bool)
    thresholds = np.full(K, 0.5) if p.thresholds is None else p.thresholds
    actual, guess = p.targets.astype(bool), p.scores >= thresholds[None]
    aucs = [safe_auc(actual[mask[:, k], k], p.scores[mask[:, k], k]) for k in range(K)]
    stats_f1 = [weighted_f1(guess[:, k] & mask[:, k], actual[:, k] & mask[:, k]) for k in range(K)]
    support = (actual & mask).sum(axis=0)
    present = np.flatnonzero(support)
    f1 = [float(s(np.ones((1, len(actual))))[0]) for s in stats_f1]
    auc_parts = [_masked(weighted_auc(p.scores[mask[:, k], k], actual[mask[:, k], k]), mask[:, k]) for k in range(K)]
    points = {
        "f1_macro": mean_defined(f1),
        "f1_weighted": float(np.average(np.nan_to_num(f1), weights=support)) if support.sum() else float("nan"),
        "auc_macro": mean_defined(aucs),
    }
    weighted: dict[str, WeightedStatistic] = {"f1_weighted": _support_weighted(stats_f1, (actual & mask).T)}
    if len(present):
        weighted["f1_macro"] = mean_of([stats_f1[k] for k in present])
    if defined := [auc_parts[k] for k in range(K) if not np.isnan(aucs[k])]:
        weighted["auc_macro"] = mean_of(defined)
    for k, name in enumerate(map(slug, p.classes)):
        points |= {f"f1_{name}": f1[k], f"auc_{name}": aucs[k]}
        weighted |= {f"f1_{name}": stats_f1[k], f"auc_{name}": auc_parts[k]}
    return points, weighted


def points(p: Predictions) -> tuple[dict[str, float], dict[str, WeightedStatistic]]:
    """Point values and weighted statistics of any task's predictions."""
    if p.objective in ("segmentation", "detection"):
        from medgraft.benchmarks.dense_metrics import DENSE_POINTS

        return DENSE_POINTS[p.objective](p)
    if p.answers:
        from medgraft.benchmarks.question_metrics import question_points

        return question_points(p)
    values, weighted = multiclass_points(p) if p.targets.ndim == 1 else multilabel_points(p)
    if p.variants:
        from medgraft.benchmarks.metric_variants import variant_points

        more, weighted_more = variant_points(p)
        values, weighted = values | more, weighted | weighted_more
    return values, weighted


def evaluate(p: Predictions, *, resamples: int = 1000, seed: int = 0) -> dict[str, Metric]:
    """All metrics of a task with their intervals.

    Args:
        p: Test predictions; ``targets`` of rank 1 mean a single-label task, of rank 2 a multi-label one.
        resamples: Bootstrap resamples; 0 leaves the intervals out.
        seed: Of the resampling.
    """
    values, weighted = points(p)
    distributions = subject_bootstrap(weighted, p.groups, resamples, seed) if resamples else {}
    n, n_subjects = len(p.targets), int(p.groups.max()) + 1
    return {name: _metric(value, distributions.get(name), n, n_subjects) for name, value in values.items()}


def interval(distribution: Array) -> tuple[float | None, float | None, float]:
    """Percentile interval of the defined resamples, and the share of undefined ones."""
    undefined = np.isnan(distribution)
    if undefined.all():
        return None, None, 1.0
    low, high = np.quantile(distribution[~undefined], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high), float(undefined.mean())


def _metric(value: float, distribution: Array | None, n: int, n_subjects: int) -> Metric:
    known = None if np.isnan(value) else float(value)
    low, high, share = interval(distribution) if distribution is not None and known is not None else (None, None, 0.0)
    return Metric(value=known, ci_low=low, ci_high=high, n=n, n_subjects=n_subjects, undefined_share=round(share, 4))


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
