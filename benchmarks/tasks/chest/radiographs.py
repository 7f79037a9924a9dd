"""What the tasks on radiographs share: inputs, splits, prompts and what a result says of the readers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from pydantic import Field, field_validator

from medgraft.benchmarks.cohorts.images.grey import IMAGES_VERSION
from medgraft.benchmarks.cohorts.images.load import load_radiograph, squared
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.benchmarks.tasks.label_budget import LabelBudget, class_table, within_budget
from medgraft.benchmarks.tasks.splits import SplitConfig
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.task import RawInputs, TaskConfig, TaskData, subject_split

if TYPE_CHECKING:
    from medgraft.benchmarks.cohorts.chest.rsna import RsnaTable
    from medgraft.benchmarks.cohorts.chest.siim import SiimTable

PROMPTS = ("a chest X-ray image of {}.", "Findings suggesting {}.")
"""The two templates of ACE-LoRA (Aydin et al., 2026)."""


class FilmSplitConfig(SplitConfig):
    """Options of tasks on cohorts without an official split; those of :class:`SplitConfig` with smaller shares."""

    test_fraction: float = Field(0.15, gt=0, lt=1)
    val_fraction: float = Field(0.15, gt=0, lt=1)

    def parts(self, frame: pd.DataFrame) -> dict[str, np.ndarray]:
        """Split -> rows ``[m]`` of a frame with ``subject`` and ``target``, by subject, stratified by target."""
        subjects = frame["subject"].to_numpy(str)
        return subject_split(subjects, frame["target"].to_numpy(), self.fractions, self.split_seed)


class PromptConfig(TaskConfig):
    """Options of zero-shot tasks.

    Attributes:
        templates: Prompt templates; ``{}`` takes the finding's name.
    """

    templates: tuple[str, ...] = Field(PROMPTS, min_length=1)

    @field_validator("templates")
    @classmethod
    def _name_has_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if "{}" not in template:
                raise ValueError(f"template {template!r} has no {{}} for the finding's name")
        return templates

    def prompts(self, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """One tuple of prompts per name."""
        return tuple(tuple(template.replace("{}", name) for template in self.templates) for name in names)


def published_thirds(n: int) -> dict[str, np.ndarray]:
    """The 70/15/15 split ``[m]`` of GLoRIA's preparation (Huang et al., ICCV 2021), which RSNA and SIIM studies share.

    It splits the rows of a complete table by scikit-learn with seed 0, so another number of rows is another split.
    """
    from sklearn.model_selection import train_test_split

    train, rest = train_test_split(np.arange(n), test_size=0.3, random_state=0)
    test, val = train_test_split(rest, test_size=0.5, random_state=0)
    return {"train": np.sort(train), "val": np.sort(val), "test": np.sort(test)}


def radiographs(paths: Sequence[str], root: Path, *, square: bool = False) -> RawInputs:
    """Radiographs, read when needed.

    Args:
        paths: Absolute paths.
        root: Folder of the cohort; the files' names below it enter the fingerprint.
        square: Pad to a square, for tasks whose targets are places.
    """
    paths = [str(path) for path in paths]

    def read(i: int) -> np.ndarray:
        image = load_radiograph(paths[i], places=square)
        return squared(image) if square else image

    facts = f"{file_facts(paths, root)}|{reading_facts(IMAGES_VERSION)}"
    return RawInputs(read, len(paths), f"{facts}|square" if square else facts)


def labelled(
    table: RsnaTable | SiimTable,
    root: Path,
    split: FilmSplitConfig,
    budget: LabelBudget,
    classes: tuple[str, ...],
    *,
    published: bool = False,
    regions: Callable[[int], np.ndarray] | None = None,
    **facts: Any,
) -> TaskData:
    """A task on the images and binary targets ``[n]`` of a table.

    Args:
        table: What was read.
        root: Folder of the cohort.
        split: The split by subject.
        budget: Which training samples are kept.
        classes: Names of the classes.
        published: The published split of the rows instead, with every image a subject of its own.
        regions: For a dense task, see :class:`~medgraft.task.TaskData`; images are then padded to squares.
        **facts: More for the provenance.
    """
    splits = published_thirds(len(table.frame)) if published else split.parts(table.frame)
    targets = table.frame["target"].to_numpy(np.int64)
    subjects = table.frame["image_id" if published else "subject"].to_numpy(str)
    splits["train"] = within_budget(splits["train"], subjects, class_table(targets, 2), targets, budget)
    return TaskData(
        inputs={"image": radiographs(table.frame["image"].tolist(), root, square=regions is not None)},
        targets=targets,
        subjects=subjects,
        splits=splits,
        classes=classes,
        regions=regions,
        phantom=table.phantom,
        provenance=reading(table.report, table.generator, **facts),
    )


def attributes(frame: pd.DataFrame, names: Sequence[str], more: int = 0) -> dict[str, np.ndarray]:
    """Facts of people and images by which metrics are told, ``[n + more]`` each.

    Args:
        frame: Of ``n`` images.
        names: Columns that it may have.
        more: Samples behind them of which nothing is known.
    """
    blank = np.full(more, None, object)
    return {name: np.concatenate([frame[name].to_numpy(object), blank]) for name in names if name in frame}


def reading(report: ReadReport, generator: str | None, **more: Any) -> dict[str, Any]:
    """What a result says of the reader; holds no identifier."""
    return {
        "generator": generator,
        "reader": {"used": report.used, "skipped": dict(report.skipped), "notes": dict(report.notes)},
        **more,
    }
