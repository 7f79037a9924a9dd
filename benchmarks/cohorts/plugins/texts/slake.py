"""SLAKE: three JSON files and a folder for each image."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cohorts.plugins.chest import ChestCohort
from medgraft.benchmarks.cohorts.plugins.texts.asked import SMALL, AskedConfig
from medgraft.benchmarks.cohorts.texts.records import files_revision
from medgraft.benchmarks.cohorts.texts.slake import TABLES


class Slake(ChestCohort):
    """Questions in English and Chinese about CT, MRI and X-ray images; the phantom has chest films only."""

    layout = "slake"
    title = "SLAKE: images and questions in two languages"
    small = SMALL
    Config = AskedConfig

    def revision(self, root: Path) -> str:
        """The files that hold the questions."""
        return files_revision(root, [name for names in TABLES.values() for name in names], "SLAKE")

    def writer(self) -> Callable[..., Any]:
        """See :class:`medgraft.benchmarks.cohorts.plugins.chest.ChestCohort`."""
        from medgraft.benchmarks.phantoms.chest.texts.questions import write_slake

        return write_slake
