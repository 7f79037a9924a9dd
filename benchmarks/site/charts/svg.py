"""Scales, ticks and the frame that all charts share.

A chart is text: ``<svg role="img">`` with what it shows in words as its label. It holds no style of its own but classes
(``s0`` to ``s5`` for lines, ``f0`` to ``f5`` for areas and points, ``axis``, ``grid``, ``label``), since a page that
lets nobody else's style in has no ``style`` attributes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

from markupsafe import Markup

COLOURS = 6
"""Colours, after which they begin again with another dash."""

LETTER = 6.3
"""Width of an average letter at the labels' size, in units of the drawing."""

UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def plain_number(value: float) -> str:
    """A number as a tick shows it: no exponent, thousands and millions as such.

    Example:
        >>> [plain_number(value) for value in (0, 0.25, 1, 950, 1000, 25_000, 2_500_000, -0.5, 1e-3)]
        ['0', '0.25', '1', '950', '1k', '25k', '2.5M', '-0.5', '0.001']
    """
    for limit, unit in UNITS:
        if abs(value) >= limit:
            return f"{_short(value / limit)}{unit}"
    return _short(value)


def _short(value: float) -> str:
    text = f"{value:.4g}"
    return f"{value:.10f}".rstrip("0").rstrip(".") if "e" in text else text


