"""RSNA pneumonia: classification with labels, zero-shot classification, and detection of opacities.

Shih et al., Radiology: Artificial Intelligence 2019. Published comparisons split the rows of the table; as the images
were drawn from NIH ChestX-ray14, persons recur, and only the challenge's mapping file tells which (see the reader).
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from medgraft.benchmarks.cohorts.chest.challenge_frame import DrawnOn
from medgraft.benchmarks.cohorts.chest.rsna import RsnaTable, boxes_inside, read_rsna
from medgraft.benchmarks.tasks.chest.radiographs import FilmSplitConfig, PromptConfig, labelled, reading
from medgraft.benchmarks.tasks.label_budget import LabelBudget
from medgraft.benchmarks.tasks.zero_shot import ChestZeroShot, Scored
from medgraft.errors import DataError
from medgraft.task import Task, TaskData

CLASSES = ("No Finding", "pneumonia")


class Rsna(Task):
    """Pneumonia or not, with labels."""

    inputs = ("image",)
    objective = "multiclass"
    cohort = "rsna"
    primary = "auc_macro"

    class Config(FilmSplitConfig, LabelBudget):
        """Options: those of the split and of the label budget, and below.

        Attributes:
            split: ``subject`` by person, as far as the copy tells; ``published`` the rows of GLoRIA's 70/15/15 split.
        """

        split: Literal["subject", "published"] = "subject"

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the stage-2 tables."""
        table, config = read_rsna(root), self.config
        positives = int(np.count_nonzero(table.frame["target"]))
        published = config.split == "published"
        return labelled(table, root, config, config, CLASSES, published=published, positives=positives)


class RsnaZeroShot(ChestZeroShot):
    """Pneumonia or not by prompts; adapters train on MIMIC-CXR pairs beside the cohort, or not at all.

    ``accuracy`` is the share of right images and ``balanced_accuracy`` the mean recall, which papers also call
    accuracy; ``auc_flattened`` is the statistic that the training code of ACE-LoRA prints as AUC.
    """

    cohort = "rsna"
    classes = CLASSES
    spoken = CLASSES
    further_metrics = ("auc_flattened",)

    class Config(FilmSplitConfig, PromptConfig):
        """Options: those of the split and the prompts, and below.

        Attributes:
            split: ``subject``, or ``published`` for ACE-LoRA's test rows, 15% by scikit-learn with seed 0.
        """

        split: Literal["subject", "published"] = "subject"

    config: Config

    def scored(self, root: Path) -> Scored:
        """Reads the stage-2 tables."""
        table = read_rsna(root)
        by_row = self.config.split == "published"
        frame = table.frame.assign(subject=table.frame["image_id"]) if by_row else table.frame
        splits = _ace_lora_rows(len(frame)) if by_row else self.config.parts(frame)
        facts = reading(table.report, table.generator, positives=int(np.count_nonzero(frame["target"])))
        return Scored(frame, frame["target"].to_numpy(np.int64), splits, facts, table.phantom)


def _ace_lora_rows(n: int) -> dict[str, np.ndarray]:
    from sklearn.model_selection import train_test_split

    rest, test = train_test_split(np.arange(n), test_size=0.15, random_state=0)
    train, val = train_test_split(rest, test_size=0.15, random_state=0)
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


class RsnaDetection(Task):
    """Boxes around lung opacities; COCO's mean average precision and the challenge's own score."""

    inputs = ("image",)
    objective = "detection"
    cohort = "rsna"
    version = 2
    primary = "map"

    class Config(FilmSplitConfig, LabelBudget):
        """Options: those of the split and of the label budget, and below.

        Attributes:
            split: ``subject``, or ``published`` for GLoRIA's 70/15/15 split of the rows.
            images: ``positives`` only, as in published comparisons, or ``all``, as in the challenge.
            drawn_on: ``challenge`` where the boxes are in the challenge's 1024 pixels, whatever the size of the images;
                ``copy`` where they were scaled with the images.
        """

        drawn_on: DrawnOn = "challenge"
        split: Literal["subject", "published"] = "subject"
        images: Literal["positives", "all"] = "positives"

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads the stage-2 tables and the headers of the images with boxes."""
        config, whole = self.config, read_rsna(root)
        if config.images == "positives":
            whole = whole.rows(np.flatnonzero(whole.frame["target"] == 1))
        table, sizes = boxes_inside(whole, config.drawn_on)
        if not (table.frame["target"] == 1).to_numpy().any():
            raise DataError(f"{root} has no image with a box that can be used; left out: {dict(table.report.skipped)}")
        boxes = fractions(table, sizes)
        published, drawn = config.split == "published", sum(len(box) for box in boxes)
        finding = ("Lung Opacity",)
        return labelled(
            table, root, config, config, finding, published=published, regions=boxes.__getitem__, boxes=drawn
        )


def fractions(table: RsnaTable, sizes: np.ndarray) -> list[np.ndarray]:
    """Boxes in fractions of the image padded to a square, ``float64 [k, 4]`` each."""
    return [
        boxes / max(float(size[0]), float(size[1])) if len(boxes) else boxes
        for boxes, size in zip(table.boxes, sizes, strict=True)
    ]
