"""What a board shows beside its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medgraft.benchmarks.kernels.results import OperationResult
from medgraft.benchmarks.suite.ranks import SuiteBoard

MARGIN = 0.01
"""Of non-inferiority to full fine-tuning: one point."""


@dataclass(frozen=True)
class BoardOptions:
    """What a board shows beside its rows, whichever form it has.

    Attributes:
        command: That made it.
        operations: See :mod:`medgraft.benchmarks.kernels.results`.
        also: Further metrics to show, in a table of their own.
        groups: Add the primary metric, and those of ``also``, by groups of test subjects.
        margin: By how much less than full fine-tuning a row may be worse, in the unit of the primary metric.
        suites: Ranks over the tasks of suites.
    """

    command: str
    operations: Sequence[OperationResult] = ()
    also: Sequence[str] = ()
    groups: bool = False
    margin: float = MARGIN
    suites: Sequence[SuiteBoard] = ()
