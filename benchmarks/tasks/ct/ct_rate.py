"""The eighteen labels of CT-RATE.

Hamamci et al., "CT-RATE", 2024 (arXiv 2403.17834). The published validation split is what is tested on; patients of
training are kept for choosing thresholds. All labels were read from reports by a model, those of the test split, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from medgraft.benchmarks.cohorts.ct.ct_rate import CT_RATE_LABELS, CtRateTable, read_ct_rate
from medgraft.benchmarks.cohorts.ct.hounsfield import Window
from medgraft.benchmarks.tasks.ct.volumes import ct_volumes, reading
from medgraft.options import Seed
from medgraft.task import Task, TaskConfig, TaskData, subject_split


def attributes(table: CtRateTable) -> dict[str, np.ndarray]:
    """Sex and age in years of each volume's patient, ``[n]``, where the metadata say them."""
    return {name: table.frame[name].to_numpy(object) for name in ("sex", "age") if table.frame[name].notna().any()}


class CtRate(Task):
    """Eighteen abnormalities as labels, on the official split."""

    inputs = ("volume",)
    objective = "multilabel"
    cohort = "ct_rate"
    primary = "auc_macro"

    class Config(TaskConfig):
        """Options.

        Attributes:
            window: Which grey values Hounsfield units become; ``ct_clip`` is CT-CLIP's, ``m3d`` M3D's.
            reconstructions: ``first`` takes one volume of each scan, ``all`` every reconstruction.
            val_fraction: Share of the training patients that is kept for choosing thresholds.
            split_seed: Defines that share, for all seeds of a sweep.
        """

        window: Window = "hu"
        reconstructions: Literal["first", "all"] = "first"
        val_fraction: float = Field(0.1, gt=0, lt=1)
        split_seed: Seed = 0

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the volumes and their labels; a missing label does not count."""
        config, table = self.config, read_ct_rate(root, self.config.reconstructions)
        labels = table.labels()
        where, subjects = table.frame["split"].to_numpy(str), table.frame["subject"].to_numpy(str)
        listed = np.flatnonzero(where == "train")
        fractions = {"train": 1 - config.val_fraction, "val": config.val_fraction}
        parts = subject_split(subjects[listed], np.zeros(len(listed)), fractions, config.split_seed)
        return TaskData(
            inputs={"volume": ct_volumes(table, range(len(where)), config.window, root)},
            targets=labels.fillna(0).to_numpy(np.float32),
            mask=None if labels.notna().all(axis=None) else labels.notna().to_numpy(bool),
            subjects=subjects,
            splits={name: listed[rows] for name, rows in parts.items()} | {"test": np.flatnonzero(where == "valid")},
            classes=CT_RATE_LABELS,
            given_test=True,
            attributes=attributes(table),
            phantom=table.phantom,
            provenance=reading(
                table,
                window=config.window,
                positives={name: int(count) for name, count in labels.sum().items()},
            ),
        )
