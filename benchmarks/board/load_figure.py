"""The figure of expert load per task: one panel per result, one bar per task, one colour per expert."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medgraft.benchmarks.board.diagnostics import task_names
from medgraft.benchmarks.board.rows import BoardRow
from medgraft.errors import MedgraftError

PANELS_PER_ROW = 3
TITLE_WIDTH = 58
"""Characters of a panel's title in one line."""


@dataclass(frozen=True)
class Load:
    """Expert load of one row of the board.

    Attributes:
        title: Adapter and what tells it from others.
        tasks: Names.
        shares: Task -> share of its tokens' picks that each expert got; means over seeds.
        phantom: Measured on a generated cohort.
        dense: Some router had collapsed and was made dense.
    """

    title: str
    tasks: list[str]
    shares: list[list[float]]
    phantom: bool
    dense: bool


def loads(rows: Sequence[BoardRow]) -> list[Load]:
    """Loads of the rows whose router was told several tasks, in the board's order."""
    panels = []
    titles = dict(zip(map(id, rows), _titles(rows), strict=True))
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
        panels.append(Load(titles[id(row)], names, shares, row.first.phantom, dense))
    return panels


def _titles(rows: Sequence[BoardRow]) -> list[str]:
    """Task, encoder and adapter, and of the options that tell rows apart those that most rows do not share."""
    parts = [row.note.split(", ") if row.note else [] for row in rows]
    counted = Counter(part for words in parts for part in words)
    usual = {part for part, count in counted.items() if 2 * count > sum(map(bool, parts)) > 2}
    lines = []
    for row, words in zip(rows, parts, strict=True):
        spec = row.first.spec
        unusual = ", ".join(part for part in words if part not in usual)
        adapter = f"{spec.adapter}: {unusual}" if unusual else spec.adapter
        lines.append(
            "\n".join([spec.task, *textwrap.wrap(spec.encoder, TITLE_WIDTH), *textwrap.wrap(adapter, TITLE_WIDTH)])
        )
    return lines


def draw_loads(panels: Sequence[Load], out: Path) -> None:
    """Draws an SVG whose bytes depend on the loads only.

    Args:
        panels: What :func:`loads` gave.
        out: File to write.

    Raises:
        MedgraftError: There is no load to draw, or the file cannot be written.
    """
    if not panels:
        raise MedgraftError("no result tells expert loads of several tasks; run tgh_moe with tasks=4 on brain_prompts")
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "medgraft", "svg.fonttype": "none", "font.size": 8}):
        from matplotlib.figure import Figure

        columns = min(PANELS_PER_ROW, len(panels))
        lines = -(-len(panels) // columns)
        figure = Figure(figsize=(3.4 * columns, 2.4 * lines), layout="constrained")
        axes = figure.subplots(lines, columns, squeeze=False)
        for axis in axes.flat[len(panels) :]:
            axis.set_axis_off()
        for load, axis in zip(panels, axes.flat, strict=False):
            bottom = [0.0] * len(load.tasks)
            for expert in range(len(load.shares[0])):
                share = [task[expert] for task in load.shares]
                axis.bar(load.tasks, share, bottom=bottom, label=f"expert {expert}")
                bottom = [low + high for low, high in zip(bottom, share, strict=True)]
            notes = (" (PHANTOM)" if load.phantom else "") + (" (router made dense)" if load.dense else "")
            axis.set_title(load.title + notes, fontsize=7)
            axis.set_ylim(0, 1)
        axes[0, 0].set_ylabel("share of the tokens' picks")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(out, format="svg", metadata={"Date": None})
        except OSError as error:
            raise MedgraftError(f"the figure cannot be written to {out}: {error}; choose another --out") from error
