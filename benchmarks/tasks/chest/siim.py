"""SIIM-ACR pneumothorax: classification with labels, zero-shot classification, and segmentation.

Zawacki et al., "SIIM-ACR Pneumothorax Segmentation", Kaggle 2019.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from medgraft.benchmarks.cohorts.chest.challenge_frame import DrawnOn
from medgraft.benchmarks.cohorts.chest.siim import masks_inside, read_siim
from medgraft.benchmarks.cohorts.images.load import squared
from medgraft.benchmarks.tasks.chest.radiographs import FilmSplitConfig, PromptConfig, labelled, reading
from medgraft.benchmarks.tasks.label_budget import LabelBudget
from medgraft.benchmarks.tasks.zero_shot import ChestZeroShot, Scored
from medgraft.task import Task, TaskData

CLASSES = ("No Finding", "pneumothorax")


class Siim(Task):
    """Pneumothorax or not, with labels."""

    inputs = ("image",)
    objective = "multiclass"
    cohort = "siim"
    primary = "auc_macro"

    class Config(FilmSplitConfig, LabelBudget):
        """Options: those of the split, by study, and of the label budget."""

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the table of masks; an image with one is positive."""
        table = read_siim(root)
        positives = int(np.count_nonzero(table.frame["target"]))
        return labelled(table, root, self.config, self.config, CLASSES, positives=positives)


class SiimZeroShot(ChestZeroShot):
    """Pneumothorax or not by prompts; adapters train on MIMIC-CXR pairs beside the cohort, or not at all.

    The names of the metrics are those of :class:`~medgraft.benchmarks.tasks.chest.rsna.RsnaZeroShot`.
    """

    cohort = "siim"
    classes = CLASSES
    spoken = CLASSES
    further_metrics = ("auc_flattened",)

    class Config(FilmSplitConfig, PromptConfig):
        """Options: those of the split and the prompts, and below.

        Attributes:
            split: ``subject``, by study, or ``published`` for ACE-LoRA's test images: 30% by pandas with seed 42.
        """

        split: Literal["subject", "published"] = "subject"

    config: Config

    def scored(self, root: Path) -> Scored:
        """Reads the table of masks."""
        table = read_siim(root)
        by_row = self.config.split == "published"
        frame = table.frame.assign(subject=table.frame["image_id"]) if by_row else table.frame
        splits = self.config.parts(frame)
        if by_row:
            test = np.sort(frame.sample(frac=0.3, random_state=42).index.to_numpy())
            rest = np.setdiff1d(np.arange(len(frame)), test)
            splits = {"train": rest[: len(rest) // 2], "val": rest[len(rest) // 2 :], "test": test}
        facts = reading(table.report, table.generator, positives=int(np.count_nonzero(frame["target"])))
        return Scored(frame, frame["target"].to_numpy(np.int64), splits, facts, table.phantom)


class SiimSegmentation(Task):
    """The air in the pleural space as a mask; Dice, in which an empty mask rightly predicted counts 1."""

    inputs = ("image",)
    objective = "segmentation"
    cohort = "siim"
    version = 2
    primary = "dice"

    class Config(FilmSplitConfig, LabelBudget):
        """Options: those of the split and of the label budget, and below.

        Attributes:
            split: ``subject``, by study, or ``published`` for GLoRIA's 70/15/15 split of the rows.
            images: ``all``, or ``positives`` only.
            drawn_on: ``challenge`` where the masks count the challenge's 1024 pixels, whatever the size of the images;
                ``copy`` where they were drawn again on the images of this copy.
        """

        drawn_on: DrawnOn = "challenge"

        split: Literal["subject", "published"] = "subject"
        images: Literal["positives", "all"] = "all"

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the table of masks and the headers of the images."""
        config, whole = self.config, read_siim(root)
        if config.images == "positives":
            whole = whole.rows(np.flatnonzero(whole.frame["target"] == 1))
        table, shapes = masks_inside(whole, config.drawn_on)
        positives = int(np.count_nonzero(table.frame["target"]))
        published = config.split == "published"

        def drawn(i: int) -> np.ndarray:
            return squared(table.mask(i, shapes[i], config.drawn_on))

        finding = ("pneumothorax",)
        return labelled(table, root, config, config, finding, published=published, regions=drawn, positives=positives)
