"""VQA-RAD: open and closed questions of clinicians about images of head, chest and abdomen.

Lau et al., Scientific Data 2018. The published test split asks about images that are trained on, too; by default the
images are split anew, so that no tested image, and no case, was seen.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from medgraft.benchmarks.cohorts.texts.vqa_rad import read_vqa_rad
from medgraft.benchmarks.tasks.language.image_questions import data_of, samples_of
from medgraft.benchmarks.tasks.language.texts import OfficialConfig, SharesConfig, official, shares
from medgraft.task import Task, TaskData

LEAK = "VQA-RAD's published split: {} of {} tested images are trained on, and intervals resample questions"


class VqaRad(Task):
    """An answer in words to each question."""

    inputs = ("image",)
    objective = "generation"
    cohort = "vqa_rad"
    primary = "exact_match"
    tags = ("language", "questions")

    class Config(SharesConfig):
        """Options.

        Attributes:
            limit: Tokens of an answer at most.
            split: ``by_image`` splits the cases anew; ``published`` takes the test questions that papers report on.
        """

        limit: int = Field(24, ge=1, le=4096)
        split: Literal["by_image", "published"] = "by_image"

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the questions whose image is there."""
        config, table = self.config, read_vqa_rad(root)
        samples = samples_of(table, config, "vqa_rad")
        facts: dict[str, Any] = {"split": config.split}
        if config.split == "by_image":
            samples, splits = shares(samples, config)
        else:
            trained = {sample.source for sample in samples if sample.split == "train"}
            tested = {sample.source for sample in samples if sample.split == "test"}
            facts["notes"] = [LEAK.format(len(tested & trained), len(tested))]
            samples = [replace(sample, subject=f"question {i}") for i, sample in enumerate(samples)]
            rest = OfficialConfig(val_fraction=config.val_fraction, split_seed=config.split_seed)
            samples, splits = official(samples, table.report, rest)
        return data_of(table, samples, splits, config, root, given_test=config.split == "published", **facts)