@dataclass(frozen=True)
class Scale:
    """A linear axis: values ``low`` to ``high`` lie from ``start`` to ``end`` of the drawing."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Place of a value, at the edge where it lies beyond."""
        share = (value - self.low) / (self.high - self.low or 1.0)
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round numbers in the range, 1, 2 or 5 times a power of ten apart."""
        width = self.high - self.low
        if not width > 0 or not math.isfinite(width):
            return [self.low]
        rough = width / about
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(step for step in (power, 2 * power, 5 * power, 10 * power) if step >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) + 0.0 for n in range(first, last + 1)]


@dataclass(frozen=True)
class LogScale:
    """A logarithmic axis of positive values; ``zero`` is a place before it for values that have no logarithm."""

    low: float
    high: float
    start: float
    end: float
    zero: float | None = None

    def __call__(self, value: float) -> float:
        """Place of a value."""
        if value <= 0:
            return self.start if self.zero is None else self.zero
        width = math.log10(self.high / self.low) or 1.0
        share = math.log10(value / self.low) / width
        return self.start + min(max(share, 0.0), 1.0) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Powers of ten in the range, and round numbers between them where there are fewer than three."""
        low, high = math.floor(math.log10(self.low) + 1e-9), math.ceil(math.log10(self.high) - 1e-9)
        every, found = 1 + (high - low) // 6, []
        for factors in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
            every_one = [factor * 10.0**power for power in range(low, high + 1, every) for factor in factors]
            found = [tick for tick in every_one if self.low * 0.999 <= tick <= self.high * 1.001]
            if len(found) >= 3:
                break
        return found


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Range of some numbers with room at both ends; never empty."""
    low, high = min(values), max(values)
    room = (high - low) * share or abs(high) * 0.05 or 0.5
    return low - room, high + room


def log_padded(values: Sequence[float]) -> tuple[float, float]:
    """Range of some positive numbers with room at both ends, on a logarithmic axis."""
    low, high = math.log10(min(values)), math.log10(max(values))
    room = max((high - low) * 0.08, 0.12)
    return 10 ** (low - room), 10 ** (high + room)


@dataclass
class Drawing:
    """Parts of a chart, drawn in their order."""

    width: int
    height: int
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, classes: str) -> None:
        """A straight line."""
        self.parts.append(f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{classes}"/>')

    def path(self, xs: Sequence[float], ys: Sequence[float], classes: str) -> None:
        """A line through points."""
        points = " ".join([f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True)])
        self.parts.append(f'<polyline points="{points}" class="line {classes}"/>')

    def dot(self, x: float, y: float, classes: str, radius: float = 3.5, title: str = "") -> None:
        """A point; its title shows where a mouse rests on it."""
        end = f"><title>{escape(title)}</title></circle>" if title else "/>"
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" class="{classes}"{end}')

    def box(self, x: float, y: float, width: float, height: float, classes: str, title: str = "") -> None:
        """A rectangle."""
        end = f"><title>{escape(title)}</title></rect>" if title else "/>"
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" '
            f'class="{classes}"{end}'
        )

    def text(self, x: float, y: float, text: str, classes: str = "label", anchor: str = "start") -> None:
        """A label; ``y`` is its base line."""
        at = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}"{at} class="{classes}">{escape(text)}</text>')

    def upright(self, x: float, y: float, text: str) -> None:
        """The name of a vertical axis."""
        self.parts.append(
            f'<text transform="translate({x:.1f} {y:.1f}) rotate(-90)" text-anchor="middle" class="name">'
            f"{escape(text)}</text>"
        )

    def svg(self, label: str) -> Markup:
        """The chart; ``label`` is what it shows, in words, for those who do not see it."""
        return Markup(
            f'<svg role="img" width="{self.width}" height="{self.height}" viewBox="0 0 {self.width} {self.height}" '
            f'aria-label="{escape(label)}">'
            f"{''.join(self.parts)}</svg>"
        )


@dataclass
class Frame:
    """Axes of a chart of two scales.

    Attributes:
        drawing: What it draws on.
        x: Scale of the horizontal axis.
        y: Scale of the vertical one, its start at the bottom.
    """

    drawing: Drawing
    x: Scale | LogScale
    y: Scale

    def axes(self, x_name: str, y_name: str, x_ticks: Sequence[float] | None = None, *, y_grid: bool = True) -> None:
        """Grid, ticks and names; ticks that would touch are left out."""
        d, left, right = self.drawing, self.x.start, self.x.end
        bottom, top = self.y.start, self.y.end
        if isinstance(self.x, LogScale) and self.x.zero is not None:
            left = self.x.zero - 8
            d.text(self.x.zero, bottom + 15, "0", "tick", "middle")
            d.line(self.x.zero, bottom, self.x.zero, bottom + 4, "axis")
        for tick in self.y.ticks(5):
            place = self.y(tick)
            if y_grid:
                d.line(left, place, right, place, "grid")
            d.text(left - 6, place + 3.5, plain_number(tick), "tick", "end")
        last = -math.inf
        for tick in self.x.ticks() if x_ticks is None else x_ticks:
            place, text = self.x(tick), plain_number(tick)
            half = len(text) * LETTER / 2
            d.line(place, bottom, place, bottom + 4, "axis")
            if place - half > last + 4:
                d.text(place, bottom + 15, text, "tick", "middle")
                last = place + half
        d.line(left, bottom, right, bottom, "axis")
        d.line(left, bottom, left, top, "axis")
        d.text((left + right) / 2, bottom + 32, x_name, "name", "middle")
        d.upright(12, (bottom + top) / 2, y_name)


def frame(
    x: tuple[float, float],
    y: tuple[float, float],
    *,
    width: int = 380,
    height: int = 280,
    log: bool = False,
    zero: bool = False,
) -> Frame:
    """A frame of the usual margins.

    Args:
        x: Range of the horizontal axis.
        y: Range of the vertical one.
        width: Of the drawing.
        height: Of the drawing.
        log: The horizontal axis is logarithmic.
        zero: It has a place for values that are not positive.
    """
    left, right, top, bottom = 52, width - 14, 12, height - 40
    if log:
        scale: Scale | LogScale = LogScale(*x, left + (34 if zero else 0), right, left + 10 if zero else None)
    else:
        scale = Scale(*x, left, right)
    return Frame(Drawing(width, height), scale, Scale(*y, bottom, top))


def series_class(number: int, kind: str = "s") -> str:
    """Class of the colour of a series, and of its dash from the seventh on."""
    dash = f" d{number // COLOURS % 3}" if number >= COLOURS else ""
    return f"{kind}{number % COLOURS}{dash}"
