"""The order in which the cells of a sweep start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.schedule.durations import Durations

Order = Literal["plan", "cheapest-first"]
"""``plan``: as asked for, row by row; ``cheapest-first``: by the seconds that earlier results let expect."""


def ordered(cells: Sequence[CellSpec], order: Order, durations: Durations) -> list[CellSpec]:
    """The cells in the order in which they start.

    Cells that take about as long stay as they were planned, so that the seeds of a row stay together.

    Args:
        cells: As planned.
        order: What was asked for.
        durations: What earlier cells took; where it is empty, nothing changes.
    """
    if order == "plan" or not durations:
        return list(cells)
    # All seeds of a row have one estimate, and sorting is stable.
    return sorted(cells, key=lambda cell: durations.seconds(cell) or 0.0)
