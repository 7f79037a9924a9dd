"""The tasks ``table`` and ``folder``: data that no plugin was written for.

What the data decide (columns, objective, inputs) becomes options of the task when a sweep is planned, so that
a result says what was understood, and a worker understands the same.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

from medgraft.benchmarks.cohorts.eeg.windows import RECORDINGS_VERSION
from medgraft.benchmarks.cohorts.images.grey import IMAGES_VERSION
from medgraft.benchmarks.cohorts.own.columns import AUTO, Columns
from medgraft.benchmarks.cohorts.own.data import OwnData
from medgraft.benchmarks.cohorts.own.files import common_folder, parts_of
from medgraft.benchmarks.cohorts.own.labels import PRIMARY
from medgraft.benchmarks.cohorts.own.options import OwnConfig
from medgraft.benchmarks.cohorts.own.readers import reader_of
from medgraft.benchmarks.cohorts.tables.reading import generator_of
from medgraft.benchmarks.cohorts.volumes.load import VOLUMES_VERSION
from medgraft.cohort import is_phantom
from medgraft.files.content import file_facts
from medgraft.files.one_file import reading_facts
from medgraft.modality import TEXT
from medgraft.task import RawInputs, Task, TaskConfig, TaskData

VERSIONS = {"image": IMAGES_VERSION, "volume": VOLUMES_VERSION, "signal": RECORDINGS_VERSION}
"""Modality -> version of what reads its files."""


class OwnTask(Task):
    """Base of the tasks on data that no plugin was written for."""

    inputs = ("image",)
    objective = "multiclass"
    primary = "auc_macro"
    takes_names = True
    Config: ClassVar[type[TaskConfig]] = OwnConfig
    config: OwnConfig

    def __init__(self, config: TaskConfig | None = None) -> None:
        super().__init__(config)
        if self.config.inputs != (AUTO,):
            self.inputs = self.config.inputs
        if self.config.objective != AUTO:
            self.objective, self.primary = self.config.objective, PRIMARY[self.config.objective]

    def read(self, root: Path) -> tuple[OwnData, Columns]:
        """The samples, and which column of the table is what.

        Raises:
            DataError: The data cannot be understood.
        """
        raise TypeError(f"{type(self).__name__} must implement read()")

    def settled(self, root: Path) -> OwnTask:
        """The task with what the data decide as options."""
        return self.settled_on(*self.read(root))

    def settled_on(self, data: OwnData, columns: Columns) -> OwnTask:
        """The same for data that are read already."""
        return type(self)(self.config.model_copy(update=self._facts(data, columns)))

    def _facts(self, data: OwnData, columns: Columns) -> dict[str, Any]:
        return {"objective": data.targets.kind, "inputs": data.inputs}

    def load(self, root: Path) -> TaskData:
        """Reads the data."""
        data, columns = self.read(root)
        targets, phantom = data.targets, is_phantom(root)
        return TaskData(
            inputs={name: _raw(name, data, colour=self.config.colour == "rgb") for name in data.inputs},
            targets=targets.values,
            subjects=data.subjects,
            splits=data.splits,
            given_test=data.own_split,
            classes=targets.classes,
            mask=targets.mask,
            columns={} if targets.event is None else {"event": targets.event},
            attributes={str(name): data.attributes[name].to_numpy(object) for name in data.attributes.columns},
            phantom=phantom,
            provenance={
                "generator": generator_of(root if root.is_dir() else root.parent) if phantom else None,
                "reader": {"used": len(data.subjects), "skipped": dict(data.left_out)},
                "notes": list(data.notes),
                "split_by": "the data" if data.own_split else "subject",
                "attributes": list(columns.attributes),
            },
        )


def _raw(name: str, data: OwnData, *, colour: bool) -> RawInputs:
    if name == TEXT:
        digest = hashlib.sha256("\n".join(data.texts).encode()).hexdigest()
        return RawInputs(data.texts.__getitem__, len(data.texts), digest)
    files, colour = data.files, colour and name == "image"
    load, version = reader_of(name, colour=colour), VERSIONS[name]
    parts = [part for path in files for part in parts_of(path)]
    facts = f"{file_facts(parts, common_folder(files))}|{reading_facts(version)}{'|rgb' if colour else ''}"
    return RawInputs(lambda i: load(files[i]), len(files), facts, colour=colour)
