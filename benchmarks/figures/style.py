"""The style of every figure: sizes that can be read at half size, and nothing that only colour tells.

Colours are those of Okabe and Ito, "Color Universal Design" (2008), which people with any common form of colour
blindness tell apart; each also has a line, a marker and a hatching of its own, so that grey prints read the same.
Figures are made inside :func:`styled` and written by :func:`medgraft.benchmarks.figures.writing.write_svg`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#4d4d4d", "#f0e442")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 2)), (0, (8, 2)), (0, (3, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
HATCHES = ("", "////", "..", "xxxx", "\\\\\\\\", "++++", "----", "oo")
REFERENCE = "#767676"
"""Of lines that data are compared with."""

TEXT = 11.0
"""Points of most text; figures are about 8 inches wide, so that it has 7 pixels at half the size on a screen."""
SMALL = 10.0
"""Points of ticks, legends and titles of panels; nothing is smaller."""

RC: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": TEXT,
    "axes.titlesize": SMALL,
    "axes.labelsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.5,
    "hatch.linewidth": 0.7,
    "errorbar.capsize": 2.5,
    "figure.dpi": 100,
    "savefig.dpi": 100,
    "svg.hashsalt": "medgraft",
    "svg.fonttype": "none",
}


@contextmanager
def styled() -> Iterator[None]:
    """Inside it, figures are made and written in the style; outside everything is as it was."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # whatever a user's own file says, the same numbers give the same file
        matplotlib.rcParams.update(RC)
        yield


def blank(width: float, height: float) -> Figure:
    """An empty figure of a size in inches that needs no window; its parts are laid out without overlap."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def panel_grid(count: int, per_row: int, size: tuple[float, float], extra: float = 0.0) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each of ``count`` things, row by row.

    Args:
        count: Panels.
        per_row: Most of them in one row.
        size: Width and height of each, in inches.
        extra: Inches below the panels, for a legend.
    """
    columns = min(per_row, count)
    rows = -(-count // columns)
    figure = blank(size[0] * columns, size[1] * rows + extra)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[count:]:
        axis.set_axis_off()
    return figure, axes[:count]


def line_style(number: int) -> dict[str, Any]:
    """How the line ``number`` (from 0) is drawn.

    Example:
        >>> line_style(0)["marker"], line_style(1)["linestyle"]
        ('o', '--')
    """
    k = number % len(COLOURS)
    return {"color": COLOURS[k], "linestyle": LINES[k], "marker": MARKERS[k]}


def point_style(number: int) -> dict[str, Any]:
    """How the group ``number`` of single points is drawn."""
    k = number % len(COLOURS)
    return {"color": COLOURS[k], "marker": MARKERS[k]}


def bar_style(number: int) -> dict[str, Any]:
    """How the part ``number`` of bars is drawn; the white edge parts neighbours that are equally dark."""
    k = number % len(COLOURS)
    return {"color": COLOURS[k], "hatch": HATCHES[k], "edgecolor": "white", "linewidth": 0.8}
