"""Where a cell keeps its training between two epochs, under a name that tells everything that its numbers depend on."""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
from collections.abc import Iterable
from pathlib import Path

import torch

import medgraft
from medgraft.benchmarks.cell.job import Job
from medgraft.benchmarks.cell.steps.description import plugins_of
from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.benchmarks.training import trainer
from medgraft.benchmarks.training.epoch_checkpoints import Checkpoints, EpochCheckpoints

FORMAT = 1
LIBRARIES = ("numpy", "safetensors", "timm", "transformers")


def epoch_checkpoints(job: Job, ready: Ready) -> Checkpoints:
    """What keeps the training of a cell, if the job says where; of several ranks the first writes, and all read.

    A checkpoint is of the cell and not of its ranks, so that another number of them may go on from it.
    """
    if job.unfinished is None:
        return Checkpoints()
    name = f"{job.spec.key()}-{tag(ready)}.safetensors"
    return EpochCheckpoints(job.unfinished / name, job.checkpoint_every, writes=ready.runner.world.rank == 0)


def tag(ready: Ready) -> str:
    """12 hex digits of what a cell's training depends on beside its key.

    Weights of the encoder, training samples and their targets, versions of the plugins and libraries, and the source of
    every class that takes part, for a plugin is often changed without a new version while it is written.
    """
    loaded, data = ready.loaded, hashlib.sha256()
    data.update(loaded.splits["train"].tobytes())
    data.update(ready.runner.data.targets.tobytes())
    parts = [*(adapter for _, adapter in ready.grafted.named_adapters()), *ready.grafted.towers().values()]
    classes = {type(each) for each in (*parts, ready.runner.objective, loaded.task, ready.grafted.head)}
    facts = {
        "format": FORMAT,
        "encoder": ready.grafted.base_digest,
        "data": data.hexdigest(),
        "versions": [medgraft.__version__, torch.__version__, *map(importlib.metadata.version, LIBRARIES)],
        "plugins": plugins_of(ready.spec),
        "sources": sources(classes),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


def sources(classes: Iterable[type]) -> list[str]:
    """Digests of the files that define classes and what they derive from, and of the trainer's folder."""
    bases = {base for each in classes for base in each.__mro__}
    named = {inspect.getsourcefile(base) for base in bases if _is_ours(base)}
    files = {Path(name) for name in named if name} | set(Path(trainer.__file__).parent.glob("*.py"))
    return sorted(_digest(file) for file in files if file.is_file())


def _is_ours(base: type) -> bool:
    """Whether its code may change without a new version of a library."""
    return base.__module__ != "builtins" and base.__module__.partition(".")[0] not in {"torch", "typing", "abc"}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
