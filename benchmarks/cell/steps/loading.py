"""The first step: the cohort's samples, prepared for the encoder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medgraft.benchmarks.cell.encoder import select_encoder
from medgraft.benchmarks.cell.limit import limited
from medgraft.benchmarks.prefix_cache.inputs import PreparedInputs, prepare
from medgraft.benchmarks.results.spec import CellSpec, CohortId
from medgraft.encoder import Encoder
from medgraft.objective import modalities
from medgraft.task import RawInputs, Task, TaskData
from medgraft.task.names import build_task, resolve_task


@dataclass(frozen=True)
class Loaded:
    """What a cell runs on.

    Attributes:
        spec: What to run.
        task: The task, with its options.
        data: What it read.
        encoder: The frozen encoder, with the towers that the task needs.
        prepared: Modality -> samples as the towers take them.
        splits: Split -> ``int64 [n]``, the samples that could be read; where some inputs may be missing, one of them.
        unreadable: Samples of which an input could not.
        reasons: Why not -> how many.
    """

    spec: CellSpec
    task: Task
    data: TaskData
    encoder: Encoder
    prepared: Mapping[str, PreparedInputs]
    splits: dict[str, np.ndarray]
    unreadable: int
    reasons: Mapping[str, int]

    def towers(self) -> dict[str, Encoder]:
        """The towers that the task feeds, by modality."""
        return _fed(self.task, self.encoder)


def load(spec: CellSpec, root: Path, task: Task | None = None) -> Loaded:
    """Reads the cohort and prepares its samples for the encoder; drops those that cannot be read.

    Args:
        spec: What to run.
        root: Folder of the cohort.
        task: A task in the place of the one that the spec names, for audits of it.

    Raises:
        MedgraftError: The data do not fit the task, or the encoder does not.
    """
    task = build_task(spec.task, spec.task_options) if task is None else task
    data = task.load(root).check()
    encoder = select_encoder(spec.encoder, modalities(task)).to(spec.device)
    raw = {name: distinct(data.inputs[name], spec.task, spec.cohort) for name in task.inputs}
    prepared = prepare_all(raw, _fed(task, encoder))
    needed = [part.usable for name, part in prepared.items() if raw[name].present is None]
    usable = np.logical_and.reduce(needed) if needed else np.ones(len(data.targets), bool)
    usable = usable & np.logical_or.reduce([part.usable for part in prepared.values()])
    return Loaded(
        spec,
        task,
        _with_gaps(data, prepared),
        encoder,
        prepared,
        splits=limited({name: index[usable[index]] for name, index in data.splits.items()}, spec.limit),
        unreadable=int(np.logical_or.reduce([~part.usable & _stated(raw[n]) for n, part in prepared.items()]).sum()),
        reasons=sum((Counter(part.reasons) for part in prepared.values()), Counter[str]()),
    )


def _stated(raw: RawInputs) -> np.ndarray:
    """Which samples have one by the task, ``bool [n]``, whether it can be read or not."""
    return np.ones(raw.count, bool) if raw.present is None else raw.present


def _with_gaps(data: TaskData, prepared: Mapping[str, PreparedInputs]) -> TaskData:
    """The data; of inputs that samples may lack, those that could not be read are missing."""
    gaps = {
        name: replace(data.inputs[name], present=part.usable)
        for name, part in prepared.items()
        if data.inputs[name].present is not None
    }
    return replace(data, inputs={**data.inputs, **gaps}) if gaps else data


def _fed(task: Task, encoder: Encoder) -> dict[str, Encoder]:
    return {name: tower for name, tower in encoder.towers().items() if name in task.inputs}


def prepare_all(raw: Mapping[str, RawInputs], towers: Mapping[str, Encoder]) -> dict[str, PreparedInputs]:
    """Samples of each modality as its tower takes them.

    Raises:
        DataError: None of a modality can be read.
    """
    return {
        name: prepare(raw[name], tower, tower.spec.model_dump_json(exclude={"weights", "cohorts", "licence"}))
        for name, tower in towers.items()
    }


def distinct(raw: RawInputs, task: str, cohort: CohortId) -> RawInputs:
    """The samples; a foreign task's fingerprint may say too little, so the cohort's revision stands beside it."""
    if resolve_task(task).plugin.builtin:
        return raw
    return replace(raw, fingerprint=f"{raw.fingerprint}|{cohort.revision}")
