"""PMC-VQA: questions of four options about figures of articles, on the published split.

Zhang et al., 2023 (arXiv 2305.10415). Articles that are tested are left out of training.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from medgraft.benchmarks.cohorts.texts.pmc_vqa import read_pmc_vqa
from medgraft.benchmarks.tasks.language.image_questions import data_of, photographs, samples_of
from medgraft.benchmarks.tasks.language.texts import OfficialConfig, official
from medgraft.task import Task, TaskData, Variant


class PmcVqa(Task):
    """The letter and text of the right option; the variant ``open`` asks for the answer without options."""

    inputs = ("image",)
    objective = "generation"
    cohort = "pmc_vqa"
    primary = "exact_match"
    tags = ("language", "questions")
    variants: ClassVar[Mapping[str, Variant]] = {"open": Variant(defaults={"form": "words"})}

    class Config(OfficialConfig):
        """Options.

        Attributes:
            limit: Tokens of an answer at most.
            form: ``choices`` puts the options into the prompt, ``words`` asks for the answer alone.
            version: ``1`` reads ``train.csv`` and ``test.csv``, ``2`` those of the second version.
        """

        limit: int = Field(48, ge=1, le=4096)
        form: Literal["choices", "words"] = "choices"
        version: Literal["1", "2"] = "1"

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the questions whose figure is there."""
        config = self.config
        table = read_pmc_vqa(root, config.version)
        found = samples_of(table, config, "pmc_vqa", lettered=config.form == "choices")
        samples, splits = official(found, table.report, config)
        return data_of(table, samples, splits, config, root, images=photographs)
