"""Classes by prompts, learnt from labelled images: the few-shot protocol on the cohorts of the zero-shot tasks.

What is scored is what the zero-shot task of the cohort scores, image for image. What differs is the training: images
with one class each, 16 of each by default, and cross-entropy over the classes' prompts in place of pairs with reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from medgraft.benchmarks.cohorts.chest.chexpert import (
    COMPETITION_5,
    ChexpertTable,
    exclude_subjects,
    read_chexpert,
    select_5x200,
)
from medgraft.benchmarks.tasks.chest.chexpert import (
    ATTRIBUTES,
    Chexpert5x200,
    hold_out,
    image_inputs,
    provenance,
    stack,
)
from medgraft.benchmarks.tasks.chest.radiographs import attributes, radiographs
from medgraft.benchmarks.tasks.chest.rsna import RsnaZeroShot
from medgraft.benchmarks.tasks.chest.siim import SiimZeroShot
from medgraft.benchmarks.tasks.label_budget import LabelBudget, class_table, within_budget
from medgraft.benchmarks.tasks.zero_shot import ChestZeroShot
from medgraft.errors import DataError
from medgraft.task import TaskData


class FewShots(LabelBudget):
    """Options of the label budget; 16 images per class unless the options say otherwise.

    Attributes:
        shots: Training images per class, each of another subject; ``None`` for no limit, or for ``label_fraction``.
        validation: Whether there is a validation split. Without one its subjects are left out, of the training too, and
            nothing can be chosen on labels that a user of few labels would not have.
    """

    later: ClassVar[Mapping[str, Any]] = MappingProxyType({**LabelBudget.later, "validation": True})

    shots: int | None = Field(16, ge=1)
    validation: bool = True

    def without_validation(self, splits: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Splits ``[n]`` as the option says: the same, or with an empty ``val``."""
        return splits if self.validation else {**splits, "val": splits["val"][:0]}


class ChestFewShot(ChestZeroShot):
    """Base for cohorts with labels of their own; stands before the cohort's zero-shot task among the bases."""

    inputs = ("image",)
    objective = "prompted"

    def load(self, root: Path) -> TaskData:
        """Reads the scored cohort, of which the training split keeps what the budget leaves."""
        config = self.config
        assert isinstance(config, FewShots)
        scored = self.scored(root)
        subjects, targets = scored.frame["subject"].to_numpy(str), scored.targets
        table = class_table(targets, len(self.classes))
        train = within_budget(scored.splits["train"], subjects, table, targets, config)
        splits = config.without_validation({**scored.splits, "train": train})
        prompts = getattr(config, "prompts")(self.spoken)  # noqa: B009  of the other base
        return TaskData(
            inputs={"image": radiographs(scored.frame["image"].tolist(), root)},
            targets=targets,
            subjects=subjects,
            splits=splits,
            validated=config.validation,
            classes=self.classes,
            prompts=prompts,
            variants=self.further_metrics,
            attributes=attributes(scored.frame, self.attributes),
            phantom=scored.phantom,
            provenance={
                **scored.facts,
                "shots": _shots(targets[splits["train"]], self.classes),
                "validation": config.validation,
            },
        )


class RsnaFewShot(ChestFewShot, RsnaZeroShot):
    """Pneumonia or not by prompts, learnt from a few labelled images of the cohort's own training split."""

    class Config(RsnaZeroShot.Config, FewShots):
        """Options: those of the zero-shot task and of the label budget."""


class SiimFewShot(ChestFewShot, SiimZeroShot):
    """Pneumothorax or not by prompts, learnt from a few labelled images of the cohort's own training split."""

    class Config(SiimZeroShot.Config, FewShots):
        """Options: those of the zero-shot task and of the label budget."""


class ChexpertFewShot(Chexpert5x200):
    """The five exclusive findings by prompts, learnt from a few labelled images.

    A training image has one of the five findings for certain, and none of the other four, not even uncertainly; other
    findings do not matter. Patients of the five-class set never enter training.
    """

    inputs = ("image",)
    objective = "prompted"

    class Config(Chexpert5x200.Config, FewShots):
        """Options: those of the zero-shot task and of the label budget."""

    def load(self, root: Path) -> TaskData:
        """Reads the training table and the five-class set."""
        config = self.config
        assert isinstance(config, ChexpertFewShot.Config)
        train = read_chexpert(root, "train", reports=False)
        test = _five_class_set(config, train, root)
        tables = {"train": exclude_subjects(train, test.frame["subject"]), "test": test}
        frame, origin = stack(tables)
        subjects = frame["subject"].to_numpy(str)
        five = np.nan_to_num(frame[list(COMPETITION_5)].to_numpy(float))
        certain = (five == 1).sum(axis=1) == 1
        exclusive = certain & (five != -1).all(axis=1)
        kept = np.where(origin == "test", (five == 1).any(axis=1), exclusive)
        frame, origin, subjects, five = frame.loc[kept].reset_index(drop=True), origin[kept], subjects[kept], five[kept]
        targets = (five == 1).argmax(axis=1).astype(np.int64)
        usable = np.flatnonzero(origin == "train")
        if not len(usable):
            raise DataError(f"{root} has no training image with exactly one of {', '.join(COMPETITION_5)}")
        fit, val = hold_out(usable, subjects, config.val_fraction, config.split_seed)
        fit = within_budget(fit, subjects, class_table(targets, len(COMPETITION_5)), targets, config)
        return TaskData(
            inputs={"image": image_inputs(frame, root)},
            targets=targets,
            subjects=subjects,
            splits=config.without_validation({"train": fit, "val": val, "test": np.flatnonzero(origin == "test")}),
            validated=config.validation,
            classes=COMPETITION_5,
            prompts=config.prompts([name.lower() for name in COMPETITION_5]),
            attributes=attributes(frame, ATTRIBUTES),
            phantom=train.phantom,
            provenance={
                **provenance(tables),
                "classes_from": config.classes_from,
                "templates": list(config.templates),
                "exclusive": len(usable),
                "shots": _shots(targets[fit], COMPETITION_5),
                "validation": config.validation,
            },
        )


def _five_class_set(config: Chexpert5x200.Config, train: ChexpertTable, root: Path) -> ChexpertTable:
    if config.classes_from == "published":
        return read_chexpert(root, "5x200")
    return select_5x200(train, config.per_class, config.split_seed)


def _shots(targets: np.ndarray, classes: tuple[str, ...]) -> dict[str, int]:
    """Training images of each class, which may be fewer than were asked for."""
    return {name: int((targets == k).sum()) for k, name in enumerate(classes)}
