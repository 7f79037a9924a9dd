"""The figure of reliability: a panel per class or label and a line per row, what was said against what was."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgraft.benchmarks.board.embedding import COLOURS
from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.calibration.reliability import Curve
from medgraft.benchmarks.calibration.summary import Calibration
from medgraft.errors import MedgraftError

PANELS_PER_ROW = 3
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
    if not drawn:
        raise MedgraftError("no result has reliability curves; tasks of classes or labels have them")
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "medgraft", "svg.fonttype": "none", "font.size": 8}):
        from matplotlib.figure import Figure

        columns = min(PANELS_PER_ROW, len(drawn))
        lines = -(-len(drawn) // columns)
        figure = Figure(figsize=(3.2 * columns, 3.0 * lines + 0.5), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False)
        for axis in axes.flat[len(drawn) :]:
            axis.set_axis_off()
        names = list(dict.fromkeys(name for panel in drawn for name in panel.lines))
        for panel, axis in zip(drawn, axes.flat, strict=False):
            _draw(panel, names, axis)
        axes[0, 0].set_ylabel("observed frequency")
        axes[-1, 0].set_xlabel("predicted probability")
        shown = [pair for axis in axes.flat for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
        handles = {label: handle for handle, label in shown}
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, fontsize=7)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(out, format="svg", metadata={"Date": None})
        except OSError as error:
            raise MedgraftError(f"the figure cannot be written to {out}: {error}; choose another --out") from error


def _draw(panel: Panel, names: Sequence[str], axis: Any) -> None:
    axis.plot([0, 1], [0, 1], color="#999999", linewidth=0.8, linestyle="--")
    for name, curve in panel.lines.items():
        low = [max(0.0, y - end) for y, end in zip(curve.observed, curve.ci_low, strict=True)]
        high = [max(0.0, end - y) for y, end in zip(curve.observed, curve.ci_high, strict=True)]
        colour = COLOURS[names.index(name) % len(COLOURS)]
        axis.errorbar(
            curve.confidence,
            curve.observed,
            yerr=(low, high),
            marker="o",
            markersize=3,
            linewidth=1,
            elinewidth=0.6,
            color=colour,
            label=name,
        )
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    axis.set_title(f"{panel.title}{' (PHANTOM)' if panel.phantom else ''}", fontsize=7)
