"""CheXpert: findings on frontal radiographs, as labels and as zero-shot classes.

Irvin et al., "CheXpert: A Large Chest Radiograph Dataset with Uncertainty Labels and Expert Comparison", AAAI 2019.
The five-class set is Huang et al., "GLoRIA", ICCV 2021.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from medgraft.benchmarks.cohorts.chest.chexpert import (
    CHEXPERT_14,
    COMPETITION_5,
    ChexpertTable,
    _find_table,
    _folders,
    apply_uncertainty,
    exclude_subjects,
    read_chexpert,
    select_5x200,
)
from medgraft.benchmarks.cohorts.images.grey import IMAGES_VERSION
from medgraft.benchmarks.cohorts.images.load import load_radiograph
from medgraft.benchmarks.tasks.chest.radiographs import PromptConfig, attributes
from medgraft.benchmarks.tasks.label_budget import LabelBudget, class_table, within_budget
from medgraft.errors import DataError
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.options import Seed
from medgraft.task import RawInputs, Task, TaskData, Variant, subject_split

ATTRIBUTES = ("sex", "age", "ap_pa")
"""Columns by whose groups metrics are told."""


def image_inputs(frame: pd.DataFrame, root: Path) -> RawInputs:
    """The radiographs of a table, read when needed."""
    paths = [str(path) for path in frame["image"]]
    facts = f"{file_facts(paths, root)}|{reading_facts(IMAGES_VERSION)}"
    return RawInputs(lambda i: load_radiograph(paths[i]), len(paths), facts)


def text_inputs(frame: pd.DataFrame) -> RawInputs:
    """The reports of a table."""
    texts = [str(text) for text in frame["report"]]
    return RawInputs(texts.__getitem__, len(texts), hashlib.sha256("\n".join(texts).encode()).hexdigest())


def stack(tables: dict[str, ChexpertTable]) -> tuple[pd.DataFrame, np.ndarray]:
    """One frame of several tables, and the name of the table that each row came from, ``[n]``."""
    frame = pd.concat([table.frame for table in tables.values()], ignore_index=True)
    origin = np.concatenate([np.full(len(table.frame), name) for name, table in tables.items()])
    return frame, origin


def provenance(tables: dict[str, ChexpertTable]) -> dict[str, Any]:
    """Generator and readers' reports."""
    return {
        "generator": next((table.generator for table in tables.values() if table.generator), None),
        "reader": {
            name: {"used": t.report.used, "skipped": dict(t.report.skipped), "notes": dict(t.report.notes)}
            for name, t in tables.items()
        },
    }


def has_test_table(root: Path) -> bool:
    """Whether a copy has a test table; one that is there but cannot be used is an error, never replaced."""
    try:
        _find_table(root, _folders(root), "test")
    except DataError:
        return False
    return True


