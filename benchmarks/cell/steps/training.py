"""The fourth step: training."""

from __future__ import annotations

from collections.abc import Callable

import torch

from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.benchmarks.training import head_choice
from medgraft.benchmarks.training.training_state import TrainingLog


def train(ready: Ready, progress: Callable[[float], None]) -> TrainingLog:
    """Trains as the spec says, and chooses the head's strength of L2.

    Args:
        ready: What to train.
        progress: Called with the share that is done.

    Raises:
        MedgraftError: There is nothing to train on, or an adapter changed what it must leave as it is.
    """
    spec, splits = ready.spec, ready.loaded.splits
    torch.manual_seed(spec.seed + 1)

    def watched(share: float) -> None:
        ready.attached.check_modes()  # whoever predicts puts the encoder's modules back, and here is where it matters
        progress(share)

    log = head_choice.train(ready.runner, splits["train"], splits["val"], spec.train, spec.seed, watched)
    ready.attached.check_untouched(spec.seed + 1)
    return log
