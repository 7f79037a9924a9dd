"""RSNA: the films and boxes of the pneumonia detection challenge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medgraft.benchmarks.cohorts.plugins.chest import FINDING_SMALL, ChestCohort, FindingConfig


class Rsna(ChestCohort):
    """The films and boxes of the pneumonia detection challenge."""

    layout = "rsna"
    title = "RSNA pneumonia challenge: films and boxes"
    small = FINDING_SMALL
    drawn_from = "nih"

    class Config(FindingConfig):
        """Options of the phantom."""

    def writer(self) -> Callable[..., Any]:
        """See :class:`medgraft.benchmarks.cohorts.plugins.chest.ChestCohort`."""
        from medgraft.benchmarks.phantoms.chest.layouts import write_rsna

        return write_rsna
