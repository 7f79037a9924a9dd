"""VQA-RAD: its JSON file and its folder of images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cohorts.plugins.chest import ChestCohort
from medgraft.benchmarks.cohorts.plugins.texts.asked import SMALL, AskedConfig
from medgraft.benchmarks.cohorts.texts.records import files_revision
from medgraft.benchmarks.cohorts.texts.vqa_rad import TABLES


class VqaRad(ChestCohort):
    """Questions of clinicians about images of head, chest and abdomen; the phantom has chest films only."""

    layout = "vqa_rad"
    title = "VQA-RAD: images and questions of clinicians"
    small = SMALL
    Config = AskedConfig

    def revision(self, root: Path) -> str:
        """The files that hold the questions."""
        return files_revision(root, TABLES, "VQA-RAD")

    def writer(self) -> Callable[..., Any]:
        """See :class:`medgraft.benchmarks.cohorts.plugins.chest.ChestCohort`."""
        from medgraft.benchmarks.phantoms.chest.texts.questions import write_vqa_rad

        return write_vqa_rad
