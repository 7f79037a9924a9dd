"""NIH ChestX-ray14: fourteen findings, with labels and zero-shot.

Wang et al., CVPR 2017. The labels were mined from reports, in the test split too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from medgraft.benchmarks.cohorts.chest.nih import NIH_14, NihTable, read_nih
from medgraft.benchmarks.tasks.chest.radiographs import PromptConfig, attributes, radiographs, reading
from medgraft.benchmarks.tasks.label_budget import LabelBudget, class_table, within_budget
from medgraft.benchmarks.tasks.zero_shot import ChestZeroShot, Scored
from medgraft.errors import DataError
from medgraft.options import Seed
from medgraft.task import Task, TaskConfig, TaskData, subject_split

SAME_AS = {"Effusion": "Pleural Effusion"}
"""What CheXpert and MIMIC-CXR call the same finding. NIH's mass and nodule are narrower than their lung lesion, its
infiltration than their lung opacity, and its pleural thickening than their pleural other, so these are not compared."""
ATTRIBUTES = ("sex", "age", "view")


class OfficialSplit(TaskConfig):
    """Options of tasks on the official lists.

    Attributes:
        val_fraction: Share of the patients on the training list that is kept for choosing thresholds.
        split_seed: Defines that share, for all seeds of a sweep.
    """

    val_fraction: float = Field(0.1, gt=0, lt=1)
    split_seed: Seed = 0

    def parts(self, table: NihTable, root: Path) -> dict[str, np.ndarray]:
        """Split -> rows ``[m]``.

        Raises:
            DataError: The copy has no lists.
        """
        where = table.frame["split"].to_numpy(str)
        if not (where != "").any():
            raise DataError(f"{root} has neither train_val_list.txt nor test_list.txt; put both beside the table")
        listed = np.flatnonzero(where == "train")
        fractions = {"train": 1 - self.val_fraction, "val": self.val_fraction}
        mine = table.frame["subject"].to_numpy(str)[listed]
        parts = subject_split(mine, np.zeros(len(mine)), fractions, self.split_seed)
        splits = {name: listed[rows] for name, rows in parts.items()}
        return {**splits, "test": np.flatnonzero(where == "test")}


def _facts(table: NihTable) -> dict[str, Any]:
    positives = {name: int(count) for name, count in zip(NIH_14, table.labels().sum(axis=0), strict=True)}
    return reading(table.report, table.generator, positives=positives)


class Nih(Task):
    """The fourteen findings as labels, on the official split."""

    inputs = ("image",)
    objective = "multilabel"
    cohort = "nih"
    primary = "auc_macro"
    same_as = SAME_AS

    class Config(OfficialSplit, LabelBudget):
        """Options: those of the official split and of the label budget."""

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the table and the lists."""
        table = read_nih(root)
        targets = table.labels().astype(np.float32)
        subjects = table.frame["subject"].to_numpy(str)
        splits = self.config.parts(table, root)
        splits["train"] = within_budget(
            splits["train"], subjects, class_table(targets, len(NIH_14)), targets.max(axis=1), self.config
        )
        return TaskData(
            inputs={"image": radiographs(table.frame["image"].tolist(), root)},
            targets=targets,
            subjects=subjects,
            splits=splits,
            given_test=True,
            classes=NIH_14,
            attributes=attributes(table.frame, ATTRIBUTES),
            phantom=table.phantom,
            provenance=_facts(table),
        )


class NihZeroShot(ChestZeroShot):
    """The fourteen findings by prompts: each is scored by the similarity of image and prompt, across images.

    ``auc_rescaled`` rescales each image's fourteen scores to 0..1 before they are ranked across images, as the training
    code of ACE-LoRA does.
    """

    cohort = "nih"
    classes = NIH_14
    given_test = True
    same_as = SAME_AS
    spoken = tuple(name.lower().replace("_", " ") for name in NIH_14)
    attributes = ATTRIBUTES
    further_metrics = ("auc_rescaled",)

    class Config(OfficialSplit, PromptConfig):
        """Options: those of the official split and the prompts, and below.

        Attributes:
            images: ``all`` of the official test list, or its ``first_fifth``, which ACE-LoRA uses for validation.
        """

        images: Literal["all", "first_fifth"] = "all"

    config: Config

    def scored(self, root: Path) -> Scored:
        """Reads the table and the lists."""
        table = read_nih(root)
        splits = self.config.parts(table, root)
        if self.config.images == "first_fifth":
            splits["test"] = splits["test"][: max(1, len(splits["test"]) // 5)]
        return Scored(table.frame, table.labels().astype(np.float32), splits, _facts(table), table.phantom)
