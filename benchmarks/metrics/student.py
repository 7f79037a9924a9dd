"""Ends of 95% intervals from a variance and its degrees of freedom, on a scale without the metric's bounds."""

from __future__ import annotations

import functools
import math

import numpy as np

LEVEL = 0.95
Ends = tuple[float | None, float | None]
Bounds = tuple[float, float]


@functools.lru_cache(maxsize=4096)
def quantile(freedom: float) -> float:
    """Upper end of Student's interval of level :data:`LEVEL`."""
    from scipy.special import stdtrit  # what scipy.stats calls, without the second that its import takes

    return float(stdtrit(freedom, (1 + LEVEL) / 2))


def ends(value: float, variance: float, freedom: float, bounds: Bounds, subjects: int) -> Ends:
    """Student's interval on the scale on which a metric has no bounds.

    The logit between two bounds, the logarithm of the distance from one, the value itself without any: there few
    subjects make intervals that are neither cut at a bound nor too short at the other end. For the AUROC the logit is
    what Pepe ("The statistical evaluation of medical tests", 2003, section 5.2.5) advises; of values between -1 and 1
    it is Fisher's z. A value at its bound has no spread to start from; then Clopper and Pearson's interval of
    ``subjects`` successes without a failure stands (Biometrika 26, 1934): each subject might have been a failure.

    Args:
        value: Of the metric.
        variance: Of the value.
        freedom: Degrees of freedom of the variance.
        bounds: Smallest and largest possible value.
        subjects: Those that a value at its bound rests on.

    Returns:
        Lower and upper end; ``None`` where there is no variance to be had.

    Example:
        >>> low, high = ends(0.9, 0.05**2, 30.0, (0.0, 1.0), 31)
        >>> round(low, 3), round(high, 3)
        (0.743, 0.966)
        >>> low, high = ends(1.0, 0.0, 30.0, (0.0, 1.0), 31)
        >>> round(low, 3), high
        (0.888, 1.0)
    """
    if math.isnan(variance) or math.isnan(value):
        return None, None
    low, high = bounds
    half = quantile(freedom) * math.sqrt(variance)
    from_low, to_high = value - low, high - value
    if from_low < 0 or to_high < 0 or (math.isinf(low) and math.isinf(high)):
        return value - half, value + half
    if math.isinf(high):
        return (
            (low + from_low * _power(-half / from_low), low + from_low * _power(half / from_low))
            if from_low
            else (low, low)
        )
    if math.isinf(low):
        return (
            (high - to_high * _power(half / to_high), high - to_high * _power(-half / to_high))
            if to_high
            else (high, high)
        )
    width = high - low
    if not from_low or not to_high:
        least = ((1 - LEVEL) / 2) ** (1 / max(subjects, 1)) * width
        return (high - width + least, high) if not to_high else (low, low + width - least)
    share, step = from_low / width, half * width / (from_low * to_high)
    return tuple(low + width * share / (share + (1 - share) * _power(-move)) for move in (-step, step))  # pyright: ignore


def _power(x: float) -> float:
    return float(np.exp(min(x, 700.0)))
