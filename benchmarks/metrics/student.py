"""Ends of 95% intervals from a variance and its degrees of freedom, on a scale without the metric's bounds."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

LEVEL = 0.95
Ends = tuple[float | None, float | None]
Bounds = tuple[float, float]


@functools.lru_cache(maxsize=4096)
def quantile(freedom: float, level: float = LEVEL) -> float:
    """Upper end of Student's interval of a level."""
    from scipy.special import stdtrit  # what scipy.stats calls, without the second that its import takes

    return float(stdtrit(freedom, (1 + level) / 2))


def ends(value: float, variance: float, freedom: float, bounds: Bounds, subjects: int, level: float = LEVEL) -> Ends:
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
        level: Of the interval.

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
    half = quantile(freedom, level) * math.sqrt(variance)
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
        least = never_seen(subjects, level) * width
        return (high - least, high) if not to_high else (low, low + least)
    share, step = from_low / width, half * width / (from_low * to_high)
    return tuple(low + width * share / (share + (1 - share) * _power(-move)) for move in (-step, step))  # pyright: ignore


def never_seen(subjects: int, level: float = LEVEL) -> float:
    """Share of a population that may be so while none of ``subjects`` is: Clopper and Pearson's upper end.

    Example:
        >>> round(never_seen(31), 3)
        0.112
    """
    return 1 - ((1 - level) / 2) ** (1 / max(subjects, 1))


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


def range_interval(values: Sequence[float], each: Sequence[Ends], together: Sequence[Ends], width: float) -> Ends:
    """Interval of the largest of several numbers less the smallest, where different subjects make them.

    The range is the largest of the differences of pairs, so it is below a bound where every pair is: the upper end is
    the largest upper end of a pair, and needs no allowance for how many there are, since only the pair that is truly
    furthest apart can be missed (the intersection-union principle, Berger, Technometrics 24, 1982). It is above a bound
    where some pair is: the lower end is the largest lower end of a pair, from intervals that hold for all pairs
    together. Pairs are those of :func:`independent_difference`. The lower end is 0 unless some pair is separated, which
    of equal numbers happens in 5%; percentiles of resampled ranges never hold a range of 0.

    Args:
        values: The ``G`` numbers, two or more.
        each: The interval of each.
        together: The interval of each at the level :func:`level_of_pairs` of ``G``.
        width: Largest possible range.

    Returns:
        Lower and upper end; ``None`` where some number has no interval.

    Example:
        >>> ends = [(0.86, 0.92), (0.5, 0.63), (0.55, 0.75)]
        >>> low, high = range_interval([0.9, 0.6, 0.7], ends, ends, 1.0)
        >>> round(low, 3), round(high, 3)
        (0.25, 0.402)
    """
    pairs = [(i, j) for i in range(len(values)) for j in range(len(values)) if i != j]
    lows, highs = [0.0], []
    for i, j in pairs:
        low, _ = independent_difference((values[i], values[j]), (together[i], together[j]), (-width, width), 0.0)
        _, high = independent_difference((values[i], values[j]), (each[i], each[j]), (-width, width), 0.0)
        if low is None or high is None:
            return None, None
        lows.append(low)
        highs.append(high)
    return max(lows), max(highs)


def level_of_pairs(numbers: int) -> float:
    """Level at which intervals of the differences of all pairs hold together, by Bonferroni's inequality.

    Example:
        >>> level_of_pairs(2), round(level_of_pairs(4), 4)
        (0.95, 0.9917)
    """
    return 1 - (1 - LEVEL) / max(numbers * (numbers - 1) // 2, 1)


def _power(x: float) -> float:
    return float(np.exp(min(x, 700.0)))
