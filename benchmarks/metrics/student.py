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


def independent_difference(values: tuple[float, float], each: tuple[Ends, Ends], bounds: Bounds, beside: float) -> Ends:
    """Interval of the first of two numbers less the second, where different subjects make them.

    Distances from the values to their ends are added in quadrature: of the first to its lower and of the second to its
    upper end below, the others above (Zou and Donner, "Construction of confidence limits about effect measures",
    Statistics in Medicine 27, 2008). So it is as lopsided as the two are, and of two numbers at their bound it is not
    empty.

    Args:
        values: The two numbers.
        each: The interval of each.
        bounds: Smallest and largest possible difference.
        beside: Half of an interval of something else that moves the difference, such as seeds.

    Returns:
        Lower and upper end; ``None`` where either number has no interval.

    Example:
        >>> low, high = independent_difference((0.9, 0.6), ((0.86, 0.92), (0.5, 0.63)), (-1.0, 1.0), 0.0)
        >>> round(low, 3), round(high, 3)
        (0.25, 0.402)
    """
    (low, high), (other_low, other_high) = each
    if low is None or high is None or other_low is None or other_high is None:
        return None, None
    first, second = values
    below = math.hypot(first - low, other_high - second, beside)
    above = math.hypot(high - first, second - other_low, beside)
    difference = first - second
    return max(difference - below, bounds[0]), min(difference + above, bounds[1])


def _power(x: float) -> float:
    return float(np.exp(min(x, 700.0)))
