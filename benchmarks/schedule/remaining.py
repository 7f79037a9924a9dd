"""How long a sweep that runs will still take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.schedule.durations import Durations

BETWEEN = 5.0
"""Seconds between two estimates of one state of the sweep: many cells take long to add up."""


class Remaining:
    """The cells of a sweep that have not ended.

    Args:
        cells: That will run.
        at_once: Cells at a time.
        durations: What earlier cells took; those of this sweep are added.
    """

    def __init__(self, cells: Sequence[CellSpec], at_once: int, durations: Durations) -> None:
        self.at_once, self.durations = at_once, durations
        self._left = {cell.key(): cell for cell in cells}
        self._rows: dict[str, int] = {}
        self._first: dict[str, CellSpec] = {}
        for cell in cells:
            self._rows[cell.row()] = self._rows.get(cell.row(), 0) + 1
            self._first.setdefault(cell.row(), cell)
        self._last: float | None = None
        self._at = float("-inf")

    def __len__(self) -> int:
        return len(self._left)

    def ended(self, result: CellResult) -> None:
        """Takes in that a cell has ended."""
        self.durations.add(result)
        if (cell := self._left.pop(result.key, None)) is not None:
            self._rows[cell.row()] -= 1

    def seconds(self, busy: Mapping[str, float], now: float) -> float | None:
        """Seconds until the last has ended; ``None`` while nothing is known of how long cells take.

        Args:
            busy: Key of each cell at work -> seconds for which it has been.
            now: Monotonic clock.
        """
        if now - self._at >= BETWEEN:
            self._last, self._at = self._sum(busy), now
        return None if self._last is None else max(self._last - (now - self._at), 0.0)

    def _sum(self, busy: Mapping[str, float]) -> float | None:
        if not self.durations:
            return None
        total = sum(n * (self.durations.seconds(self._first[row]) or 0.0) for row, n in self._rows.items() if n)
        for key, spent in busy.items():
            if (cell := self._left.get(key)) is not None:
                total -= min(spent, self.durations.seconds(cell) or 0.0)
        return max(total, 0.0) / self.at_once
