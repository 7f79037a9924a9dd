"""Runs cells in worker processes: one process per cell, a time limit each, results stored as they come.

Workers start from a fork server that has torch and medgraft imported, so that a cell costs its own work and not
seconds of imports. A worker ends itself when its launcher is gone.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.cohorts import Cohort
from medgraft.benchmarks.fork_server import start_fork_server
from medgraft.benchmarks.results import CellResult, CellSpec, ResultStore, Status
from medgraft.benchmarks.worker import Job, execute, failure

logger = logging.getLogger(__name__)


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
    """

    job: Job
    process: Any
    pipe: Connection
    folder: Path
    started: float = field(default_factory=time.monotonic)
    stage: str = "starting"
    share: float = 0.0


@dataclass
class Events:
    """What a launcher tells whoever shows it.

    Attributes:
        tick: Called often with the workers at work.
        finished: Called with each stored result.
    """

    tick: Callable[[Sequence[Running]], None]
    finished: Callable[[CellResult], None]


def _worker(job: Job, folder: Path, pipe: Connection, level: int) -> None:
    """Body of a worker process."""
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", force=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what Ctrl-C means
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    last = [0.0]

    def progress(stage: str, share: float) -> None:
        now = time.monotonic()
        if share in (0.0, 1.0) or now - last[0] > 0.5:
            last[0] = now
            try:
                pipe.send((stage, share))
            except OSError:
                os._exit(1)

    execute(job, folder, progress)


def _end_with_launcher() -> None:
    """Ends this worker with the launcher, however that was killed; the fork server would wait for its workers."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os._exit(1)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, ValueError):
        return True  # of another user, or no number: not ours to clear
    return True


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
        self.work = store.root / f".work-{os.getpid()}"

    def run(self, cells: Sequence[CellSpec], events: Events) -> list[CellResult]:
        """Runs the cells and returns their results, in the order in which they end.

        On an exception, Ctrl-C among them, every worker is killed; what was stored stays.
        """
        waiting, running, done = list(cells), [], []
        self._clear_leftovers()
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
            for worker in running:
                worker.process.kill()
                worker.process.join()
            shutil.rmtree(self.work, ignore_errors=True)
        return done

    def _clear_leftovers(self) -> None:
        """Removes work folders of launchers that were killed."""
        for folder in self.store.root.glob(".work-*"):
            if not _alive(folder.name.removeprefix(".work-")):
                shutil.rmtree(folder, ignore_errors=True)

    def _start(self, spec: CellSpec) -> Running:
        job = Job(spec=spec, root=self.cohorts[spec.cohort.name].root, concurrent_jobs=self.jobs)
        folder = self.work / spec.key()
        folder.mkdir(parents=True, exist_ok=True)
        ours, theirs = self.context.Pipe(duplex=False)
        process = self.context.Process(target=_worker, args=(job, folder, theirs, self.level), daemon=True)
        process.start()
        theirs.close()
        return Running(job, process, ours, folder)

    def _listen(self, worker: Running) -> None:
        try:
            while worker.pipe.poll():
                worker.stage, worker.share = worker.pipe.recv()
        except (EOFError, OSError):
            return

    def _outcome(self, worker: Running) -> CellResult | None:
        """The stored result of a worker that has ended or run out of time; ``None`` while it may go on."""
        alive = worker.process.is_alive()
        late = time.monotonic() - worker.started > self.timeout
        if alive and not late:
            return None
        if alive:
            worker.process.kill()
        worker.process.join()
        worker.pipe.close()
        path = worker.folder / "result.json"
        predictions = None
        if path.is_file() and not (alive and late):
            result = CellResult.model_validate_json(path.read_text())
            if (arrays := worker.folder / "predictions.npz").is_file():
                with np.load(arrays) as loaded:
                    predictions = {name: loaded[name] for name in loaded.files}
        else:
            status, message = self._death(worker, late and alive)
            result = failure(worker.job, status, message)
        if not result.timing:
            result = result.model_copy(update={"timing": {"failed": round(time.monotonic() - worker.started, 3)}})
        self.store.put(result, predictions)
        shutil.rmtree(worker.folder, ignore_errors=True)
        return result

    def _death(self, worker: Running, late: bool) -> tuple[Status, str]:
        if late:
            return "timeout", f"killed after {self.timeout:g} s while {worker.stage}; raise --timeout to let it go on"
        code = worker.process.exitcode
        if code == -signal.SIGKILL:
            return "oom", f"the worker was killed while {worker.stage}, most likely by the system for lack of memory"
        name = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        return "error", f"the worker ended while {worker.stage} without a result ({name})"
