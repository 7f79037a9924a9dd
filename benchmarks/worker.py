"""One cell, one process: reads a JSON spec, writes a JSON result. Slurm or Ray may start it as well as our launcher.

``python -m medgraft.benchmarks.worker job.json folder`` writes ``folder/result.json`` and ``folder/predictions.npz``.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from medgraft.benchmarks import environment
from medgraft.benchmarks.results import (
    CellResult,
    CellSpec,
    Efficiency,
    Status,
    StorageError,
    write_arrays,
    write_atomically,
)
from medgraft.plain_text import one_line

if TYPE_CHECKING:
    from medgraft.benchmarks.cell import Cell

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]
"""Told what runs now, which begins with a text of :data:`STEPS`, and the share of it that is done."""

STEPS = {
    "load": "reading",
    "build": "attaching the adapter",
    "prefix": "computing the frozen prefix",
    "train": "training",
    "evaluate": "predicting",
    "measure": "measuring",
    "write": "writing the result",
}
"""Steps of a cell, by which failures are told, and what a person reads of them."""

LONGEST_MESSAGE = 1000


class Job(BaseModel):
    """What a worker is told.

    Attributes:
        spec: The cell.
        root: Folder of the cohort on this machine.
        concurrent_jobs: Workers that share the machine.
    """

    model_config = ConfigDict(extra="forbid")

    spec: CellSpec
    root: Path
    concurrent_jobs: int = 1


def select_encoder(name: str, inputs: tuple[str, ...]):
    """The encoder that a task's inputs need: one tower of a dual encoder, or the whole.

    Raises:
        IncompatibleError: It lacks a modality that the task has.
    """
    from medgraft.errors import IncompatibleError
    from medgraft.registry import build_encoder

    encoder = build_encoder(name)
    towers = encoder.towers()
    if missing := [modality for modality in inputs if modality not in towers]:
        has = " and ".join(towers)
        raise IncompatibleError(f"the task reads {' and '.join(missing)}, encoder {name!r} reads only {has}")
    return towers[inputs[0]] if len(inputs) == 1 else encoder


def run_cell(job: Job, progress: Progress) -> tuple[CellResult, dict[str, np.ndarray]]:
    """Runs a cell from data to metrics.

    Args:
        job: The cell and where its data lie.
        progress: Called with what runs now and the share of it that is done.

    Returns:
        The result, and the arrays of predictions to be kept beside it.
    """
    import torch

    from medgraft.benchmarks.cell import Cell

    environment.use_threads(job.spec.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    clock = {"start": time.perf_counter()}
    cell = Cell(job.spec, job.root)
    with cell.operations():
        return _run_steps(cell, job, progress, clock)


def _run_steps(
    cell: Cell, job: Job, progress: Progress, clock: dict[str, float]
) -> tuple[CellResult, dict[str, np.ndarray]]:
    """The steps of a cell, each with the time at which it ends."""
    progress(STEPS["load"], 0.0)
    cell.load()
    clock["load"] = time.perf_counter()
    progress(STEPS["build"], 0.0)
    cell.attach()
    progress(STEPS["prefix"], 0.0)
    cell.precompute()
    clock["prefix"] = time.perf_counter()
    progress(STEPS["train"], 0.0)
    log = cell.train(lambda share: progress(f"{STEPS['train']} {cell.runner.stage}".strip(), share))
    clock["train"] = time.perf_counter()
    progress(STEPS["evaluate"], 0.0)
    metrics, predictions = cell.evaluate()
    clock["evaluate"] = time.perf_counter()
    progress(STEPS["measure"], 0.0)
    efficiency = cell.measure(log)
    clock["measure"] = time.perf_counter()
    marks = list(clock.items())
    result = CellResult(
        key=job.spec.key(),
        status="success",
        spec=job.spec,
        phantom=cell.data.phantom or job.spec.cohort.phantom,
        primary=cell.task.primary,
        metrics=metrics,
        efficiency=efficiency.model_copy(update={"concurrent_jobs": job.concurrent_jobs}),
        training={
            "epoch_loss": log.epoch_loss,
            "steps": log.steps,
            "samples": log.samples,
            "seconds": log.seconds,
            **({"stages": log.stages} if log.stages else {}),
            **({"head": log.head} if log.head else {}),
        },
        data=cell.describe_data(),
        encoder=cell.describe_encoder(),
        adapters=cell.describe_adapters(),
        diagnostics=cell.diagnostics,
        ops=cell.ops(),
        cache=cell.describe_cache(),
        plugins=cell.provenance(),
        env=environment.describe(job.spec.threads),
        timing={name: round(at - marks[i][1], 3) for i, (name, at) in enumerate(marks[1:])},
    )
    cell.give_back()
    return result, predictions


def step_of(doing: str) -> str:
    """The step of :data:`STEPS` that a text of :data:`Progress` belongs to; empty before the first.

    Example:
        >>> step_of("training the routers"), step_of("starting")
        ('train', '')
    """
    return next((step for step, text in STEPS.items() if doing.startswith(text)), "")


def failure(job: Job, status: Status, message: str, doing: str = "") -> CellResult:
    """The result of a cell that did not end well.

    Args:
        job: The cell.
        status: How it ended.
        message: Why, for a person.
        doing: What ran then, as :data:`Progress` was told.
    """
    return CellResult(
        key=job.spec.key(),
        status=status,
        message=one_line(f"while {doing}: {message}" if doing else message, LONGEST_MESSAGE),
        stage=step_of(doing),
        spec=job.spec,
        phantom=job.spec.cohort.phantom,
        efficiency=Efficiency(trainable={}, encoder_parameters=0, concurrent_jobs=job.concurrent_jobs),
        env=environment.describe(job.spec.threads),
    )


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )


def without_files(text: str, root: Path) -> str:
    """A message without the names of files below the cohort's folder, which may identify a person.

    Example:
        >>> without_files("cannot read '/data/ADNI/123_S_4567/x.nii'", Path("/data/ADNI"))
        "cannot read '<file of the cohort>'"
    """
    return re.sub(re.escape(str(root)) + r"/[^\s'\",;:]+", "<file of the cohort>", text)


def execute(job: Job, folder: Path, progress: Progress) -> Status:
    """Runs a cell and writes its outcome into ``folder``, whatever it is.

    Raises:
        StorageError: It cannot be written there.
    """
    process, doing = os.getpid(), [""]

    def told(text: str, share: float) -> None:
        doing[0] = text
        progress(text, share)

    predictions: dict[str, np.ndarray] = {}
    try:
        result, predictions = run_cell(job, told)
        doing[0] = STEPS["write"]
        result.model_dump_json()  # what a foreign task reports may not be JSON
    except BaseException as error:  # a plugin may also raise what is no Exception, such as SystemExit
        result, predictions = _failed(job, error, doing[0]), {}
    if os.getpid() != process:
        os._exit(0)  # a plugin forked and came back here twice
    try:
        if predictions:
            write_arrays(folder / "predictions.npz", predictions)
        text = result.model_dump_json()
        write_atomically(folder / "result.json", lambda handle: handle.write(text.encode()))
    except OSError as error:
        raise StorageError(folder.parent.parent, error) from error
    return result.status


def _failed(job: Job, error: BaseException, doing: str) -> CellResult:
    """The result of a cell whose code raised ``error``."""
    from medgraft.errors import MedgraftError

    text = without_files(str(error), job.root)
    if isinstance(error, MedgraftError):
        return failure(job, "error", text, doing)
    frames = traceback.extract_tb(error.__traceback__)
    calls = "".join(f"  {frame.filename}:{frame.lineno} in {frame.name}\n" for frame in frames)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the cell's log, unless a plugin closed it
        sys.stderr.write(f"{type(error).__name__}: {text}\n{without_files(calls, job.root)}")
    where = f" (in {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = f"{type(error).__name__}{': ' if text else ''}{one_line(text, 500)}{where}"
    return failure(job, "oom" if _is_out_of_memory(error) else "error", message, doing)


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit code 0 for success, 1 for a cell that failed and left a result saying so."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="JSON file of the job")
    parser.add_argument("folder", type=Path, help="folder for result.json and predictions.npz")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, stream=sys.stderr)
    job = Job.model_validate_json(options.job.read_text())
    options.folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        return 0 if execute(job, options.folder, lambda stage, share: None) == "success" else 1
    except StorageError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def limited(splits: dict[str, np.ndarray], limit: int | None) -> dict[str, np.ndarray]:
    """At most ``limit`` samples per split, evenly spaced, so that every class keeps its place."""
    if limit is None:
        return splits
    return {
        name: index[np.unique(np.linspace(0, len(index) - 1, min(limit, len(index))).astype(int))]
        for name, index in splits.items()
    }


def json_safe(value: Any) -> Any:
    """Plain Python values of what numpy and pydantic give."""
    if isinstance(value, dict):
        return {str(k): json_safe(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [json_safe(v) for v in value]
    return value.item() if isinstance(value, np.generic) else value


if __name__ == "__main__":
    sys.exit(main())
