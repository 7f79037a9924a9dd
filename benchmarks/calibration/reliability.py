"""Reliability curves: in bins of equally many samples, what was predicted and what happened.

Murphy and Winkler, "Reliability of subjective probability forecasts of precipitation and temperature", Applied
Statistics 26, 1977. The bins are those of the calibration error, so that it is what one sees: the mean distance of the
points from the diagonal, each counted by its samples.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medgraft.benchmarks.metrics.calibration import adaptive_bins, bins_for, outcomes, top_label
from medgraft.benchmarks.metrics.student import LEVEL
from medgraft.metric import Array, Predictions

SIMULATED = 200
"""Simulated test sets of :func:`chance_error`."""

DIGITS = 6


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Curve(_Model):
    """One reliability curve, bin by bin in the order of confidence.

    Attributes:
        confidence: Mean predicted probability.
        observed: Share of the samples in which it happened.
        ci_low: Lower end of the 95% interval of ``observed``: Wilson's, counting subjects and not samples.
        ci_high: Upper end.
        samples: Samples in the bin.
        subjects: Subjects that they come from.
    """

    confidence: tuple[float, ...]
    observed: tuple[float, ...]
    ci_low: tuple[float, ...]
    ci_high: tuple[float, ...]
    samples: tuple[int, ...]
    subjects: tuple[int, ...]


class Reliability(_Model):
    """The reliability of some predictions.

    Attributes:
        likeliest: Of classes, how often the likeliest one was right; ``None`` for labels.
        classes: Class or label -> how often it was there; none for a label that no sample counts for.
        chance_error: The ``ece`` that predictions would have which mean exactly what they say: mean, and the value that
            one test set in twenty exceeds.
    """

    likeliest: Curve | None = None
    classes: dict[str, Curve] = Field(default_factory=dict)
    chance_error: tuple[float, float] | None = None


def wilson(share: Array, n: Array) -> tuple[Array, Array]:
    """Ends of Wilson's 95% interval of shares ``[m]`` among ``n`` ``[m]`` (JASA 22, 1927).

    Unlike resampling it has a width where all or none of ten samples hit.

    Example:
        >>> [end.round(3).tolist() for end in wilson(np.array([1.0, 0.5]), np.array([10, 100]))]
        [[0.722, 0.404], [1.0, 0.596]]
    """
    from scipy.special import ndtri

    z2 = float(ndtri((1 + LEVEL) / 2)) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return (middle - half).clip(0, 1), (middle + half).clip(0, 1)


def curve(confidence: Array, outcome: Array, subjects: Array) -> Curve:
    """The curve of one column of probabilities.

    Args:
        confidence: ``float64 [n]``, at least one.
        outcome: ``[n]`` of 0 and 1.
        subjects: ``int64 [n]``.
    """
    bins = adaptive_bins(confidence, bins_for(len(confidence)))
    used, bins, samples = np.unique(bins, return_inverse=True, return_counts=True)
    mean = np.bincount(bins, confidence) / samples
    observed = np.bincount(bins, outcome) / samples
    people = np.array([len(np.unique(subjects[bins == b])) for b in range(len(used))])
    low, high = wilson(observed, people)
    columns = (tuple(column.round(DIGITS).tolist()) for column in (mean, observed, low, high))
    return Curve(
        **dict(zip(("confidence", "observed", "ci_low", "ci_high"), columns, strict=True)),
        samples=tuple(samples.tolist()),
        subjects=tuple(people.tolist()),
    )


def curves(p: Predictions) -> tuple[Curve | None, dict[str, Curve]]:
    """Curves of probabilities: of the likeliest class, ``None`` for labels, and of each class or label by name."""
    happened, counts = outcomes(p)
    classes = {
        name: curve(p.scores[counts[:, k], k], happened[counts[:, k], k], p.groups[counts[:, k]])
        for k, name in enumerate(p.classes)
        if counts[:, k].any()
    }
    return (curve(*top_label(p), p.groups) if p.targets.ndim == 1 else None), classes


def reliability(p: Predictions) -> Reliability:
    """Curves of probabilities of classes or labels, and what chance alone would make of the calibration error."""
    likeliest, classes = curves(p)
    counts = outcomes(p)[1]
    columns = [p.scores[counts[:, k], k] for k in range(len(p.classes)) if counts[:, k].any()]
    if likeliest is not None:
        columns = [top_label(p)[0]]
    return Reliability(likeliest=likeliest, classes=classes, chance_error=chance_error(columns))


def chance_error(columns: list[Array], seed: int = 0) -> tuple[float, float] | None:
    """The calibration error of predictions that are exactly right, from chance alone: its mean and 95th percentile.

    Consistency resampling (Broecker and Smith, "Increasing the reliability of reliability diagrams", Weather and
    Forecasting 22, 2007): outcomes are drawn with the predicted probabilities. Samples are drawn independently of each
    other; several of one subject spread more than that.

    Args:
        columns: Probabilities ``[n]`` of the likeliest class, or of each label, whose errors are averaged.
        seed: Of the draws.
    """
    if not columns:
        return None
    random, errors = np.random.default_rng([seed, 43]), []
    for confidence in columns:
        bins = adaptive_bins(confidence, bins_for(len(confidence)))
        order = np.argsort(bins, kind="stable")
        starts, p = np.flatnonzero(np.r_[True, np.diff(bins[order]) > 0]), confidence[order]
        draws = [
            np.abs(np.add.reduceat((random.random(len(p)) < p) - p, starts)).sum() / len(p) for _ in range(SIMULATED)
        ]
        errors.append(draws)
    by_test_set = np.mean(errors, axis=0)
    return round(float(by_test_set.mean()), DIGITS), round(float(np.quantile(by_test_set, 0.95)), DIGITS)
