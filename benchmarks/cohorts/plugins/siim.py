"""SIIM: the films and masks of the pneumothorax challenge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from medgraft.benchmarks.cohorts.plugins.chest import FINDING_SMALL, ChestCohort, FindingConfig


class Siim(ChestCohort):
    """The films and masks of the pneumothorax challenge."""

    layout = "siim"
    title = "SIIM-ACR pneumothorax challenge: films and masks"
    small = FINDING_SMALL
    drawn_from = "nih"

    class Config(FindingConfig):
        """Options of the phantom."""

    def writer(self) -> Callable[..., Any]:
        """See :class:`medgraft.benchmarks.cohorts.plugins.chest.ChestCohort`."""
        from medgraft.benchmarks.phantoms.chest.layouts import write_siim

        return write_siim
