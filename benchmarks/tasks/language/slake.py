"""SLAKE: open and closed questions about CT, MRI and X-ray images, on the published split.

Liu et al., ISBI 2021 (arXiv 2102.09542). Its questions are in English and Chinese.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from medgraft.benchmarks.cohorts.texts.slake import read_slake
from medgraft.benchmarks.tasks.language.image_questions import data_of, samples_of
from medgraft.benchmarks.tasks.language.texts import OfficialConfig, official
from medgraft.task import Task, TaskData


class Slake(Task):
    """An answer in words to each question, the English ones unless ``language`` is ``any``."""

    inputs = ("image",)
    objective = "generation"
    cohort = "slake"
    primary = "exact_match"
    tags = ("language", "questions")

    class Config(OfficialConfig):
        """Options.

        Attributes:
            limit: Tokens of an answer at most.
        """

        limit: int = Field(24, ge=1, le=4096)

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the questions whose image is there."""
        config = self.config
        table = read_slake(root, english=config.language == "en")
        samples, splits = official(samples_of(table, config, "slake"), table.report, config)
        return data_of(table, samples, splits, config, root)
