"""Charts of lines: receiver operating characteristic, precision and recall, calibration, losses by epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from medgraft.benchmarks.site.charts.svg import Frame, frame, padded, plain_number, series_class

MOST_DOTS = 20
"""Points of a line above which they are not drawn as dots as well."""


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        name: For the legend.
        xs: Places along the horizontal axis.
        ys: Along the vertical one.
        low: Lower ends of intervals, or none.
        high: Upper ends.
        colour: Number of the colour; that of its place among the lines where ``None``.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    colour: int | None = None


@dataclass(frozen=True)
class Chart:
    """A chart and what stands around it.

    Attributes:
        title: Heading.
        svg: The drawing.
        legend: Name and classes of each series; empty for one series.
        note: What a reader must know.
        wide: It takes the whole width of the page.
    """

    title: str
    svg: Markup
    legend: tuple[tuple[str, str], ...] = ()
    note: str = ""
    wide: bool = False


def unit_chart(
    title: str, lines: Sequence[Line], x_name: str, y_name: str, *, diagonal: bool = False, note: str = ""
) -> Chart:
    """A chart of shares, both axes from 0 to 1.

    Args:
        title: Heading.
        lines: The lines.
        x_name: Name of the horizontal axis.
        y_name: Of the vertical one.
        diagonal: Draw the line on which both are equal.
        note: What a reader must know.
    """
    f = frame((0, 1), (0, 1), width=360, height=330)
    f.axes(x_name, y_name)
    if diagonal:
        f.drawing.line(f.x(0), f.y(0), f.x(1), f.y(1), "diagonal")
    return _chart(f, title, lines, f"{x_name} against {y_name}", note)


def loss_chart(losses: Sequence[tuple[str, Sequence[float]]]) -> Chart:
    """Mean loss of each epoch, one line for each seed."""
    values = [value for _, each in losses for value in each]
    longest = max(len(each) for _, each in losses)
    f = frame((1, max(longest, 2)), padded(values))
    step = max(1, -(-longest // 8))
    f.axes("epoch", "training loss", list(range(1, longest + 1, step)))
    lines = [Line(name, range(1, len(each) + 1), each) for name, each in losses]
    return _chart(f, "Training loss by epoch", lines, "Training loss by epoch", "")


def banded_chart(title: str, line: Line, x_name: str, y_name: str, note: str = "") -> Chart:
    """A line of measured points against what they should be, both axes alike."""
    both = padded([*line.xs, *line.ys, *line.low, *line.high])
    f = frame(both, both, width=360, height=330)
    f.axes(x_name, y_name)
    f.drawing.line(f.x(both[0]), f.y(both[0]), f.x(both[1]), f.y(both[1]), "diagonal")
    return _chart(f, title, [line], title, note)


def _chart(f: Frame, title: str, lines: Sequence[Line], what: str, note: str) -> Chart:
    legend = []
    for number, line in enumerate(lines):
        colour = number if line.colour is None else line.colour
        xs, ys = [f.x(x) for x in line.xs], [f.y(y) for y in line.ys]
        for x, low, high in zip(xs, line.low, line.high, strict=False):
            f.drawing.line(x, f.y(low), x, f.y(high), f"whisker {series_class(colour)}")
        f.drawing.path(xs, ys, series_class(colour))
        if len(xs) <= MOST_DOTS:
            for x, y, value in zip(xs, ys, line.ys, strict=True):
                f.drawing.dot(x, y, series_class(colour, "f"), 2.5, f"{line.name} {plain_number(round(value, 4))}")
        legend.append((line.name, series_class(colour, "f")))
    names = ", ".join(line.name for line in lines)
    words = "; ".join(f"{line.name} ends at {line.ys[-1]:.3g}" for line in lines[:6] if len(line.ys))
    return Chart(title, f.drawing.svg(f"{what}: {names}. {words}."), tuple(legend) if len(legend) > 1 else (), note)
