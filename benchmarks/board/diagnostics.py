"""What a board says of trainings in stages and of routers: text for tables, from the results of a row's seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from medgraft.benchmarks.results.result import CellResult

DIAGNOSTIC_COLUMNS = (
    "stages (steps, trainable)",
    "router entropy",
    "load entropy by task",
    "tasks told by prompt",
    "routers made dense",
)


def diagnostic_cells(cells: Sequence[CellResult]) -> list[str]:
    """The stages and the routing of a row, in the order of :data:`DIAGNOSTIC_COLUMNS`; empty where there is neither.

    Entropies are shares of the largest possible, 1 for even routing; numbers are means over the seeds. A router that
    collapsed and was made dense is named with the number of seeds in which that happened.

    Args:
        cells: All seeds of a row.
    """
    good = [cell for cell in cells if cell.status == "success"]
    reports = [report for cell in good for report in cell.diagnostics.values() if "router_entropy" in report]
    stages = good[0].training.get("stages", []) if good else []
    if not reports and not stages:
        return []
    texts = [f"{stage['stage']} of {stage['adapter']} ({stage['steps']}, {stage['trainable']:,})" for stage in stages]
    return [
        "; ".join(texts) or "-",
        _mean([report["router_entropy"] for report in reports]),
        _by_task(good, reports),
        _mean([report["task_accuracy"] for report in reports if "task_accuracy" in report]),
        _dense(reports),
    ]


def task_names(cell: CellResult, count: int) -> list[str]:
    """Names of the tasks that a router was told: the questions, or numbers where there are none."""
    questions = list(cell.data.get("questions") or [])
    return questions if len(questions) == count else [str(number) for number in range(count)]


def _mean(values: Sequence[float]) -> str:
    return f"{statistics.fmean(values):.3f}" if values else "-"


def _by_task(cells: Sequence[CellResult], reports: Sequence[dict[str, Any]]) -> str:
    numbers = sorted({number for report in reports for number in report.get("load_entropy", {})}, key=int)
    names = task_names(cells[0], len(numbers)) if len(numbers) > 1 else ["all"] * len(numbers)
    means = [
        _mean([report["load_entropy"][number] for report in reports if number in report.get("load_entropy", {})])
        for number in numbers
    ]
    return ", ".join(f"{name} {mean}" for name, mean in zip(names, means, strict=True)) or "-"


def _dense(reports: Sequence[dict[str, Any]]) -> str:
    if not reports:
        return "-"
    blocks = sorted({block for report in reports for block in report.get("dense_blocks", [])})
    seeds = sum(bool(report.get("dense_blocks")) for report in reports)
    return f"{', '.join(blocks)} in {seeds} of {len(reports)} seeds" if blocks else "none"
