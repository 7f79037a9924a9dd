"""``medmnist``: the data sets of MedMNIST, images and volumes, with their own splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import model_validator

from medgraft.benchmarks.cohorts.medmnist.download import download
from medgraft.benchmarks.cohorts.medmnist.facts import DATA_SETS, MULTI_LABEL, DataSet
from medgraft.benchmarks.cohorts.medmnist.reading import Contents, read_data_set
from medgraft.benchmarks.cohorts.tables.reading import generator_of
from medgraft.cohort import is_phantom
from medgraft.errors import ConfigError
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.task import SPLITS, RawInputs, Task, TaskConfig, TaskData, Variant

READER_VERSION = 1
"""Raised whenever the same file would be read differently; part of what the caches know."""

OWN_SUBJECT = (
    "MedMNIST names no patients: each image is a subject of its own, intervals resample images and may be too narrow"
)

Name = Literal[
    "pathmnist",
    "chestmnist",
    "dermamnist",
    "octmnist",
    "pneumoniamnist",
    "retinamnist",
    "breastmnist",
    "bloodmnist",
    "tissuemnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
    "organmnist3d",
    "nodulemnist3d",
    "adrenalmnist3d",
    "fracturemnist3d",
    "vesselmnist3d",
    "synapsemnist3d",
]


def _inputs(facts: DataSet) -> tuple[str, ...]:
    return ("volume",) if facts.volumes else ("image",)


def _title(name: str, facts: DataSet) -> str:
    kind = "labels" if facts.task == MULTI_LABEL else "grades" if facts.task.startswith("ordinal") else "classes"
    sample = "volumes" if facts.volumes else "images in colour" if facts.channels == 3 else "images"
    return f"MedMNIST, {name}: {sample} of {len(facts.labels)} {kind}"


class MedMnist(Task):
    """A data set of MedMNIST, of which each is a variant; the task itself is the one that its option names.

    Classes, labels and splits are MedMNIST's own, and so are ``medmnist_auc`` and ``medmnist_acc`` beside the numbers
    of every task. Grades (``retinamnist``) are learnt and judged as classes, as its ``Evaluator`` does.
    """

    inputs = ("image",)
    objective = "multiclass"
    cohort = "medmnist"
    primary = "auc_macro"
    variants: ClassVar[Mapping[str, Variant]] = {
        name: Variant(title=_title(name, facts), defaults={"name": name}, inputs=_inputs(facts))
        for name, facts in DATA_SETS.items()
    }

    class Config(TaskConfig):
        """Options.

        Attributes:
            name: Of the data set; of a variant it is the variant's.
            size: Side of the images in pixels or of the volumes in voxels; each has a file of its own.
        """

        name: Name = "pathmnist"
        size: Literal[28, 64, 128, 224] = 28

        @model_validator(mode="after")
        def _there_is_such_a_file(self) -> MedMnist.Config:
            if self.size not in DATA_SETS[self.name].sizes:
                raise ValueError(f"size {self.size}: {self.name} has volumes of 28 and 64 voxels a side")
            return self

    config: Config

    def __init__(self, config: TaskConfig | None = None) -> None:
        super().__init__(config)
        name, own = self.config.name, type(self).Config.model_fields["name"].default
        if not type(self).variants and name != own:
            raise ConfigError(f"medmnist:{own} is the data set {own}; for {name}, name the task medmnist:{name}")
        facts = DATA_SETS[name]
        self.inputs = _inputs(facts)
        self.objective = "multilabel" if facts.task == MULTI_LABEL else "multiclass"

    def download(self, root: Path, announce: Callable[[str], None]) -> None:
        """Fetches the file that is read, unless it is there; see :meth:`medgraft.task.Task.download`."""
        download(root, self.config.name, self.config.size, announce)

    def load(self, root: Path) -> TaskData:
        """Reads labels and splits; images are read when they are needed.

        Raises:
            DataError: The file is not there, or not what MedMNIST has under its name.
        """
        read = read_data_set(Path(root), self.config.name, self.config.size)
        count, phantom = len(read.targets), is_phantom(root)
        colour = read.facts.channels == 3
        facts = f"{file_facts([str(read.path)], read.path.parent)}|{reading_facts(READER_VERSION)}"
        return TaskData(
            inputs={self.inputs[0]: RawInputs(lambda i: read.sample(i), count, facts, colour=colour)},
            targets=read.targets,
            subjects=np.arange(count).astype(str),
            splits=read.splits(),
            given_test=True,
            classes=read.facts.labels,
            variants=("medmnist_auc", "medmnist_acc"),
            phantom=phantom,
            provenance={
                "generator": generator_of(root.parent if root.is_file() else root) if phantom else None,
                "reader": {"used": count, "skipped": {}},
                "notes": [OWN_SUBJECT, *([] if phantom else _otherwise(read))],
                "split_by": "the data",
                "task": read.facts.task,
                "licence": read.facts.licence,
            },
        )


def _otherwise(read: Contents) -> list[str]:
    """What is unlike the published data set."""
    told: dict[str, Any] = dict(zip(SPLITS, read.facts.samples, strict=True))
    if dict(read.counts) == told:
        return []
    counts = [f"{read.counts[name]:,} of {told[name]:,} in {name}" for name in SPLITS]
    return [f"not the published data set, whose numbers of samples are others: {', '.join(counts)}"]