def hold_out(index: np.ndarray, subjects: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits sample numbers ``[n]`` into training and validation, by subject."""
    mine = subjects[index]
    parts = subject_split(mine, np.zeros(len(mine)), {"train": 1 - fraction, "val": fraction}, seed)
    return index[parts["train"]], index[parts["val"]]


class Chexpert(Task):
    """Multi-label findings; thresholds for F1 are chosen on validation patients.

    ``nogap`` reads films of the setting that the encoder was pre-trained on: a control without a domain gap.
    """

    inputs = ("image",)
    objective = "multilabel"
    cohort = "chexpert"
    primary = "auc_macro"
    variants: ClassVar[Mapping[str, Variant]] = {"nogap": Variant(cohort="chexpert_nogap")}

    class Config(LabelBudget):
        """Options: those of the label budget, and below.

        Attributes:
            labels: The five labels of the competition, or all 14.
            uncertainty: What an uncertain label becomes in training: 1, 0, nothing, or with ``multiclass`` a class of
                its own; ``best`` is per label and for the five only.
            val_fraction: Share of training patients kept for choosing thresholds.
            split_seed: Defines that share, for all seeds of a sweep.
        """

        labels: Literal["competition", "all"] = "competition"
        uncertainty: Literal["ones", "zeros", "ignore", "multiclass", "best"] = "best"
        val_fraction: float = Field(0.1, gt=0, lt=1)
        split_seed: Seed = 0

        @model_validator(mode="after")
        def _best_is_for_five(self) -> Chexpert.Config:
            if self.labels == "all" and self.uncertainty == "best":
                raise ValueError("uncertainty 'best' is defined for the five competition labels only; choose another")
            return self

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads ``train`` and ``test`` tables; a copy without a test table is tested on ``valid``."""
        names = COMPETITION_5 if self.config.labels == "competition" else CHEXPERT_14
        tables = {"train": read_chexpert(root, "train", reports=False)}
        tested_on = "test" if has_test_table(root) else "valid"
        tables["test"] = read_chexpert(root, tested_on, reports=False)
        tables["train"] = exclude_subjects(tables["train"], tables["test"].frame["subject"])
        frame, origin = stack(tables)
        subjects = frame["subject"].to_numpy(str)
        labels = frame[list(names)].to_numpy(float)
        targets, mask = apply_uncertainty(labels, self.config.uncertainty, names=names)
        mask &= ~((origin == "test")[:, None] & (labels == -1))  # a guess may train, but nothing is scored against it
        train, val = hold_out(
            np.flatnonzero(origin == "train"), subjects, self.config.val_fraction, self.config.split_seed
        )
        three_way = self.config.uncertainty == "multiclass"
        if three_way:  # uncertain is learnt, but no threshold is chosen for it
            unsure = np.isin(np.arange(len(targets)), train, invert=True)[:, None] & (targets == 2)
            mask, targets = mask & ~unsure, np.where(unsure, 0, targets)
        train = within_budget(
            train, subjects, class_table(targets, len(names)), (targets == 1).any(axis=1), self.config
        )
        return TaskData(
            inputs={"image": image_inputs(frame, root)},
            targets=targets,
            subjects=subjects,
            splits={"train": train, "val": val, "test": np.flatnonzero(origin == "test")},
            given_test=True,
            classes=tuple(names),
            mask=mask,
            uncertain_class=three_way,
            attributes=attributes(frame, ATTRIBUTES),
            phantom=tables["train"].phantom,
            provenance={**provenance(tables), "uncertainty": self.config.uncertainty, "tested_on": tested_on},
        )


class Chexpert5x200(Task):
    """Zero-shot classification of five exclusive findings; contrastive adapters train on image-report pairs.

    Patients of the five-class set never enter training, where the original protocol leaves out their images only.
    """

    inputs = ("image", "text")
    objective = "contrastive"
    cohort = "chexpert"
    primary = "auc_macro"

    class Config(PromptConfig):
        """Options: the prompt templates, and below.

        Attributes:
            classes_from: ``published`` reads ``chexpert_5x200.csv``; ``regenerated`` draws a set of its kind from the
                training table, whose results are not comparable with published ones.
            per_class: Images per class of a regenerated set.
            val_fraction: Share of training patients left out of training.
            split_seed: Defines that share, for all seeds of a sweep.
        """

        classes_from: Literal["published", "regenerated"] = "published"
        per_class: int = Field(200, ge=1)
        val_fraction: float = Field(0.1, gt=0, lt=1)
        split_seed: Seed = 0

    config: Config

    def load(self, root: Path) -> TaskData:
        """Reads training pairs and the five-class set."""
        train = read_chexpert(root, "train")
        if self.config.classes_from == "published":
            test = read_chexpert(root, "5x200")
        else:
            test = select_5x200(train, self.config.per_class, self.config.split_seed)
        train = exclude_subjects(train, test.frame["subject"])
        paired = train.frame["report"].str.strip() != ""
        if not paired.any():
            raise DataError(
                f"{root} has no report for any training image; put the table of CheXpert Plus "
                "(df_chexpert_plus_240401.csv) beside train.csv"
            )
        tables = {"train": train, "test": test}
        frame, origin = stack(tables)
        subjects = frame["subject"].to_numpy(str)
        five = frame[list(COMPETITION_5)].to_numpy(float) == 1
        targets = np.where((origin == "test") & five.any(axis=1), five.argmax(axis=1), -1).astype(np.int64)
        labels = frame[list(CHEXPERT_14)].to_numpy(float)
        usable = np.flatnonzero((origin == "train") & (frame["report"].str.strip() != "").to_numpy())
        fit, val = hold_out(usable, subjects, self.config.val_fraction, self.config.split_seed)
        return TaskData(
            inputs={"image": image_inputs(frame, root), "text": text_inputs(frame)},
            targets=targets,
            subjects=subjects,
            splits={"train": fit, "val": val, "test": np.flatnonzero(targets >= 0)},
            classes=COMPETITION_5,
            # Blank and uncertain count as absent when labels only say which pairs are no negatives.
            labels=(labels == 1).astype(np.float32),
            prompts=self.config.prompts([name.lower() for name in COMPETITION_5]),
            attributes=attributes(frame, ATTRIBUTES),
            phantom=train.phantom,
            provenance={
                **provenance(tables),
                "pairs": len(usable),
                "classes_from": self.config.classes_from,
                "templates": list(self.config.templates),
            },
        )
