"""The figure of a scaling curve: time and memory over the size, as measured or from a table of a Markdown page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medgraft.benchmarks.figures.legends import legend_below
from medgraft.benchmarks.figures.scales import SIZES, TIMES, Unit, logarithmic, plain, unit_of
from medgraft.benchmarks.figures.style import blank, line_style, styled
from medgraft.benchmarks.figures.titles import figure_title
from medgraft.benchmarks.figures.writing import write_svg
from medgraft.benchmarks.speed.scaling_curves import CURVES, Curve, Point

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 8.0, 3.5
ACROSS, UP = 3.0, 2.2
"""Inches of a panel's axes, about."""


def plot(curve: Curve, points_of: Mapping[str, Sequence[Point]], path: Path) -> None:
    """Time and memory over the size, logarithmic on both axes, as an SVG that is the same for the same numbers.

    Args:
        curve: What was measured.
        points_of: Form -> its points, by size.
        path: File to write.

    Raises:
        MedgraftError: The file cannot be written.
    """
    title = f"Time and memory of {curve.title} by {curve.axis}"
    write_svg(scaling_figure(curve, points_of), path, title, _description(curve, points_of))


def scaling_figure(curve: Curve, points_of: Mapping[str, Sequence[Point]]) -> Figure:
    """The figure itself; bars at the times are the range of the rounds, where it is known."""
    with styled():
        figure = blank(WIDTH, HEIGHT)
        left, right = figure.subplots(1, 2)
        times = unit_of((p.seconds for points in points_of.values() for p in points), TIMES)
        sizes = unit_of((p.peak for points in points_of.values() for p in points), SIZES)
        for number, (form, points) in enumerate(points_of.items()):
            x, style = [p.size for p in points], line_style(number)
            known = [p.spread is not None for p in points]
            error = _spread(points, times) if all(known) else None
            left.errorbar(x, [p.seconds / times[1] for p in points], yerr=error, elinewidth=0.9, label=form, **style)
            shown = [p for p in points if p.peak > 0]
            right.plot([p.size for p in shown], [p.peak / sizes[1] for p in shown], label=form, **style)
        _scale(left, curve, points_of, lambda p: [*(p.spread or ()), p.seconds], times)
        _scale(right, curve, points_of, lambda p: [p.peak], sizes)
        left.set_ylabel(f"time of one step ({times[0]})")
        right.set_ylabel(f"peak memory ({sizes[0]})")
        figure_title(figure, curve.title)
        if len(points_of) > 1:
            legend_below(figure, [left])
    return figure


def _spread(points: Sequence[Point], unit: Unit) -> tuple[list[float], list[float]]:
    ranges = [(p.seconds, *(p.spread or (p.seconds, p.seconds))) for p in points]
    return [(mid - low) / unit[1] for mid, low, _ in ranges], [(high - mid) / unit[1] for mid, _, high in ranges]


def _scale(
    axis: Axes,
    curve: Curve,
    points_of: Mapping[str, Sequence[Point]],
    values: Callable[[Point], Iterable[float]],
    unit: Unit,
) -> None:
    every = [p for points in points_of.values() for p in points]
    logarithmic(axis, "x", [p.size for p in every], ACROSS, at=True)
    logarithmic(axis, "y", [value / unit[1] for p in every for value in values(p)], UP)
    axis.set_xlabel(curve.axis)
    axis.grid(color="#dddddd", linewidth=0.6)
    axis.set_axisbelow(True)


def _description(curve: Curve, points_of: Mapping[str, Sequence[Point]]) -> str:
    said = []
    for form, points in points_of.items():
        ends = [
            f"{1e3 * p.seconds:.2f} ms and {p.peak / 1e6:.2f} MB at {plain(p.size)}" for p in (points[0], points[-1])
        ]
        said.append(f"{form}: {', '.join(dict.fromkeys(ends))}")
    return (
        f"Two panels over {curve.axis}, logarithmic on both axes: time of one step, forward and backward, and peak "
        f"memory of {curve.title}. {'; '.join(said)}."
    )


def read_page(text: str) -> dict[str, dict[str, list[Point]]]:
    """Curve -> form -> points, from the tables that :func:`medgraft.benchmarks.speed.scaling.table` writes.

    Args:
        text: A Markdown page; its tables have two digits after the point, and so have the points.
    """
    found: dict[str, dict[str, list[Point]]] = {}
    for name, curve in CURVES.items():
        forms = list(curve.forms)
        head = (
            "| " + " | ".join([curve.axis, *(f"{form} ms" for form in forms), *(f"{form} MB" for form in forms)]) + " |"
        )
        for part in re.split(r"^#+ ", text, flags=re.MULTILINE):
            title, _, body = part.partition("\n")
            if title.strip() != curve.title or head not in body:
                continue
            found[name] = {form: [] for form in forms}
            for line in body[body.index(head) :].splitlines()[2:]:
                cells = [cell.strip() for cell in line.strip("| ").split("|")]
                if not re.fullmatch(r"[\d.]+", cells[0]) or len(cells) != 1 + 2 * len(forms):
                    break
                size, *values = map(float, cells)
                for k, form in enumerate(forms):
                    found[name][form].append(Point(size, values[k] / 1e3, round(values[len(forms) + k] * 1e6)))
    return found


def plot_page(page: Path, out: Path, names: Sequence[str]) -> list[str]:
    """Draws curves again from a page; gives the names of those that it has a table of."""
    found = read_page(page.read_text(encoding="utf-8"))
    drawn = [name for name in names if name in found]
    for name in drawn:
        plot(CURVES[name], found[name], out / f"{name}.svg")
    return drawn
