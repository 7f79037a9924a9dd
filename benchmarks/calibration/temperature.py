"""Temperature scaling: one number, from validation samples, by which the logits of all samples are divided.

Guo et al., "On calibration of modern neural networks", ICML 2017: the temperature ``T > 0`` minimises the mean
negative log-likelihood of ``softmax(logits / T)``. The likeliest class stays the likeliest. Labels that do not exclude
each other get one temperature each, ``sigmoid(logit / T)``: Platt's scaling with a slope and no offset, so that an even
chance stays one, and neither the order of the samples nor, with the thresholds moved along, any decision changes.

The loss is convex in ``1 / T``, so the only root of its derivative is the minimum. Where there is none, no temperature
is taken: all samples are told apart without an error, and any sharper prediction is better still; or logits say no more
than chance, and any flatter one is better still.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medgraft.metric import Array

SHARPEST, FLATTEST = 1e-4, 1e4
"""Temperatures that are looked among."""

LEAST = float(np.finfo(np.float32).smallest_subnormal)
"""Scores are computed in single precision; one of 0 there was smaller than this."""

MOST = 1 - float(np.finfo(np.float32).epsneg) / 2
"""And one of 1 there was larger than this."""


def class_logits(probabilities: Array) -> Array:
    """Logits ``[n, K]`` of classes, up to a constant of each sample, from their probabilities ``[n, K]``."""
    return np.log(np.maximum(probabilities, LEAST))


def label_logits(probabilities: Array) -> Array:
    """Logits of labels from their probabilities, of any shape."""
    inside = np.clip(probabilities, LEAST, MOST)
    return np.log(inside) - np.log1p(-inside)


def fit_class_temperature(logits: Array, targets: Array) -> float | None:
    """The temperature of classes that exclude each other; ``None`` where no finite one is best.

    Args:
        logits: ``float64 [n, K]``.
        targets: ``int64 [n]``.

    Example:
        >>> fit_class_temperature(np.array([[3.0, 0], [3, 0], [3, 0], [0, 3]]), np.array([0, 0, 1, 1])).__round__(3)
        2.731
    """
    from scipy.special import softmax

    right = np.take_along_axis(logits, targets[:, None].astype(np.int64), axis=1)[:, 0] if len(targets) else logits

    def slope(sharpness: float) -> float:
        return float(((softmax(sharpness * logits, axis=1) * logits).sum(axis=1) - right).mean())

    return _root(slope) if len(np.unique(targets)) > 1 else None


def fit_label_temperature(logits: Array, targets: Array) -> float | None:
    """The temperature of one label; ``None`` where no finite one is best, or all samples have it, or none.

    Args:
        logits: ``float64 [n]``.
        targets: ``[n]`` of 0 and 1.
    """
    from scipy.special import expit

    def slope(sharpness: float) -> float:
        return float(((expit(sharpness * logits) - targets) * logits).mean())

    return _root(slope) if len(np.unique(targets)) > 1 else None


def _root(slope: Callable[[float], float]) -> float | None:
    from scipy.optimize import brentq

    low, high = np.log(1 / FLATTEST), np.log(1 / SHARPEST)
    if slope(np.exp(low)) >= 0 or slope(np.exp(high)) <= 0:
        return None
    return float(np.exp(-float(brentq(lambda x: slope(np.exp(x)), low, high, xtol=1e-13))))  # pyright: ignore


def temperatures_of(scores: Array, targets: Array, mask: Array | None = None) -> tuple[float | None, ...]:
    """Temperatures for probabilities: one for classes, or one for each label.

    Args:
        scores: Probabilities of validation samples, ``float64 [n, K]``.
        targets: ``int64 [n]`` classes, or ``[n, K]`` labels.
        mask: ``[n, K]``, where a label counts; ``None`` for everywhere.
    """
    if targets.ndim == 1:
        return (fit_class_temperature(class_logits(scores), targets),)
    counts = np.ones(targets.shape, bool) if mask is None else mask.astype(bool)
    logits, happened = label_logits(scores), targets.astype(bool).astype(float)
    return tuple(
        fit_label_temperature(logits[counts[:, k], k], happened[counts[:, k], k]) for k in range(targets.shape[1])
    )


def scaled(scores: Array, temperatures: tuple[float | None, ...], *, labels: bool) -> Array:
    """Probabilities ``[..., K]`` after temperature scaling; those that have no temperature stay as they are.

    Args:
        scores: Probabilities of classes, which sum to 1, or of labels; or thresholds ``[K]`` of labels.
        temperatures: What :func:`temperatures_of` gave.
        labels: They are those of labels.

    Example:
        >>> scaled(np.array([[0.9, 0.1]]), (2.0,), labels=False).round(3), scaled(np.array([0.9]), (2.0,), labels=True)
        (array([[0.75, 0.25]]), array([0.75]))
    """
    from scipy.special import expit, softmax

    if not labels:
        (temperature,) = temperatures
        return scores if temperature is None else softmax(class_logits(scores) / temperature, axis=-1)
    by_label = np.array([1.0 if each is None else each for each in temperatures])
    kept = np.array([each is None for each in temperatures])
    return np.where(kept, scores, expit(label_logits(scores) / by_label))


def mean_loss(scores: Array, targets: Array, mask: Array | None = None) -> float:
    """Mean negative log-likelihood of probabilities, over samples, or over the labels that count; ``nan`` without any.

    Args:
        scores: ``float64 [n, K]``.
        targets: ``int64 [n]`` classes, or ``[n, K]`` labels.
        mask: ``[n, K]``, where a label counts.
    """
    if targets.ndim == 1:
        right = np.take_along_axis(scores, targets[:, None].astype(np.int64), axis=1)
        return float(-np.log(np.maximum(right, LEAST)).mean()) if len(right) else float("nan")
    counts = np.ones(targets.shape, bool) if mask is None else mask.astype(bool)
    right = np.where(targets.astype(bool), scores, 1 - scores)[counts]
    return float(-np.log(np.maximum(right, LEAST)).mean()) if len(right) else float("nan")
