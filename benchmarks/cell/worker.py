"""One cell, one process: reads a JSON spec, writes a JSON result. Slurm or Ray may start it as well as our launcher.

``python -m medgraft.benchmarks.cell.worker job.json folder`` writes ``progress.jsonl``, ``result.json`` and
``predictions.npz`` there.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from medgraft.benchmarks.cell.job import (
    GRAFT,
    PREDICTIONS,
    RESULT,
    STEPS,
    UNWRITABLE,
    Job,
    Progress,
    failure,
)
from medgraft.benchmarks.cell.progress import ProgressWriter
from medgraft.benchmarks.measure import environment
from medgraft.benchmarks.results.result import CellResult, Status
from medgraft.benchmarks.results.store import StorageError
from medgraft.benchmarks.results.writing import write_arrays, write_atomically
from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError
from medgraft.world import LostRanksError, World, lost_others

if TYPE_CHECKING:
    from medgraft.benchmarks.cell.steps.evaluation import Evaluated
    from medgraft.benchmarks.cell.steps.precomputing import Ready
    from medgraft.benchmarks.results.result import Efficiency
    from medgraft.benchmarks.training.observer import Observer
    from medgraft.benchmarks.training.training_state import TrainingLog
    from medgraft.ops.backends import Record


def run_cell(job: Job, progress: Progress, folder: Path | None = None) -> tuple[CellResult, dict[str, np.ndarray]]:
    """Runs a cell from data to metrics and predictions ``[n, ...]``.

    Args:
        job: The cell and where its data lie.
        progress: Called with what runs now and the share of it that is done.
        folder: Where the trained graft and results on other cohorts go, if the job asks for any.

    Returns:
        The result, and the arrays of predictions to be kept beside it.
    """
    import torch

    from medgraft.benchmarks.cell.steps.events import observing
    from medgraft.benchmarks.cell.steps.operations import operations

    environment.use_threads(job.spec.threads)
    torch.use_deterministic_algorithms(True, warn_only=True)
    if job.trial:
        from medgraft.benchmarks.tuning.trial import run_trial

        with operations(job.spec):
            return run_trial(job, progress), {}
    with observing(job.events if World().rank == 0 else None, job.spec) as observer:
        clock = {"start": time.perf_counter()}
        with operations(job.spec) as record:
            result, arrays = _run_steps(job, record, progress, clock, folder, observer)
        observer.result(result)
    return result, arrays


def _run_steps(
    job: Job, record: Record, progress: Progress, clock: dict[str, float], folder: Path | None, observer: Observer
) -> tuple[CellResult, dict[str, np.ndarray]]:
    """The steps of a cell, each with the time at which it ends."""
    from medgraft.benchmarks.cell.steps.agreeing import require_agreement
    from medgraft.benchmarks.cell.steps.attaching import attach
    from medgraft.benchmarks.cell.steps.evaluation import evaluate
    from medgraft.benchmarks.cell.steps.loading import load
    from medgraft.benchmarks.cell.steps.measuring import measure
    from medgraft.benchmarks.cell.steps.precomputing import precompute
    from medgraft.benchmarks.cell.steps.resuming import forget, train_or_resume
    from medgraft.benchmarks.cell.steps.site_probing import site_report
    from medgraft.benchmarks.cell.steps.unfinished import epoch_checkpoints

    progress(STEPS["load"], 0.0)
    loaded = load(job.spec, job.root)
    require_agreement(loaded, World())
    clock["load"] = time.perf_counter()
    progress(STEPS["build"], 0.0)
    attached = attach(loaded)
    progress(STEPS["prefix"], 0.0)
    ready = precompute(attached)
    clock["prefix"] = time.perf_counter()
    ready.runner.observer, ready.runner.checkpoints = observer, epoch_checkpoints(job, ready)
    progress(STEPS["train"], 0.0)
    log = train_or_resume(ready, lambda share: progress(f"{STEPS['train']} {ready.runner.phase}".strip(), share))
    clock["train"] = time.perf_counter()
    progress(STEPS["evaluate"], 0.0)
    evaluated = evaluate(ready)
    clock["evaluate"] = time.perf_counter()
    if folder is not None and job.external:
        from medgraft.benchmarks.external.validation import validate_on

        for done, test in enumerate(job.external):
            progress(STEPS["external"], done / len(job.external))
            validate_on(ready, evaluated, test, folder)
        clock["external"] = time.perf_counter()
    if folder is not None and job.keep:
        from medgraft.benchmarks.cell.steps.keeping import keep

        progress(STEPS["keep"], 0.0)
        keep(ready, evaluated, folder / GRAFT)
        clock["keep"] = time.perf_counter()
    progress(STEPS["measure"], 0.0)
    efficiency = measure(ready, log)
    clock["measure"] = time.perf_counter()
    result = _result(job, ready, log, evaluated, efficiency, record, clock)
    forget(ready)
    attached.give_back()
    progress(STEPS["sites"], 0.0)
    return result.model_copy(update={"sites": site_report(ready)}), evaluated.arrays


def _result(
    job: Job,
    ready: Ready,
    log: TrainingLog,
    evaluated: Evaluated,
    efficiency: Efficiency,
    record: Record,
    clock: Mapping[str, float],
) -> CellResult:
    """What the steps gave, as it is stored."""
    from medgraft.benchmarks.cell.steps import description
    from medgraft.benchmarks.cell.steps.operations import uses_of

    loaded, marks = ready.loaded, list(clock.items())
    timing = {name: round(at - marks[i][1], 3) for i, (name, at) in enumerate(marks[1:])}
    timing["train"] = round(timing["train"] + ready.runner.checkpoints.elapsed, 3)
    return CellResult(
        key=job.spec.key(),
        status="success",
        spec=job.spec,
        phantom=loaded.data.phantom or job.spec.cohort.phantom,
        primary=loaded.task.primary,
        metrics=evaluated.metrics,
        groups=evaluated.groups,
        calibration=evaluated.calibration,
        efficiency=efficiency.model_copy(update={"concurrent_jobs": job.concurrent_jobs}),
        training={
            "epoch_loss": log.epoch_loss,
            "steps": log.steps,
            "samples": log.samples,
            "seconds": log.seconds,
            "recipe_epochs": description.recipe_epochs(job.spec),
            **({"stages": log.stages} if log.stages else {}),
            **({"head": log.head} if log.head else {}),
            **({"resumed": log.resumed} if log.resumed else {}),
        },
        data=description.describe_data(loaded, evaluated),
        encoder=description.describe_encoder(loaded),
        adapters=description.describe_adapters(ready),
        diagnostics=evaluated.diagnostics,
        ops=uses_of(record),
        cache=description.describe_cache(ready),
        tuning=job.tuning,
        sizing=description.describe_size(ready),
        metric_versions=evaluated.metric_versions,
        suites=job.suites,
        plugins=description.plugins_of(job.spec),
        env=environment.describe(job.spec.threads, job.devices),
        timing=timing,
    )


def _is_out_of_memory(error: BaseException) -> bool:
    import torch

    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )


def execute(job: Job, folder: Path, progress: Progress) -> Status:
    """Runs a cell and writes its outcome into ``folder``, whatever it is.

    Raises:
        StorageError: It cannot be written there.
        LostRanksError: This is one rank of several, and another has ended, which may know why.
    """
    process, doing = os.getpid(), [""]

    def report(text: str, share: float) -> None:
        doing[0] = text
        progress(text, share)

    predictions: dict[str, np.ndarray] = {}
    try:
        result, predictions = run_cell(job, report, folder)
        doing[0] = STEPS["write"]
        result.model_dump_json()  # what a foreign task reports may not be JSON
    except BaseException as error:  # a plugin may also raise what is no Exception, such as SystemExit
        if lost_others(error) and not _is_out_of_memory(error):
            raise LostRanksError(f"another rank has ended: {one_line(str(error), 200)}") from error
        result, predictions = _failed(job, error, doing[0]), {}
    if os.getpid() != process:
        os._exit(0)  # a plugin forked and came back here twice
    try:
        if predictions:
            write_arrays(folder / PREDICTIONS, predictions)
        text = result.model_dump_json()
        write_atomically(folder / RESULT, lambda handle: handle.write(text.encode()))
    except OSError as error:
        raise StorageError(folder.parent.parent, error) from error
    return result.status


def _failed(job: Job, error: BaseException, doing: str) -> CellResult:
    """The result of a cell whose code raised ``error``."""
    text = job.without_files(str(error))
    if isinstance(error, MedgraftError):
        return failure(job, "error", text, doing)
    frames = traceback.extract_tb(error.__traceback__)
    calls = "".join(f"  {frame.filename}:{frame.lineno} in {frame.name}\n" for frame in frames)
    with contextlib.suppress(OSError, ValueError, AttributeError):  # the cell's log, unless a plugin closed it
        sys.stderr.write(f"{type(error).__name__}: {text}\n{job.without_files(calls)}")
    where = f" (in {Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = f"{type(error).__name__}{': ' if text else ''}{one_line(text, 500)}{where}"
    return failure(job, "oom" if _is_out_of_memory(error) else "error", message, doing)


def run_job(job: Job, folder: Path) -> int:
    """Runs a cell, and writes its progress and its outcome into ``folder``.

    Returns:
        Exit code: 0 for success, 1 for a cell that failed and left a result saying so, :data:`UNWRITABLE` where
        nothing can be left.
    """
    from medgraft.benchmarks.cell.devices import run_on_devices

    def run(progress: ProgressWriter) -> int:
        return run_on_devices(job, folder) if job.devices > 1 else int(execute(job, folder, progress.step) != "success")

    return writing(folder, run)


def writing(folder: Path, run: Callable[[ProgressWriter], int]) -> int:
    """Calls ``run`` with the progress of a job; its exit code, or :data:`UNWRITABLE` where nothing can be left.

    Args:
        folder: Of the job.
        run: Gives the exit code.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        progress = ProgressWriter(folder)
    except OSError as error:
        sys.stderr.write(f"error: {folder} cannot be written: {error.strerror}\n")
        return UNWRITABLE
    try:
        with progress.logging():
            return run(progress)
    except StorageError as error:
        reason = str(error.__cause__ or error)
        with contextlib.suppress(OSError):
            progress.write({"unwritable": reason[:500]})
            sys.stderr.write(f"error: {reason}\n")
        return UNWRITABLE
    finally:
        progress.close()


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit codes as :func:`run_job` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="JSON file of the job")
    parser.add_argument("folder", type=Path, help="folder for progress.jsonl, result.json and predictions.npz")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, stream=sys.stderr)
    job = Job.model_validate_json(options.job.read_text())
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return run_job(job, options.folder.absolute())  # a plugin may change the working directory


def end_process(status: int) -> NoReturn:
    """Ends this process at once: taking everything apart costs a second, and threads of a plugin might never end."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):  # a plugin may have closed them
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    end_process(main())
