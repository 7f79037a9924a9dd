"""Trainings that are ended before a step, as a kill would."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import torch

from medgraft.benchmarks.training.epoch_checkpoints import EpochCheckpoints
from medgraft.benchmarks.training.trainer import Runner
from medgraft.benchmarks.training.training_state import TrainingLog
from medgraft.registry import TrainDefaults


class Killed(BaseException):
    """In the place of a signal."""


def trained_until(
    made: Runner, samples: int, recipe: TrainDefaults, path: Path | None, *, stop: int = 0, seed: int = 5
) -> TrainingLog:
    """What a training reports, nothing if it is ended before the step ``stop``; its checkpoints lie at ``path``."""
    torch.manual_seed(seed), random.seed(seed), np.random.seed(seed)
    if path is not None:
        made.checkpoints = EpochCheckpoints(path, 0.0)
    steps = 0

    def progress(share: float) -> None:
        nonlocal steps
        steps += 1
        if steps == stop:
            raise Killed

    try:
        return made.fit(np.arange(samples), recipe, 3, progress)
    except Killed:
        return TrainingLog()
