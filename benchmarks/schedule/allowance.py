"""What a sweep may spend in one go: hours, and cells."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.schedule.durations import Durations


@dataclass
class Allowance:
    """Hours and cells that a sweep may spend; without either it may spend any.

    Attributes:
        seconds: From :attr:`started` on; what is at work then is ended, and runs again the next time.
        cells: That may start.
        durations: A cell that is expected to end too late does not start.
        started: When the sweep began, monotonic.
        used: Cells that have started.
    """

    seconds: float | None = None
    cells: int | None = None
    durations: Durations = field(default_factory=Durations)
    started: float = field(default_factory=time.monotonic)
    used: int = 0

    def left(self) -> float:
        """Seconds that are left."""
        return float("inf") if self.seconds is None else self.started + self.seconds - time.monotonic()

    def over(self) -> bool:
        """Whether the time is up."""
        return self.left() <= 0.0

    def full(self) -> bool:
        """Whether no cell may start any more."""
        return self.over() or (self.cells is not None and self.used >= self.cells)

    def admits(self, spec: CellSpec) -> bool:
        """Whether a cell may start and is expected to end in time; one that nothing is known of is not held back."""
        if self.full():
            return False
        return self.seconds is None or (self.durations.seconds(spec) or 0.0) <= self.left()

    def in_words(self) -> str:
        """Which limit a sweep has met that left cells undone."""
        if self.cells is not None and self.used >= self.cells:
            return f"--max-cells {self.cells}"
        return f"--max-hours {(self.seconds or 0.0) / 3600:g}"
