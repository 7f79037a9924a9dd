"""Who looks on while a graft is trained, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medgraft.benchmarks.results.result import CellResult


class Observer:
    """Is told of every step; this one does nothing with it."""

    def step(self, step: int, loss: float, rates: Mapping[str, float]) -> None:
        """An optimisation step was taken.

        Args:
            step: Its number, from 1.
            loss: Of its batch, with what adapters add.
            rates: Learning rate of each group of parameters, by its peak rate as text.
        """

    def result(self, result: CellResult) -> None:
        """The cell has ended well.

        Args:
            result: What it gave.
        """

    def epoch(self, epoch: int, step: int, loss: float) -> None:
        """A pass over the training samples has ended.

        Args:
            epoch: Its number, from 1.
            step: Steps so far.
            loss: Mean over its steps.
        """
