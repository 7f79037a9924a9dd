"""The figure of reliability: a panel per class or label and a line per row, what was said against what was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.calibration.reliability import Curve
from medgraft.benchmarks.calibration.summary import Calibration
from medgraft.benchmarks.figures.legends import legend_below
from medgraft.benchmarks.figures.style import REFERENCE, line_style, panel_grid, styled
from medgraft.benchmarks.figures.titles import panel_title
from medgraft.benchmarks.figures.writing import write_svg
from medgraft.errors import MedgraftError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_PER_ROW = 3
PANEL = (3.0, 3.2)
"""Inches."""
MOST_LINES = 6
"""Lines that one panel shows; of more none can be told from another."""

LIKELIEST = "likeliest class, right"


@dataclass(frozen=True)
class Panel:
    """One panel.

    Attributes:
        title: Task, and class or label.
        lines: Name of a row -> its curve.
        phantom: The cohort was generated.
    """

    title: str
    lines: dict[str, Curve]
    phantom: bool


def panels(rows: Sequence[BoardRow]) -> list[Panel]:
    """Panels of the rows that have curves, by task; of several seeds the first one's, of many rows the best."""
    sections: dict[tuple[bool, str, str, str], list[BoardRow]] = {}
    for row in rows:
        if _calibration(row) is not None:
            sections.setdefault(row.section, []).append(row)
    drawn: list[Panel] = []
    for members in sections.values():
        by_name: dict[str, dict[str, Curve]] = {}
        for row in members[:MOST_LINES]:
            found = _calibration(row)
            assert found is not None
            curves = dict(found.reliability.classes)
            if found.reliability.likeliest is not None:
                # With two classes one curve mirrors the other, and the last is the one that is looked for.
                curves = {LIKELIEST: found.reliability.likeliest} | dict(list(curves.items())[len(curves) == 2 :])
            for name, curve in curves.items():
                by_name.setdefault(name, {})[f"{row.first.spec.encoder}, {row.adapter}"] = curve
        title, phantom = members[0].first.spec.task, members[0].first.phantom
        drawn += [Panel(f"{title}: {name}", lines, phantom) for name, lines in by_name.items()]
    return drawn


def _calibration(row: BoardRow) -> Calibration | None:
    return row.first.calibration if row.first.status == "success" else None


def draw_reliability(drawn: Sequence[Panel], out: Path) -> None:
    """Draws an SVG whose bytes depend on the curves only.

    Args:
        drawn: What :func:`panels` gave.
        out: File to write.

    Raises:
        MedgraftError: There is no curve to draw, or the file cannot be written.
    """
    lines = sum(len(panel.lines) for panel in drawn)
    said = (
        f"{lines} curves in {len(drawn)} panels ({'; '.join(panel.title for panel in drawn)}): observed frequency "
        "with its 95% interval over predicted probability; the dashed diagonal is perfect calibration"
    )
    write_svg(reliability_figure(drawn), out, "Predicted probabilities against observed frequencies", said)


def reliability_figure(drawn: Sequence[Panel]) -> Figure:
    """The figure itself.

    Raises:
        MedgraftError: There is no curve to draw.
    """
    if not drawn:
        raise MedgraftError("no result has reliability curves; tasks of classes or labels have them")
    names = list(dict.fromkeys(name for panel in drawn for name in panel.lines))
    with styled():
        figure, axes = panel_grid(len(drawn), PANELS_PER_ROW, PANEL, extra=0.3 + 0.2 * len(names))
        for number, (panel, axis) in enumerate(zip(drawn, axes, strict=True)):
            _draw(panel, names, axis)
            if number % PANELS_PER_ROW == 0:
                axis.set_ylabel("observed frequency")
            if number + PANELS_PER_ROW >= len(drawn):
                axis.set_xlabel("predicted probability")
        legend_below(figure, axes)
    return figure


def _draw(panel: Panel, names: Sequence[str], axis: Axes) -> None:
    axis.plot([0, 1], [0, 1], color=REFERENCE, linewidth=0.9, linestyle=(0, (4, 3)))
    for name, curve in panel.lines.items():
        low = [max(0.0, y - end) for y, end in zip(curve.observed, curve.ci_low, strict=True)]
        high = [max(0.0, end - y) for y, end in zip(curve.observed, curve.ci_high, strict=True)]
        style = line_style(names.index(name))
        axis.errorbar(curve.confidence, curve.observed, yerr=(low, high), elinewidth=0.8, label=name, **style)
    ticks = [0, 0.25, 0.5, 0.75, 1]
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xticks=ticks, yticks=ticks)
    axis.set_xticklabels(["0", "", "0.5", "", "1"])
    axis.set_yticklabels(["0", "", "0.5", "", "1"])
    panel_title(axis, f"{panel.title}{' (PHANTOM)' if panel.phantom else ''}", PANEL[0] - 0.4)
