"""Runs cells in worker processes: one process per cell, a time limit each, results stored as they come.

Workers start from a fork server that has torch and medgraft imported, so that a cell costs its own work and not
seconds of imports. A worker is a supervisor (see :mod:`medgraft.benchmarks.supervisor`) and the cell's own process,
which end with the launcher.
"""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from medgraft.benchmarks.cohorts import Cohort
from medgraft.benchmarks.fork_server import fork_server_died, start_fork_server
from medgraft.benchmarks.leftovers import claim, clear_leftovers
from medgraft.benchmarks.memory_kills import MemoryKills
from medgraft.benchmarks.result_files import UnreadableError, read_arrays, read_json
from medgraft.benchmarks.results import CellResult, CellSpec, ResultStore, Status, StorageError
from medgraft.benchmarks.verification import check
from medgraft.benchmarks.worker import Job, failure
from medgraft.benchmarks.worker_process import LOG, MESSAGE_LIMIT, UNWRITABLE, work
from medgraft.errors import MedgraftError
from medgraft.plain_text import one_line

logger = logging.getLogger(__name__)

GRACE = 10.0
"""Seconds in which a worker must end that has left a result, or that was told to end."""

MESSAGES_AT_ONCE = 200
"""Of one worker, in one look at it; more wait, so that no worker keeps the launcher from the others."""

NO_EXIT_CODE = 255
"""What multiprocessing gives where the fork server does not tell; a plugin may end its process with it too."""

STARTS = 3
"""Tries to start a worker while fork servers die."""


@dataclass
class Running:
    """A worker at work.

    Attributes:
        job: Its cell.
        process: Its process.
        pipe: Where its progress arrives.
        folder: Where it leaves its outcome.
        started: When it started, monotonic.
        stage: What it does now.
        share: Part of that which is done.
        unwritable: Why it could not write its outcome; empty otherwise.
        complete: When its outcome was first seen to be complete, monotonic.
    """

    job: Job
    process: Any
    pipe: Connection
    folder: Path
    started: float = field(default_factory=time.monotonic)
    stage: str = "starting"
    share: float = 0.0
    unwritable: str = ""
    complete: float | None = None


@dataclass
class Events:
    """What a launcher tells whoever shows it.

    Attributes:
        tick: Called often with the workers at work.
        finished: Called with each stored result.
    """

    tick: Callable[[Sequence[Running]], None]
    finished: Callable[[CellResult], None]


def _lost_its_server(worker: Running) -> bool:
    """Whether a worker has no exit code of its own, because the fork server that would tell it is gone."""
    if worker.process.exitcode != NO_EXIT_CODE:
        return False
    end = time.monotonic() + 2.0
    while not (died := fork_server_died()) and time.monotonic() < end:
        time.sleep(0.01)  # its pipes close a moment before it has ended
    return died


