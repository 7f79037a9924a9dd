"""Keeps training between two epochs, so that a cell that is killed goes on from there."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

from medgraft.benchmarks.training.checkpoint_file import read_tree, write_tree
from medgraft.benchmarks.training.training_state import TrainingState
from medgraft.commands.plain_text import one_line
from medgraft.errors import CheckpointError

logger = logging.getLogger(__name__)

LARGEST_SHARE = 0.02
"""Of the time since the last one, which writing a checkpoint may take, going by the last."""


class Checkpoints:
    """Keeps nothing."""

    elapsed = 0.0

    def resume(self, state: TrainingState) -> int:
        """Puts back what another process kept; the epochs that were done then."""
        return 0

    def after_epoch(self, epoch: int, state: TrainingState) -> None:
        """Keeps the state after an epoch, if it is time to."""


class EpochCheckpoints(Checkpoints):
    """Keeps one checkpoint in a file.

    Args:
        path: Of the file, whose name tells everything that defines the numbers.
        every: Seconds between two checkpoints at least.
        writes: This process keeps checkpoints; otherwise it only goes on from one.

    Attributes:
        elapsed: Seconds of training of the processes before this one, up to their checkpoint.
    """

    def __init__(self, path: Path, every: float, *, writes: bool = True) -> None:
        self.path, self.every, self.writes = path, every, writes
        self.started = self.last = time.monotonic()
        self.cost = 0.0
        self.warned = False

    def resume(self, state: TrainingState) -> int:
        """Puts back what another process kept; the epochs that were done then.

        A file that is damaged, or does not fit, is set aside with a warning, and training starts anew.
        """
        self.started = self.last = time.monotonic()
        try:
            tree = read_tree(self.path)
        except FileNotFoundError:
            return 0
        except CheckpointError as error:
            self._set_aside(str(error))
            return 0
        if misfit := state.misfit(tree["state"]):
            self._set_aside(misfit)
            return 0
        state.put_back(tree["state"])
        epoch, self.elapsed = tree["epoch"], tree["elapsed"]
        state.log.resumed.append(epoch)
        logger.warning("training goes on behind epoch %d, where a run of this cell was ended", epoch)
        return epoch

    def after_epoch(self, epoch: int, state: TrainingState) -> None:
        """Keeps the state after an epoch, if it is time to.

        A disk that is full is no reason to fail.
        """
        now = time.monotonic()
        if not self.writes or now - self.last < max(self.every, self.cost / LARGEST_SHARE) or not state.resumable():
            return
        elapsed = self.elapsed + now - self.started
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_tree(self.path, {"epoch": epoch, "elapsed": elapsed, "state": state.taken()})
        except (OSError, TypeError) as error:
            if not self.warned:
                logger.warning("training cannot be resumed from here: %s", one_line(str(error), 200))
            self.warned = True
        self.last = time.monotonic()
        self.cost = self.last - now

    def _set_aside(self, why: str) -> None:
        aside = self.path.with_name(f"{self.path.name}.damaged")
        with suppress(OSError):
            os.replace(self.path, aside)
        text = "the checkpoint of this cell cannot be used (%s); it is set aside as %s, and training starts anew"
        logger.warning(text, one_line(why, 200), aside.name)
