"""From the folder of a job whose worker has ended to its outcome; the same for every launcher."""

from __future__ import annotations

import logging
import signal
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from medgraft.benchmarks.cell.job import LOG, PREDICTIONS, RESULT, Job, failure
from medgraft.benchmarks.external.results import ExternalResult, failed, job_files
from medgraft.benchmarks.external.spec import ExternalTest
from medgraft.benchmarks.launch.supervisor import BoundedLog
from medgraft.benchmarks.results.result import CellResult, Status
from medgraft.benchmarks.results.result_files import UnreadableError, read_arrays, read_json
from medgraft.commands.plain_text import one_line
from medgraft.launcher import Exit

logger = logging.getLogger(__name__)

FROM_OUTSIDE = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)


@dataclass(frozen=True)
class Outcome:
    """What a job came to.

    Attributes:
        result: The worker's, or one that says how it ended without.
        predictions: Arrays by name, of a cell that succeeded.
        log: What the worker wrote to its terminal, where it is known.
        external: Results on other cohorts, each with its predictions.
    """

    result: CellResult
    predictions: dict[str, np.ndarray] | None
    log: str | None
    external: list[tuple[ExternalResult, dict[str, np.ndarray]]] = field(default_factory=list)


def collect(job: Job, folder: Path, end: Exit, doing: str = "") -> Outcome:
    """The outcome of a job.

    Args:
        job: What was to be done; a result of anything else is none.
        folder: Its folder.
        end: How its worker ended.
        doing: What it last said that it does.
    """
    result, predictions = _result(job, folder)
    if result is None:
        status, message = _death(end, (folder / RESULT).is_file())
        result = failure(job, status, message, doing)
    return Outcome(result, predictions, _log(job, folder), [_external(job, test, folder) for test in job.external])


def _external(job: Job, test: ExternalTest, folder: Path) -> tuple[ExternalResult, dict[str, np.ndarray]]:
    """The result on another cohort that a worker has left, or one that says that it left none."""
    place, beside = job_files(folder, test)
    try:
        result = ExternalResult.model_validate(read_json(place))
        if (result.trained, result.tested, result.key) != (job.spec, test.spec, job.spec.key()):
            raise UnreadableError("it is of another cell or cohort")
        return result, read_arrays(beside) if result.status == "success" else {}
    except (UnreadableError, ValidationError) as error:
        return failed(job.spec, test, f"the worker left no result: {one_line(str(error), 200)}"), {}


def _result(job: Job, folder: Path) -> tuple[CellResult | None, dict[str, np.ndarray] | None]:
    """The result that a worker has left, and its predictions; ``None`` where it is none of its cell."""
    try:
        result = CellResult.model_validate(read_json(folder / RESULT))
        if result.spec != job.spec or result.key != job.spec.key():
            raise UnreadableError("it is of another cell")
        predicted = result.status == "success" and not job.trial
        arrays = read_arrays(folder / PREDICTIONS) if predicted else None
    except (UnreadableError, ValidationError) as error:
        logger.debug("result of %s: %s", job.spec.key(), one_line(str(error), 200))
        return None, None
    return result, arrays


def _death(end: Exit, complete: bool) -> tuple[Status, str]:
    """How a worker ended that left no result of its cell."""
    if complete and end.reason != "timeout":
        return "error", "the worker left a result that is none of its cell"
    if end.reason:
        return end.reason, one_line(end.message, 500) or "the worker ended without a result"
    if end.code in FROM_OUTSIDE:
        return "killed", f"the worker was killed from outside ({signal.Signals(-end.code).name})"
    return "error", f"the worker ended without a result ({_code_in_words(end.code)})"


def _code_in_words(code: int | None) -> str:
    """An exit code for a person.

    Example:
        >>> _code_in_words(-11), _code_in_words(7), _code_in_words(None)
        ('SIGSEGV', 'exit code 7', 'its exit code is not known')
    """
    if code is None:
        return "its exit code is not known"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"exit code {code}"


def _log(job: Job, folder: Path) -> str | None:
    """What the worker wrote, of which a launcher may have kept any amount: the beginning and the end of it."""
    log = BoundedLog()
    try:
        with (folder / LOG).open("rb") as file:
            while data := file.read(1 << 16):
                log.write(data)
    except OSError:
        return None
    return job.shown(log.text()) or None