class Launcher:
    """Runs cells on this machine.

    Args:
        store: Where results go.
        cohorts: Cohort name -> where it is.
        jobs: Workers at a time.
        timeout: Seconds after which a cell is killed.
        level: Log level of the workers.
    """

    def __init__(
        self, store: ResultStore, cohorts: Mapping[str, Cohort], jobs: int, timeout: float, level: int = logging.WARNING
    ) -> None:
        self.store, self.cohorts, self.jobs, self.timeout, self.level = store, cohorts, jobs, timeout, level
        self.context = multiprocessing.get_context("forkserver")
        self.work = store.root.absolute() / f".work-{os.getpid()}"
        self.memory = MemoryKills()

    def run(self, cells: Sequence[CellSpec], events: Events) -> list[CellResult]:
        """Runs the cells and returns their results, in the order in which they end.

        On an exception, Ctrl-C among them, every worker is killed; what was stored stays.

        Raises:
            StorageError: A result cannot be stored.
        """
        waiting, running, done = list(cells), [], []
        clear_leftovers(self.store.root)
        start_fork_server()
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    running.append(self._start(waiting.pop(0)))
                wait([worker.process.sentinel for worker in running], timeout=0.2)
                for worker in list(running):
                    self._listen(worker)
                    result = self._outcome(worker)
                    if result is not None:
                        running.remove(worker)
                        done.append(result)
                        events.finished(result)
                events.tick(running)
        finally:
            self._end(running)
            shutil.rmtree(self.work, ignore_errors=True)
        return done

    def _start(self, spec: CellSpec) -> Running:
        job = Job(spec=spec, root=self.cohorts[spec.cohort.name].root, concurrent_jobs=self.jobs)
        folder = self.work / spec.key()
        try:
            claim(self.work)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(self.store.root, error) from error
        for _ in range(STARTS):
            ours, theirs = self.context.Pipe(duplex=False)
            process = self.context.Process(target=work, args=(job, folder, theirs, self.level), daemon=True)
            try:
                process.start()
            except (EOFError, ConnectionError, FileNotFoundError) as error:  # the fork server was killed just now
                logger.warning("the fork server has ended (%s); a new one is started", type(error).__name__)
                ours.close()
                start_fork_server()
                continue
            finally:
                theirs.close()
            return Running(job, process, ours, folder)
        raise MedgraftError(
            f"no worker can be started: the fork server was killed {STARTS} times; what was finished is stored, and "
            "the same command goes on from there"
        )

    def _listen(self, worker: Running) -> None:
        """Takes what a worker says; what is no message of ours is no reason to stop."""
        for _ in range(MESSAGES_AT_ONCE):
            try:
                if not worker.pipe.poll():
                    return
                told = json.loads(worker.pipe.recv_bytes(MESSAGE_LIMIT))
            except (EOFError, OSError):
                return
            except ValueError:
                continue
            match told:
                case {"doing": str(text), "share": float(share) | int(share)}:
                    worker.stage, worker.share = one_line(text, 80), float(share)
                case {"unwritable": str(text)}:
                    worker.unwritable = one_line(text, 500)
                case {"log": [int(level), str(name), str(text)]} if name.startswith("medgraft"):
                    logging.getLogger(one_line(name, 80)).log(level, "%s", text)

    def _outcome(self, worker: Running) -> CellResult | None:
        """The stored result of a worker that has ended or run out of time; ``None`` while it may go on."""
        alive, now = worker.process.is_alive(), time.monotonic()
        complete = (worker.folder / "result.json").is_file()
        if complete and worker.complete is None:
            worker.complete = now
        late = now - worker.started > self.timeout
        lingers = worker.complete is not None and now - worker.complete > GRACE
        if alive and not (late or lingers):
            return None
        self._end([worker])
        self._listen(worker)
        worker.pipe.close()
        if worker.process.exitcode == UNWRITABLE or worker.unwritable:
            raise StorageError(self.store.root, OSError(worker.unwritable or "its folder cannot be written"))
        result, predictions = self._left(worker)
        if result is None:
            status, message = self._death(worker, alive and late, complete)
            result = failure(worker.job, status, message, worker.stage)
        if not result.timing:
            result = result.model_copy(update={"timing": {"failed": round(now - worker.started, 3)}})
        result, log = self._with_log(worker, result)
        path = self.store.put(result, predictions, log)
        if result.status == "success":
            with suppress(UnreadableError):  # a board that leaves it out will say why
                check(path, result)
        shutil.rmtree(worker.folder, ignore_errors=True)
        return result

    def _left(self, worker: Running) -> tuple[CellResult | None, dict[str, np.ndarray] | None]:
        """The result that a worker has left, and its predictions; ``None`` where it is none of its cell."""
        try:
            result = CellResult.model_validate(read_json(worker.folder / "result.json"))
            if result.spec != worker.job.spec or result.key != worker.job.spec.key():
                raise UnreadableError("it is of another cell")
            arrays = read_arrays(worker.folder / "predictions.npz") if result.status == "success" else None
        except (UnreadableError, ValidationError) as error:
            logger.debug("result of %s: %s", worker.job.spec.key(), one_line(str(error), 200))
            return None, None
        return result, arrays

    def _with_log(self, worker: Running, result: CellResult) -> tuple[CellResult, str | None]:
        """The result with the name of its log, and that log's text."""
        try:
            text = (worker.folder / LOG).read_text("utf-8")
        except OSError:
            return result, None
        name = self.store.log_path(result.spec).relative_to(self.store.root).as_posix()
        return result.model_copy(update={"log": name}), text

    def _end(self, workers: Sequence[Running]) -> None:
        """Ends workers and all that they started."""
        for worker in workers:
            if worker.process.is_alive():
                worker.process.terminate()
            elif _lost_its_server(worker):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(worker.process.pid, signal.SIGTERM)  # it may not have noticed yet
        for worker in workers:
            worker.process.join(GRACE)
            if worker.process.is_alive():
                worker.process.kill()  # the cell's process ends with it
                worker.process.join()

    def _death(self, worker: Running, late: bool, complete: bool) -> tuple[Status, str]:
        """How a worker ended that left no result of its cell."""
        if late:
            return "timeout", f"killed after {self.timeout:g} s; raise --timeout to let it go on"
        if complete:
            return "error", "the worker left a result that is none of its cell"
        if _lost_its_server(worker):
            return "killed", "the fork server was killed, and its workers with it"
        code = worker.process.exitcode
        if code == -signal.SIGKILL and self.memory.took_one():
            return "oom", "the system killed the worker for lack of memory"
        if code in (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP):
            return "killed", f"the worker was killed from outside ({signal.Signals(-code).name})"
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return "error", f"the worker ended without a result ({name})"
