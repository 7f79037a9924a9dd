"""Reports of MIMIC-CXR by a language model, on the official split.

Johnson et al., "MIMIC-CXR-JPG", 2019 (arXiv 1901.07042).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pandas as pd
from pydantic import Field

from medgraft.benchmarks.cohorts.chest.mimic import FRONTAL, MimicTable, read_mimic
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.benchmarks.phantoms.chest.texts.truth import truths_at
from medgraft.benchmarks.tasks.chest.radiographs import attributes, radiographs, reading
from medgraft.benchmarks.tasks.language.texts import OfficialConfig, TextSample, official, text_data, usable
from medgraft.errors import DataError
from medgraft.task import Task, TaskData

VIEWS = (*FRONTAL, "LATERAL", "LL")
"""Views that are read, so that a study without a frontal one can be counted."""

_PREFERRED = ("PA", "AP")


def one_film(table: MimicTable, report: ReadReport) -> pd.DataFrame:
    """The rows of one frontal image of each study, PA before AP and then the first; the others are counted.

    Raises:
        DataError: No study has a frontal image.
    """
    frame = table.frame
    studies, views = frame["study"].tolist(), frame["view"].tolist()
    frontal = [row for row, view in enumerate(views) if view in _PREFERRED]
    first: dict[str, int] = {}
    for row in sorted(frontal, key=lambda row: (_PREFERRED.index(views[row]), row)):
        first.setdefault(studies[row], row)
    if lost := len(set(studies)) - len(first):
        report.skip("study without a frontal image", count=lost)
    if not first:
        raise DataError(f"none of {len(set(studies))} studies has a frontal image (AP or PA)")
    if further := len(frontal) - len(first):
        report.skip("further frontal image of a study", count=further)
    return frame.iloc[sorted(first.values())].reset_index(drop=True)


class MimicReports(Task):
    """A report for each study from one frontal film, PA before AP; findings and impression unless told otherwise."""

    inputs = ("image",)
    objective = "generation"
    cohort = "mimic"
    primary = "rouge_l"
    tags = ("language",)

    class Config(OfficialConfig):
        """Options.

        Attributes:
            prompt: What the language model is asked.
            section: Part of a report that is to be written.
        """

        prompt: str = Field("Describe the chest radiograph.", min_length=1)
        section: Literal["findings+impression", "impression", "findings"] = "findings+impression"

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the studies that have a frontal film and a report."""
        config = self.config
        table = read_mimic(root, views=VIEWS, section=config.section)
        frame = one_film(table, table.report)
        truths = truths_at(table.home, "mimic") if table.phantom else {}
        found = [
            TextSample(
                source=str(row["image"]),
                subject=str(row["subject"]),
                prompt=config.prompt,
                reference=str(row["report"]),
                split={"validate": "val"}.get(str(row["split"]), str(row["split"])),
                truth=truths.get(str(row["study"]), ""),
            )
            for row in frame.to_dict("records")
        ]
        samples, splits = official(usable(found, table.report, config, "reports"), table.report, config)
        paths = [sample.source for sample in samples]
        return text_data(
            samples,
            splits,
            config,
            root=root,
            inputs={"image": radiographs(paths, root)},
            phantom=table.phantom,
            provenance=reading(table.report, table.generator, section=config.section),
            given_test=True,
            attributes=attributes(frame.set_index("image").loc[paths], ("view",)),
        )
