"""Axes with plain numbers: ticks at round or measured values, none on another, and units that fit the values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from medgraft.benchmarks.figures.style import SMALL
from medgraft.benchmarks.figures.titles import text_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Unit = tuple[str, float]
"""Name of a unit, and how many of what the values are in make one."""

TIMES: tuple[Unit, ...] = (("ns", 1e-9), ("µs", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0))
SIZES: tuple[Unit, ...] = (("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12))
LEAST_SPAN = 4.0
"""A logarithmic axis spans at least this factor, so that what hardly differs looks so."""
ROUND = ((1, 2, 5), (1, 1.5, 2, 3, 5, 7))
GAP = 0.12
"""Inches that stay free between two labels."""


def unit_of(values: Iterable[float], units: Sequence[Unit]) -> Unit:
    """The largest unit of which the largest value is at least one.

    Example:
        >>> unit_of([0.0009, 0.013], TIMES), unit_of([250_000], SIZES)
        (('ms', 0.001), ('kB', 1000.0))
    """
    largest = max((abs(value) for value in values), default=0.0)
    return next((unit for unit in reversed(units) if largest >= unit[1]), units[0])


def plain(value: float) -> str:
    """A number without an exponent, of at most three digits that say something beyond its whole ones.

    Example:
        >>> plain(2048), plain(0.25), plain(1.5), plain(1e6), plain(0.0004)
        ('2,048', '0.25', '1.5', '1,000,000', '0.0004')
    """
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def round_values(low: float, high: float) -> list[float]:
    """Round numbers of a logarithmic axis from ``low`` to ``high``, few where the axis spans decades.

    Example:
        >>> round_values(3, 60), round_values(0.9, 3.6)
        ([5.0, 10.0, 20.0, 50.0], [1.0, 1.5, 2.0, 3.0])
    """
    decades = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = ROUND[0] if high / low > 10 else ROUND[1]
    values = [float(f"{step}e{decade}") for decade in decades for step in steps]
    return [value for value in values if low <= value <= high]


def logarithmic(
    axis: Axes, which: Literal["x", "y"], values: Iterable[float], inches: float, *, at: bool = False
) -> None:
    """Makes an axis logarithmic, with plain numbers at ticks that do not touch.

    Args:
        axis: The panel.
        which: Its axis.
        values: What is shown; positive ones count.
        inches: Length of the axis.
        at: Put ticks at the values themselves, which are those that were measured, and not at round numbers.
    """
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    positive = sorted({value for value in values if value > 0}) or [1.0]
    ratio = positive[-1] / positive[0]
    widen = max(ratio**0.06, 1.02 if at else 1.15)
    if not at and ratio * widen**2 < LEAST_SPAN:
        widen = math.sqrt(LEAST_SPAN / ratio)
    low, high = positive[0] / widen, positive[-1] * widen
    ticks = _apart(positive if at else round_values(low, high), low, high, inches, across=which == "x")
    part = axis.xaxis if which == "x" else axis.yaxis
    (axis.set_xscale if which == "x" else axis.set_yscale)("log")
    (axis.set_xlim if which == "x" else axis.set_ylim)(low, high)
    part.set_major_locator(FixedLocator(ticks))
    part.set_major_formatter(FuncFormatter(lambda value, _: plain(value)))
    part.set_minor_locator(NullLocator())


def _apart(ticks: Sequence[float], low: float, high: float, inches: float, *, across: bool) -> list[float]:
    """Ticks whose labels leave a gap: the first, the last, and between them whichever comes next."""

    def room(tick: float) -> tuple[float, float]:
        place = inches * math.log(tick / low) / math.log(high / low)
        half = (text_width(plain(tick), SMALL) if across else SMALL / 72) / 2 + GAP / 2
        return place - half, place + half

    kept: list[float] = []
    for tick in [*ticks[:1], *ticks[-1:], *ticks[1:-1]]:
        begin, end = room(tick)
        if all(end <= room(other)[0] or begin >= room(other)[1] for other in kept):
            kept.append(tick)
    return sorted(kept)
