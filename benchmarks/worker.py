"""One cell, one process: reads a JSON spec, writes a JSON result. Slurm or Ray may start it as well as our launcher.

``python -m medgraft.benchmarks.worker job.json folder`` writes ``folder/result.json`` and ``folder/predictions.npz``.
"""

from __future__ import annotations

import argparse
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

from medgraft.benchmarks.results import CellResult, CellSpec, Efficiency, Status, write_arrays, write_atomically

if TYPE_CHECKING:
    from medgraft.benchmarks.cell import Cell

logger = logging.getLogger(__name__)

Progress = Callable[[str, float], None]


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

    torch.set_num_threads(job.spec.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    clock = {"start": time.perf_counter()}
    cell = Cell(job.spec, job.root)
    with cell.operations():
        return _run_steps(cell, job, progress, clock)


def _run_steps(
    cell: Cell, job: Job, progress: Progress, clock: dict[str, float]
) -> tuple[CellResult, dict[str, np.ndarray]]:
    """The steps of a cell, each with the time at which it ends."""
    from medgraft.benchmarks import environment

    progress("reading", 0.0)
    cell.load()
    clock["load"] = time.perf_counter()
    progress("frozen prefix", 0.0)
    cell.build()
    clock["prefix"] = time.perf_counter()
    log = cell.train(lambda share: progress(f"training {cell.runner.stage}".strip(), share))
    clock["train"] = time.perf_counter()
    progress("predicting", 0.0)
    metrics, predictions = cell.evaluate()
    clock["evaluate"] = time.perf_counter()
    progress("measuring", 0.0)
    efficiency = cell.measure(log)
    clock["measure"] = time.perf_counter()
    marks = list(clock.items())
    result = CellResult(
        key=job.spec.key(),
        status="success",
        spec=job.spec,
        phantom=cell.data.phantom,
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
    return result, predictions


def failure(job: Job, status: Status, message: str) -> CellResult:
    """The result of a cell that did not end well."""
    from medgraft.benchmarks import environment

    return CellResult(
        key=job.spec.key(),
        status=status,
        message=message,
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
    """Runs a cell and writes its outcome into ``folder``, whatever it is."""
    from medgraft.errors import MedgraftError

    predictions: dict[str, np.ndarray] = {}
    try:
        result, predictions = run_cell(job, progress)
        result.model_dump_json()  # what a foreign task reports may not be JSON
    except MedgraftError as error:
        result, predictions = failure(job, "error", without_files(str(error), job.root)), {}
    except Exception as error:
        oom = _is_out_of_memory(error)
        logger.info("%s", traceback.format_exc())
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = without_files(str(error), job.root)[:500]
        message = f"{type(error).__name__}: {text} (in {Path(where.filename).name}:{where.lineno})"
        result, predictions = failure(job, "oom" if oom else "error", message), {}
    if predictions:
        write_arrays(folder / "predictions.npz", predictions)
    text = result.model_dump_json()
    write_atomically(folder / "result.json", lambda handle: handle.write(text.encode()))
    return result.status


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
    return 0 if execute(job, options.folder, lambda stage, share: None) == "success" else 1


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
