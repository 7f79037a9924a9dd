"""What a cell keeps while it predicts for long, so that one that was killed need not begin again.

The trained weights and what was predicted so far lie in the cache folder, under ``unfinished``, by a digest of what
defines them; they go when the cell is done, or after two weeks.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

import medgraft
from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.benchmarks.cell.steps.training import train
from medgraft.benchmarks.training.training_state import TrainingLog
from medgraft.checkpoints.folder import WEIGHTS_NAME, load, save
from medgraft.checkpoints.weights import file_digest
from medgraft.errors import CheckpointError
from medgraft.files.cache_folder import cache_root

logger = logging.getLogger(__name__)

FOLDER, TRAINED, LOG = "unfinished", "trained", "training.json"
OLD = 14 * 24 * 3600.0


def train_or_resume(ready: Ready, progress: Callable[[float], None]) -> TrainingLog:
    """Trains, or takes the weights of a cell of the same numbers that was killed while it predicted.

    Args:
        ready: What to train.
        progress: Called with the share that is done.

    Raises:
        MedgraftError: As :func:`medgraft.benchmarks.cell.steps.training.train` says.
    """
    if not resumes(ready):
        return train(ready, progress)
    log = kept_training(ready)
    if log is None:
        log = train(ready, progress)
        keep_trained(ready, log)
    resume(ready)
    return log


def resumes(ready: Ready) -> bool:
    """Whether a cell keeps anything: its objective predicts for long, and one process runs it."""
    return ready.runner.objective.resumes and ready.runner.world.size == 1


def folder_of(ready: Ready) -> Path:
    """Where a cell keeps what it has, by everything that defines its numbers."""
    facts = [ready.spec.key(), ready.grafted.base_digest, medgraft.__version__, torch.__version__]
    return cache_root() / FOLDER / hashlib.sha256("|".join(facts).encode()).hexdigest()[:24]


def keep_trained(ready: Ready, log: TrainingLog) -> None:
    """Keeps trained weights and what training reported, whole or not at all.

    A disk that is full is no reason to fail; then nothing can be resumed.
    """
    folder = folder_of(ready)
    _clear(folder.parent)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            place = Path(temporary) / TRAINED
            save(ready.grafted, place)
            (place / LOG).write_text(json.dumps(dataclasses.asdict(log)))
            shutil.rmtree(folder / TRAINED, ignore_errors=True)
            os.replace(place, folder / TRAINED)
    except OSError as error:
        logger.warning("nothing can be resumed of this cell: %s", error.strerror)


def kept_training(ready: Ready) -> TrainingLog | None:
    """Takes back the trained weights of a cell that was killed while it predicted; ``None`` where there are none."""
    place = folder_of(ready) / TRAINED
    try:
        log = TrainingLog(**json.loads((place / LOG).read_text()))
        load(ready.grafted, place)
    except (OSError, ValueError, TypeError, CheckpointError):
        return None
    torch.manual_seed(ready.spec.seed + 1)  # as training would have left it, which is checked after predicting
    logger.info("training was finished before; its weights are taken from %s", place.parent.name)
    return log


def resume(ready: Ready) -> None:
    """Tells the objective where to keep its predictions, in a file by the weights that make them."""
    place = folder_of(ready)
    weights = place / TRAINED / WEIGHTS_NAME
    if weights.is_file():
        ready.runner.objective.resume_at(place / file_digest(weights)[:24])


def forget(ready: Ready) -> None:
    """Removes what a finished cell kept."""
    shutil.rmtree(folder_of(ready), ignore_errors=True)


def _clear(root: Path) -> None:
    """Removes what nobody has come back for."""
    with suppress(OSError):
        for folder in root.iterdir():
            if time.time() - folder.stat().st_mtime > OLD:
                shutil.rmtree(folder, ignore_errors=True)
