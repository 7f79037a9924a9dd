"""Rows whose last seed has ended, each with its main metric, as the board will show it."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from medgraft.benchmarks.board.rows import BoardRow, make_row
from medgraft.benchmarks.board.terminal import brief
from medgraft.benchmarks.cell.results import CellResult, CellSpec, ResultStore


@dataclass(frozen=True)
class FinishedRow:
    """A row all of whose seeds have ended.

    Attributes:
        cells: Its cells.
        metric: Its main metric with the interval over subjects and seeds, or how its seeds ended.
    """

    cells: Sequence[CellSpec]
    metric: str


class FinishedRows:
    """Tells when a row is complete.

    Args:
        store: Where the results are.
        cells: All cells of the sweep.
        ahead: Keys of those that will run.
    """

    def __init__(self, store: ResultStore, cells: Sequence[CellSpec], ahead: Collection[str]) -> None:
        self.store = store
        self.rows: dict[str, list[CellSpec]] = {}
        self.left: dict[str, set[str]] = {}
        for cell in cells:
            self.rows.setdefault(cell.row(), []).append(cell)
            if (key := cell.key()) in ahead:
                self.left.setdefault(cell.row(), set()).add(key)

    def add(self, result: CellResult) -> FinishedRow | None:
        """Takes a result that is stored; gives its row if that was the last one missing."""
        name = result.spec.row()
        left = self.left.get(name, set())
        if result.key not in left:
            return None
        left.discard(result.key)
        if left:
            return None
        seeds = [(self.store.path(cell), stored) for cell in self.rows[name] if (stored := self.store.get(cell))]
        return FinishedRow(self.rows[name], _metric(make_row(seeds)) if seeds else "no result can be read")


def _metric(row: BoardRow) -> str:
    """The main metric of a row in words.

    A mean over the seeds that succeeded says how many did not.
    """
    seeds = f"{len(row.cells)} seed{'s' * (len(row.cells) > 1)}"
    if row.first.status != "success":
        return f"no seed succeeded, {row.status}" if len(row.cells) > 1 else row.first.status
    value = f"{row.first.primary} {brief(row.metrics.get(row.first.primary))}"
    return f"{value}, {seeds}" if row.status == "success" else f"{value}, seeds that failed: {row.status}"
