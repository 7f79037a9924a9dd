"""Metrics of predicted probabilities as such: are they near what happens, and do they mean what they say.

The Brier score is the mean squared distance of probabilities and outcomes (Brier, "Verification of forecasts expressed
in terms of probability", Monthly Weather Review 78, 1950). The calibration error compares mean probability and observed
frequency in bins of equally many samples: adaptive bins, as in Nguyen and O'Connor, "Posterior calibration and
exploratory analysis for natural language processing models", EMNLP 2015, and Nixon et al., "Measuring calibration in
deep learning", CVPR workshops 2019. Bins of equal width, most of them nearly empty, are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

import numpy as np

from medgraft.benchmarks.metrics.weighted import masked, mean_of, once, slug
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

MOST_BINS = 15
"""As many as in Guo et al., 2017, and Nixon et al., 2019."""

OF_PROBABILITIES = ("brier", "calibration_error")
"""Metrics of this module; an objective that is judged by them says that its scores are probabilities."""

FEWEST_IN_BIN = 10
"""Samples that a bin should have; fewer samples make fewer bins."""


STEPS = np.arange(MOST_BINS)


def bins_for(n: int) -> int:
    """Bins of ``n`` samples: 15, or fewer so that each has 10 samples.

    Example:
        >>> bins_for(1000), bins_for(80), bins_for(3)
        (15, 8, 1)
    """
    return max(1, min(MOST_BINS, n // FEWEST_IN_BIN))


def adaptive_bins(confidence: Array, bins: int) -> Array:
    """Bin of each sample, ``int64 [n]``: ``floor(bins * share of the samples with a lower confidence)``.

    Bins have equally many samples, to one, where no confidences are equal; equal ones share a bin, so that the order of
    the samples does not matter.

    Args:
        confidence: ``float64 [n]``.
        bins: Their number.

    Example:
        >>> adaptive_bins(np.array([0.9, 0.2, 0.4, 0.4, 0.7, 0.1]), 3)
        array([2, 0, 1, 1, 2, 0])
    """
    below = np.searchsorted(np.sort(confidence), confidence, side="left")
    return (bins * below) // max(1, len(confidence))


def weighted_ece(confidence: Array, outcome: Array) -> WeightedStatistic:
    """Calibration error of one column of probabilities as a function of sample weights; ``nan`` without any sample.

    ``sum over bins b of n_b / n * |mean outcome in b - mean confidence in b|``, with the bins of :func:`adaptive_bins`.
    Each resample has bins of its own, which split its own samples equally.

    Args:
        confidence: ``float64 [n]``, predicted probabilities.
        outcome: ``[n]``, 1 where the event happened, else 0.

    Example:
        >>> ece = weighted_ece(np.array([0.25, 0.25, 0.75, 0.75]), np.array([0, 1, 1, 1]))
        >>> ece(np.array([[1.0, 1, 1, 1], [1, 0, 1, 1]]))  # one bin: |3 - 2| / 4 and |2 - 1.75| / 3
        array([0.25      , 0.08333333])
    """
    n = len(confidence)
    order = np.argsort(confidence, kind="stable")
    ordered = confidence[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if n else np.zeros(0, int)
    gap = (outcome - confidence)[order].astype(float)

    def statistic(weights: Array) -> Array:
        mass = np.take(weights, order, axis=1)
        gaps = mass * gap
        if len(starts) < n:
            mass, gaps = (np.add.reduceat(each, starts, axis=1) for each in (mass, gaps))
        up_to, gaps = np.cumsum(mass, axis=1), np.cumsum(gaps, axis=1)
        total, below = up_to[:, -1], up_to - mass
        # Bins are runs of the ordered samples; their sums are differences of the cumulative one.
        cuts = np.full((len(mass), MOST_BINS - 1), mass.shape[1])
        counts = {count: bins_for(int(count)) for count in set(total.tolist())}
        for row, count in enumerate(total.tolist()):
            bins = counts[count]
            cuts[row, : bins - 1] = below[row].searchsorted(STEPS[1:bins] * (count / bins))
        ends = np.take_along_axis(np.pad(gaps, ((0, 0), (1, 0))), cuts, axis=1)
        sums = np.abs(np.diff(ends, axis=1, prepend=0.0, append=gaps[:, -1:])).sum(axis=1)
        return np.divide(sums, total, out=np.full(len(mass), np.nan), where=total > 0)

    return statistic if n else _undefined


def _undefined(weights: Array) -> Array:
    return np.full(len(weights), np.nan)


def weighted_mean(values: Array) -> WeightedStatistic:
    """Mean of ``values`` ``[n]`` as a function of weights; ``nan`` without any."""

    def statistic(weights: Array) -> Array:
        total = weights.sum(axis=1)
        return np.divide(weights @ values, total, out=np.full(len(weights), np.nan), where=total > 0)

    return statistic


def outcomes(p: Predictions) -> tuple[Array, Array]:
    """What happened, ``float64 [n, K]`` of 0 and 1, and where that counts, ``bool [n, K]``."""
    K = len(p.classes)
    if p.targets.ndim == 1:
        return (p.targets[:, None] == np.arange(K)).astype(float), np.ones((len(p.targets), K), bool)
    counts = np.ones(p.targets.shape, bool) if p.mask is None else p.mask.astype(bool)
    return (p.targets.astype(bool) & counts).astype(float), counts


def top_label(p: Predictions) -> tuple[Array, Array]:
    """Of classes, probability of the likeliest one ``[n]`` and whether it is the right one, 0 or 1 ``[n]``."""
    likeliest = p.scores.argmax(axis=1)
    return p.scores.max(axis=1), (likeliest == p.targets).astype(float)


class Brier(Metric):
    """``brier``, and ``brier_<class>``: the mean of ``(p - y)^2`` over the samples, for each class against the rest.

    Of more than two classes ``brier`` is the *sum* over the classes, from 0 to 2, as in Brier's paper. Of two it is
    half that sum, from 0 to 1, which is ``(p - y)^2`` of either class; so it is in scikit-learn's ``brier_score_loss``.
    Of labels it is the mean over the labels, each over the samples in which it counts.
    """

    title = "Brier score"
    numbers = ("brier",)
    over_samples = ("brier",)
    bounds: ClassVar[tuple[float, float]] = (0.0, 2.0)
    higher_is_better: ClassVar[bool] = False

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        happened, counts = outcomes(p)
        squares, names = (p.scores - happened) ** 2, map(slug, p.classes)
        parts = [_where(weighted_mean, counts[:, k], squares[:, k]) for k in range(len(p.classes))]
        if p.targets.ndim == 1:
            whole = weighted_mean(squares.sum(axis=1) / (2 if len(p.classes) == 2 else 1))
        else:
            whole = mean_of(parts)
        return {"brier": whole} | {f"brier_{name}": part for name, part in zip(names, parts, strict=True)}


class CalibrationError(Metric):
    """``ece``, ``ece_macro`` and ``ece_<class>``: expected calibration errors with adaptive bins, see the module.

    Of classes ``ece`` is that of the likeliest class, whether it is right; ``ece_<class>`` that of the class's own
    probability; ``ece_macro`` the mean of these. Of labels ``ece`` is the mean over labels.
    """

    title = "calibration error"
    numbers = ("ece", "ece_macro")
    higher_is_better: ClassVar[bool] = False
    centred: ClassVar[bool] = True

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        happened, counts = outcomes(p)
        parts = [_where(weighted_ece, counts[:, k], p.scores[:, k], happened[:, k]) for k in range(len(p.classes))]
        overall: dict[str, WeightedStatistic] = {"ece": mean_of(parts)}
        if p.targets.ndim == 1:
            overall = {"ece": weighted_ece(*top_label(p)), "ece_macro": mean_of(parts)}
        return overall | {f"ece_{slug(name)}": part for name, part in zip(p.classes, parts, strict=True)}


def _where(make: Callable[..., WeightedStatistic], counts: Array, *columns: Array) -> WeightedStatistic:
    """A statistic of the samples that count, as a function of all samples' weights."""
    part = make(*(column[counts] for column in columns))
    return once(part if counts.all() else masked(part, counts))
