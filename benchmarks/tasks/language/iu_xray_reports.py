"""Reports of the Indiana University chest films (OpenI) by a language model.

On R2Gen's split where the copy is R2Gen's, else on shares of the patients, since neither OpenI nor Kaggle has a split.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from medgraft.benchmarks.cohorts.texts.iu_xray import read_iu_xray
from medgraft.benchmarks.phantoms.chest.texts.truth import truths_at
from medgraft.benchmarks.tasks.chest.radiographs import radiographs, reading
from medgraft.benchmarks.tasks.language.texts import (
    SharesConfig,
    TextSample,
    official,
    shares,
    text_data,
    usable,
)
from medgraft.task import Task, TaskData


class IuXrayReports(Task):
    """A report for each study from one film, the frontal one where something tells which that is."""

    inputs = ("image",)
    objective = "generation"
    cohort = "iu_xray"
    primary = "rouge_l"
    tags = ("language",)

    class Config(SharesConfig):
        """Options.

        Attributes:
            prompt: What the language model is asked.
            section: Part of a report that is to be written; R2Gen's reports are whole.
        """

        prompt: str = Field("Describe the chest radiograph.", min_length=1)
        section: Literal["findings+impression", "impression", "findings"] = "findings+impression"

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads a copy in any of its three forms."""
        config = self.config
        table = read_iu_xray(root, config.section)
        truths = truths_at(table.home, "iu_xray") if table.phantom else {}
        found = [
            TextSample(
                source=row["image"],
                subject=row["subject"],
                prompt=config.prompt,
                reference=row["report"],
                split=row["split"],
                truth=truths.get(row["subject"], ""),
            )
            for row in table.frame.to_dict("records")
        ]
        samples = usable(found, table.report, config, "reports")
        given = table.form == "r2gen"
        if given:
            samples, splits = official(samples, table.report, config)
        else:
            samples, splits = shares(samples, config)
        return text_data(
            samples,
            splits,
            config,
            root=root,
            inputs={"image": radiographs([sample.source for sample in samples], root)},
            phantom=table.phantom,
            provenance=reading(table.report, table.generator, form=table.form),
            given_test=given,
        )
