"""The figure of expert load per task: one panel per result, one bar per task, one colour per expert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from medgraft.benchmarks.board.diagnostics import task_names
from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.figures.legends import legend_below
from medgraft.benchmarks.figures.style import SMALL, bar_style, panel_grid, styled
from medgraft.benchmarks.figures.titles import figure_title, panel_title, text_width, wrapped
from medgraft.benchmarks.figures.writing import write_svg
from medgraft.errors import MedgraftError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS_PER_ROW = 2
PANEL = (4.1, 2.5)
"""Inches."""


@dataclass(frozen=True)
class Load:
    """Expert load of one row of the board.

    Attributes:
        name: Task, encoder, and adapter with what tells it from others.
        tasks: Names.
        shares: Task -> share of its tokens' picks that each expert got; means over seeds.
        phantom: Measured on a generated cohort.
        dense: Some router had collapsed and was made dense.
    """

    name: tuple[str, str, str]
    tasks: list[str]
    shares: list[list[float]]
    phantom: bool
    dense: bool


def loads(rows: Sequence[BoardRow]) -> list[Load]:
    """Loads of the rows whose router was told several tasks, in the board's order."""
    panels = []
    named = dict(zip(map(id, rows), _names(rows), strict=True))
    for row in rows:
        reports = [
            report
            for cell in row.cells
            for report in cell.diagnostics.values()
            if len(report.get("expert_load", {})) > 1
        ]
        if not reports:
            continue
        numbers = sorted(reports[0]["expert_load"], key=int)
        every = [[report["expert_load"][number] for report in reports] for number in numbers]
        shares = [[sum(each) / len(each) for each in zip(*task, strict=True)] for task in every]
        dense = any(report.get("dense_blocks") for report in reports)
        names = task_names(row.first, len(numbers))
        panels.append(Load(named[id(row)], names, shares, row.first.phantom, dense))
    return panels


def _names(rows: Sequence[BoardRow]) -> list[tuple[str, str, str]]:
    """Task, encoder and adapter, and of the options that tell rows apart those that most rows do not share."""
    parts = [row.note.split(", ") if row.note else [] for row in rows]
    counted = Counter(part for words in parts for part in words)
    usual = {part for part, count in counted.items() if 2 * count > sum(map(bool, parts)) > 2}
    lines = []
    for row, words in zip(rows, parts, strict=True):
        spec = row.first.spec
        unusual = ", ".join(part for part in words if part not in usual)
        lines.append((spec.task, spec.encoder, f"{spec.adapter}: {unusual}" if unusual else spec.adapter))
    return lines


def draw_loads(panels: Sequence[Load], out: Path) -> None:
    """Draws an SVG whose bytes depend on the loads only.

    Args:
        panels: What :func:`loads` gave.
        out: File to write.

    Raises:
        MedgraftError: There is no load to draw, or the file cannot be written.
    """
    write_svg(load_figure(panels), out, "Which experts the tokens of each task chose", _description(panels))


def load_figure(panels: Sequence[Load]) -> Figure:
    """The figure itself; what all panels share stands above them once.

    Raises:
        MedgraftError: There is no load to draw.
    """
    if not panels:
        raise MedgraftError("no result tells expert loads of several tasks; run tgh_moe with tasks=4 on brain_prompts")
    shared = _shared(panels)
    with styled():
        figure, axes = panel_grid(len(panels), PANELS_PER_ROW, PANEL, extra=0.8)
        for number, (load, axis) in enumerate(zip(panels, axes, strict=True)):
            _draw(load, axis)
            own = [part for part in load.name if part not in shared] or [load.name[-1]]
            notes = ["PHANTOM"] * (load.phantom and "PHANTOM" not in shared) + ["router made dense"] * load.dense
            panel_title(axis, "\n".join([*own, *(f"({note})" for note in notes)]), PANEL[0] - 0.5)
            if number % PANELS_PER_ROW == 0:
                axis.set_ylabel("share of picks")
        figure_title(figure, ", ".join(["Which experts the tokens of each task chose", *shared]))
        legend_below(figure, axes)
    return figure


def _shared(panels: Sequence[Load]) -> list[str]:
    """Parts of their names that several panels all share, and whether all are of a phantom."""
    if len(panels) == 1:
        return []
    shared = [panels[0].name[k] for k in range(3) if len({load.name[k] for load in panels}) == 1]
    return [*shared, "PHANTOM"] if all(load.phantom for load in panels) else shared


def _draw(load: Load, axis: Axes) -> None:
    """One bar per task, one part of it per expert."""
    bottom = [0.0] * len(load.tasks)
    places = range(len(load.tasks))
    for expert in range(len(load.shares[0])):
        share = [task[expert] for task in load.shares]
        axis.bar(places, share, bottom=bottom, label=f"expert {expert}", **bar_style(expert))
        bottom = [low + high for low, high in zip(bottom, share, strict=True)]
    room = (PANEL[0] - 0.9) / len(load.tasks) - 0.08
    named = ["\n".join(wrapped(name, room, SMALL)) for name in load.tasks]
    narrow = min(1.0, *(room / text_width(line, SMALL) for name in named for line in name.split("\n") if line))
    axis.set_xticks(places, named, fontsize=SMALL * narrow, parse_math=False)
    axis.set(ylim=(0, 1), yticks=[0, 0.5, 1], yticklabels=["0", "0.5", "1"])


def _description(panels: Sequence[Load]) -> str:
    """The figure in words."""
    said = []
    for load in panels:
        shares = "; ".join(
            f"{task} {', '.join(f'{share:.0%}' for share in each)}"
            for task, each in zip(load.tasks, load.shares, strict=True)
        )
        said.append(f"{', '.join(load.name)}{' (PHANTOM)' if load.phantom else ''}: {shares}")
    return f"Share of the tokens' picks that experts 0, 1, ... got by task. {'. '.join(said)}."
