"""Runs the cells of a sweep by any launcher: one job each, a time limit, results stored as they come."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from medgraft.benchmarks.cell.job import GRAFT, JOB, RESULT, UNWRITABLE, Job
from medgraft.benchmarks.cell.progress import ProgressReader
from medgraft.benchmarks.cohorts.places import Cohort
from medgraft.benchmarks.external.results import put_external
from medgraft.benchmarks.external.spec import ExternalTest
from medgraft.benchmarks.launch.collect import Outcome, collect
from medgraft.benchmarks.launch.groups import frozen_group
from medgraft.benchmarks.launch.leftovers import claim, clear_leftovers
from medgraft.benchmarks.launch.unfinished import forget, forget_old, unfinished_folder
from medgraft.benchmarks.results.chosen import Tuning
from medgraft.benchmarks.results.held.filed import Filing
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore, StorageError
from medgraft.benchmarks.results.writing import machine_mark
from medgraft.benchmarks.schedule.allowance import Allowance
from medgraft.commands.plain_text import one_line
from medgraft.errors import MedgraftError, PluginError
from medgraft.launcher import Exit, Handle, Launcher
from medgraft.launcher import Job as LaunchedJob

LINGER = 10.0
"""Seconds in which a worker must end that has left a result."""

BETWEEN_LOOKS = 0.2
"""Seconds between two looks at the workers, unless one ends."""

WORKER = "medgraft.benchmarks.cell.worker"


@dataclass
class Running:
    """A worker at work.

    Attributes:
        job: Its cell.
        folder: Where it leaves its outcome.
        handle: The launcher's.
        progress: Reads what it says.
        started: When it started, monotonic.
        doing: What it does now.
        share: Part of that which is done.
        unwritable: Why it could not write its outcome; empty otherwise.
        complete: When its outcome was first seen to be complete, monotonic.
        warned: What workers of the sweep have warned of; each warning is shown once, from whichever cell it came.
    """

    job: Job
    folder: Path
    handle: Handle
    progress: ProgressReader
    started: float = field(default_factory=time.monotonic)
    doing: str = "starting"
    share: float = 0.0
    unwritable: str = ""
    complete: float | None = None
    warned: set[str] = field(default_factory=set[str])

    def listen(self) -> None:
        """Takes what the worker has said; what is no message of ours is no reason to stop."""
        for entry in self.progress.read():
            match entry:
                case {"doing": str(text), "share": float(share) | int(share)}:
                    self.doing, self.share = one_line(text, 80), float(share)
                case {"unwritable": str(text)}:
                    self.unwritable = one_line(text, 500)
                case {"log": [int(level), str(name), str(text)]} if name.startswith("medgraft"):
                    if level < logging.WARNING or text not in self.warned:
                        logging.getLogger(one_line(name, 80)).log(level, "%s", text)
                    self.warned.add(text)


@dataclass
class Events:
    """What a sweep says to whoever shows it.

    Attributes:
        tick: Called often with the workers at work.
        finished: Called with each stored result and the seconds that its worker took.
        recorded: Called before that with the result, the worker's folder, which goes afterwards, and the seconds.
    """

    tick: Callable[[Sequence[Running]], None]
    finished: Callable[[CellResult, float], None]
    recorded: Callable[[CellResult, Path, float], None] = lambda result, folder, seconds: None


class Turns(Protocol):
    """Shares the cells of a sweep with other sweeps that have the same results."""

    def next_of(self, waiting: Iterable[CellSpec]) -> tuple[CellSpec, CellResult | None] | None:
        """A cell to be run, or with the result that another sweep has left; ``None`` where others are at all."""
        ...


class Runs:
    """Runs cells and stores their results.

    Args:
        store: Where results go.
        cohorts: Cohort name -> where it is.
        launcher: Where the workers run.
        name: Of the launcher.
        verbose: Workers log more.
        keep: Keep the trained grafts beside their results.
        external: Key of a cell -> other cohorts that its graft is tested on.
        tunings: Key of a cell -> how its options were chosen.
        suites: Key of a cell -> suites that it was asked for in.
        events: Folder for TensorBoard event files, if any are to be written.
        allowance: What may be spent; by default any number of hours and cells.
        checkpoint_every: Seconds between two checkpoints of a cell's training at least.
        turns: Which cell is next, where other sweeps do cells of the same results; by default all are done here.

    Attributes:
        left: Cells that the allowance has left undone.
    """

    def __init__(
        self,
        store: ResultStore,
        cohorts: Mapping[str, Cohort],
        launcher: Launcher,
        name: str,
        *,
        verbose: bool = False,
        keep: bool = False,
        external: Mapping[str, Sequence[ExternalTest]] | None = None,
        tunings: Mapping[str, Tuning] | None = None,
        suites: Mapping[str, Sequence[str]] | None = None,
        events: Path | None = None,
        turns: Turns | None = None,
        allowance: Allowance | None = None,
        checkpoint_every: float = 60.0,
    ) -> None:
        self.turns = turns
        self.store, self.cohorts, self.launcher, self.name = store, cohorts, launcher, name
        self.verbose, self.keep, self.external = verbose, keep, external or {}
        self.tunings, self.suites = tunings or {}, suites or {}
        # Machines that share the folder, containers above all, have processes of one number.
        self.work = store.root.absolute() / f".work-{os.getpid()}-{machine_mark()}"
        self.events = None if events is None else events.absolute()
        self.allowance = allowance or Allowance()
        self.left: list[CellSpec] = []
        self.checkpoint_every, self.at_once = checkpoint_every, 1
        self.warned: set[str] = set()

    def run(self, cells: Sequence[CellSpec], events: Events) -> list[CellResult]:
        """Runs the cells and returns their results, in the order in which they end.

        On an exception, Ctrl-C among them, every worker is ended; what was stored stays.

        Raises:
            StorageError: A result cannot be stored.
            MedgraftError: The launcher cannot start or watch a worker.
        """
        waiting, done, held = deque(cells), [], Filing()  # of a hundred thousand, whole ones would be gigabytes
        running: list[Running] = []
        clear_leftovers(self.store.root)
        with self._contract("slots"):
            self.at_once = min(max(1, int(self.launcher.slots())), max(1, len(cells)))
        try:
            while waiting or running:
                for result in self._start_some(waiting, running):
                    done.append(held(self.store.path(result.spec), result))
                    events.finished(result, sum(result.timing.values()))
                if running:
                    with self._contract("wait"):
                        self.launcher.wait([worker.handle for worker in running], BETWEEN_LOOKS)
                elif waiting:
                    time.sleep(BETWEEN_LOOKS)  # others are at all that is left
                for worker in list(running):
                    result = self._outcome(worker, events)
                    if result is not None:
                        running.remove(worker)
                        done.append(held(self.store.path(result.spec), result))
                        waiting += self.follow(result)
                        events.finished(result, time.monotonic() - worker.started)
                if self.allowance.over():  # what is at work is ended below
                    self.left += [worker.job.spec for worker in running]
                    running.clear()
                events.tick(running)
        finally:
            with self._contract("close"):
                self.launcher.close()
            shutil.rmtree(self.work, ignore_errors=True)
            forget_old(self.store.root)
        return done

    def _start_some(self, waiting: deque[CellSpec], running: list[Running]) -> Iterator[CellResult]:
        """Starts as many cells as there is room for; the results of those that another sweep has done meanwhile.

        What the allowance does not admit now it never will.
        """
        while waiting and len(running) < self.at_once:
            if self.allowance.full():
                self.left += waiting
                waiting.clear()
                return
            if self.turns is None:
                spec = waiting.popleft()
                if self.allowance.admits(spec):
                    self.allowance.used += 1
                    running.append(self._start(spec))
                else:
                    self.left.append(spec)
                continue
            self._leave_refused(waiting)  # before their turn, which would keep other sweeps from them
            if (turn := self.turns.next_of(waiting)) is None:
                return
            spec, result = turn
            waiting.remove(spec)
            if result is not None:
                yield result
            else:
                self.allowance.used += 1
                running.append(self._start(spec))

    def _leave_refused(self, waiting: deque[CellSpec]) -> None:
        """Takes away what the allowance does not admit."""
        if self.allowance.seconds is None:
            return
        admitted = [spec for spec in waiting if self.allowance.admits(spec)]
        if len(admitted) < len(waiting):
            kept = {spec.key() for spec in admitted}
            self.left += [spec for spec in waiting if spec.key() not in kept]
            waiting.clear()
            waiting += admitted

    def job_of(self, spec: CellSpec) -> Job:
        """What a worker is told of a cell."""
        together = self.at_once if self.launcher.one_machine else 1
        key = spec.key()
        return Job(
            spec=spec,
            root=self.cohorts[spec.cohort.name].root,
            concurrent_jobs=together,
            keep=self.keep,
            external=list(self.external.get(key, ())),
            tuning=self.tunings.get(key),
            suites=list(self.suites.get(key, ())),
            events=self.events,
            unfinished=unfinished_folder(self.store.root),
            checkpoint_every=self.checkpoint_every,
            devices=self.launcher.resources.devices,
        )

    def settle(self, worker: Running, outcome: Outcome, seconds: float) -> CellResult:
        """Puts an outcome, with what lies in the worker's folder, into its place.

        Args:
            worker: It has ended.
            outcome: Of its job.
            seconds: That it ran.

        Raises:
            StorageError: It cannot be written.
        """
        if outcome.result.status == "success":
            if worker.job.keep:
                self.store.put_graft(worker.job.spec, worker.folder / GRAFT)
            for tested, arrays in outcome.external:
                put_external(self.store, tested, arrays)
        return self._stored(outcome, seconds)

    def follow(self, result: CellResult) -> Sequence[CellSpec]:
        """Cells that are to run now that one has ended; none, where all are known from the start."""
        return ()

    @contextmanager
    def _contract(self, method: str) -> Iterator[None]:
        """Turns what a launcher's method raises into one sentence."""
        try:
            yield
        except MedgraftError:
            raise
        except Exception as error:
            text = one_line(f"{type(error).__name__}: {error}", 500)
            raise PluginError(
                f"{method}() of launcher {self.name!r} failed: {text}; what was finished is stored, and the same "
                "command goes on from there"
            ) from error

    def _start(self, spec: CellSpec) -> Running:
        job = self.job_of(spec)
        folder = self.work / spec.key()
        try:
            claim(self.work)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            (folder / JOB).write_text(job.model_dump_json())
        except OSError as error:
            raise StorageError(self.store.root, error) from error
        command = (sys.executable, "-m", WORKER, str(folder / JOB), str(folder))
        name = f"{spec.task}/{spec.adapter} seed {spec.seed}"
        with self._contract("submit"):
            handle = self.launcher.submit(
                LaunchedJob(
                    name,
                    folder,
                    (*command, "--verbose") if self.verbose else command,
                    self.verbose,
                    frozen_group(spec),
                )
            )
        return Running(job, folder, handle, ProgressReader(folder), warned=self.warned)

    def _outcome(self, worker: Running, events: Events) -> CellResult | None:
        """The stored result of a worker that has ended or run out of time; ``None`` while it may go on."""
        worker.listen()
        with self._contract("poll"):
            end = worker.handle.poll()
        now, complete = time.monotonic(), (worker.folder / RESULT).is_file()
        if end is None:
            end = self._overdue(worker, now, complete)
        if end is None:
            return None
        worker.listen()
        if end.code == UNWRITABLE or worker.unwritable:
            reason = worker.unwritable or "its folder cannot be written"
            raise StorageError(self.store.root, OSError(reason))
        outcome = collect(worker.job, worker.folder, end, worker.doing)
        result = self.settle(worker, outcome, now - worker.started)
        events.recorded(result, worker.folder, now - worker.started)
        shutil.rmtree(worker.folder, ignore_errors=True)
        return result

    def _overdue(self, worker: Running, now: float, complete: bool) -> Exit | None:
        """Ends a worker that takes too long, also to end once it has left its result; ``None`` if it may go on."""
        if worker.handle.waits():
            worker.started = now
            return None
        if complete and worker.complete is None:
            worker.complete = now
        timeout = self.launcher.resources.timeout
        late = now - worker.started > timeout
        if not late and (worker.complete is None or now - worker.complete <= LINGER):
            return None
        with self._contract("cancel"):
            worker.handle.cancel()
        return Exit(None, "timeout", f"killed after {timeout:g} s; raise --timeout to let it go on") if late else Exit()

    def _stored(self, outcome: Outcome, seconds: float) -> CellResult:
        """Puts an outcome into its place."""
        result = outcome.result
        if not result.timing:
            result = result.model_copy(update={"timing": {"failed": round(seconds, 3)}})
        if outcome.log is not None:
            name = self.store.log_path(result.spec).relative_to(self.store.root).as_posix()
            result = result.model_copy(update={"log": name})
        self.store.put(result, outcome.predictions, outcome.log)
        if result.status in ("success", "error"):  # the same error would come again, or the code is mended meanwhile
            forget(self.store.root, result.key)
        return result
