"""PMC-VQA: tables of questions with four options, and figures of articles."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cohorts.plugins.chest import ChestCohort
from medgraft.benchmarks.cohorts.plugins.texts.asked import SMALL, AskedConfig
from medgraft.benchmarks.cohorts.texts.pmc_vqa import TABLES
from medgraft.benchmarks.cohorts.texts.records import files_revision


class PmcVqa(ChestCohort):
    """Questions of four options about figures; the phantom has chest films only."""

    layout = "pmc_vqa"
    title = "PMC-VQA: figures of articles and questions with four options"
    small = SMALL
    Config = AskedConfig

    def revision(self, root: Path) -> str:
        """The files that hold the questions."""
        return files_revision(root, [name for names in TABLES.values() for name in names], "PMC-VQA")

    def writer(self) -> Callable[..., Any]:
        """See :class:`medgraft.benchmarks.cohorts.plugins.chest.ChestCohort`."""
        from medgraft.benchmarks.phantoms.chest.texts.questions import write_pmc_vqa

        return write_pmc_vqa
