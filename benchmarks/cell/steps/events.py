"""TensorBoard event files of a cell: losses and learning rates as it trains, then its metrics and hyper-parameters."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import safe_name
from medgraft.benchmarks.training.observer import Observer

logger = logging.getLogger(__name__)

FLUSH = 15
"""Seconds after which what was written can be seen in TensorBoard."""


def run_folder(root: Path, spec: CellSpec) -> Path:
    """Where the events of a cell lie: TensorBoard takes the path below ``root`` for the run's name."""
    run = f"{safe_name(spec.adapter)}-seed{spec.seed}-{spec.key()[:8]}"
    return root / safe_name(spec.task) / safe_name(spec.encoder) / run


class EventFiles(Observer):
    """Writes the events of one cell; a folder that takes none costs the events and nothing else.

    Args:
        root: Folder of all runs.
        spec: The cell; events of an earlier run of it are replaced.
    """

    def __init__(self, root: Path, spec: CellSpec) -> None:
        self.folder = run_folder(root, spec)
        self.writer: Any = None
        self._attempt(self._open)

    def _open(self) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("events.out.tfevents.*"):
            old.unlink()
        self.writer = SummaryWriter(str(self.folder), flush_secs=FLUSH)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # a disk that is full, or whatever the library raises on it
            self.writer = None
            logger.warning("no more TensorBoard events of this cell: %s: %s", type(error).__name__, error)

    def _scalars(self, values: Mapping[str, float | None], step: int) -> None:
        def write() -> None:
            for name, value in values.items():
                if value is not None:
                    self.writer.add_scalar(name, value, step)

        if self.writer is not None:
            self._attempt(write)

    def step(self, step: int, loss: float, rates: Mapping[str, float]) -> None:
        """Loss and learning rates of a step."""
        self._scalars({"train/loss": loss, **{f"learning_rate/{name}": rate for name, rate in rates.items()}}, step)

    def epoch(self, epoch: int, step: int, loss: float) -> None:
        """Mean loss of an epoch; its step is that at which it ended."""
        self._scalars({"train/epoch_loss": loss, "train/epoch": float(epoch)}, step)

    def result(self, result: CellResult) -> None:
        """Metrics with their intervals, the loss by which the head was chosen, and the hyper-parameters."""
        steps = int(result.training.get("steps", 0))
        for name, metric in result.metrics.items():
            values = {"": metric.value, "_low": metric.ci_low, "_high": metric.ci_high}
            self._scalars({f"test/{name}{end}": value for end, value in values.items()}, steps)
        self._scalars(chosen_head(result.training.get("head") or {}), steps)
        self._attempt(lambda: self._hyper_parameters(result))

    def close(self) -> None:
        """Ends; what was written is in the file."""
        if self.writer is not None:
            self._attempt(self.writer.close)

    def _hyper_parameters(self, result: CellResult) -> None:
        if self.writer is None:
            return
        from torch.utils.tensorboard.summary import hparams

        values = {f"test/{name}": each.value for name, each in result.metrics.items() if each.value is not None}
        for summary in hparams(hyper_parameters(result.spec), values):
            self.writer.file_writer.add_summary(summary)


def chosen_head(head: Mapping[str, Any]) -> dict[str, float | None]:
    """The loss by which the head was chosen, on validation samples or folds, where it was.

    Example:
        >>> chosen_head({"rule": "lowest log-loss on the validation split", "C": 1.0, "candidates": [
        ...     {"C": None, "log_loss": 0.5}, {"C": 1.0, "log_loss": 0.4}]})
        {'validation/log_loss': 0.4}
    """
    where = "validation" if "validation split" in str(head.get("rule")) else "cross_validation"
    kept = [each for each in head.get("candidates") or () if each.get("C") == head.get("C")]
    return {f"{where}/{name}": value for each in kept for name, value in each.items() if name != "C"}


@contextmanager
def observing(folder: Path | None, spec: CellSpec) -> Iterator[Observer]:
    """Who looks on at a cell: the writer of its events, or nobody where ``folder`` is ``None``."""
    if folder is None:
        yield Observer()
        return
    events = EventFiles(folder, spec)
    try:
        yield events
    finally:
        events.close()


def hyper_parameters(spec: CellSpec) -> dict[str, str | float | bool]:
    """What tells a cell from others, flat, as TensorBoard's table of runs shows it."""
    facts: dict[str, Any] = {
        "task": spec.task,
        "encoder": spec.encoder,
        "adapter": spec.adapter,
        "seed": spec.seed,
        "precision": spec.precision,
        "cohort": f"{spec.cohort.name}{' (PHANTOM)' if spec.cohort.phantom else ''}",
    }
    facts |= {f"train.{name}": value for name, value in spec.train.model_dump(mode="json").items()}
    facts |= {f"{spec.adapter}.{name}": value for name, value in spec.adapter_options.items()}
    return {name: value if isinstance(value, bool | int | float | str) else str(value) for name, value in facts.items()}
