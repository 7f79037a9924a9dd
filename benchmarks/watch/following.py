"""Reads the journals and the folders of jobs in a results folder, and never writes there."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import ValidationError

from medgraft.benchmarks.cell.job import JOB
from medgraft.benchmarks.cell.progress import PROGRESS
from medgraft.benchmarks.results.result_files import UnreadableError, files_below, opened, read_json
from medgraft.benchmarks.results.writing import machine_mark
from medgraft.benchmarks.watch.journal import ENDING, FOLDER, VERSION, End, Planned, PlannedRow
from medgraft.benchmarks.watch.time_left import Kind, seconds_left
from medgraft.commands.plain_text import one_line

SILENT = 60.0
"""Seconds without a sign of life after which a sweep is taken for dead, or its machine for cut off."""
TAIL = 1 << 15
"""Bytes at the end of a worker's progress that are looked at."""

RESULT_NAME = re.compile(r"[0-9a-f]{16}\.json")

Standing = Literal["running", "finished", "interrupted", "stopped", "allowance", "killed", "silent"]
ENDS = get_args(End)


@dataclass(frozen=True)
class Working:
    """A cell at work.

    Attributes:
        key: Its key.
        name: What it is.
        kind: Task and adapter.
        doing: What it does now.
        share: Part of that which is done.
        seconds: Since it was handed to the launcher.
        quiet: Seconds since its last word; ``None`` before the first.
    """

    key: str
    name: str
    kind: Kind
    doing: str
    share: float
    seconds: float
    quiet: float | None


@dataclass(frozen=True)
class Failed:
    """A cell that did not end well: what it is, how it ended and why."""

    name: str
    status: str
    message: str


@dataclass
class Status:
    """A sweep at one moment.

    Attributes:
        title: Which sweep, for a person.
        standing: How it is.
        silent: Seconds since its last sign of life.
        total: Cells asked for.
        kept: Of these, done before it began.
        done: Of these, done by it.
        failed: Cells that did not end well.
        working: Cells at work.
        rows: Finished rows, each with its metric, the latest last.
        left: Seconds that it still takes; ``None`` if that is not known.
        planned: It has left a plan.
    """

    title: str
    standing: Standing
    silent: float = 0.0
    total: int = 0
    kept: int = 0
    done: int = 0
    failed: list[Failed] = field(default_factory=list)
    working: list[Working] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    left: float | None = None
    planned: bool = True


class Followed:
    """One sweep, by its journal.

    Args:
        root: Results folder.
        path: The journal.

    Raises:
        UnreadableError: It has no plan that this version reads.
    """

    def __init__(self, root: Path, path: Path) -> None:
        self.root, self.path, self.place = root, path, 0
        self.ended: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, str] = {}
        self.end: str = ""
        lines = self._lines()
        try:
            plan = json.loads(next(lines, b"{}"))
            if isinstance(plan, dict) and plan.get("version", VERSION) != VERSION:
                raise UnreadableError(f"it is of version {one_line(str(plan['version']), 20)}, not {VERSION}")
            self.plan = Planned.model_validate(plan)
        except (ValueError, RecursionError, ValidationError) as error:
            raise UnreadableError("its first line is no plan") from error
        self.rows: dict[str, PlannedRow] = {key: row for row in self.plan.rows for key in row.cells}
        self._take(lines)
        self.changed, self.seen = 0.0, 0.0

    def _lines(self) -> Iterator[bytes]:
        """Whole lines that were written since the last call."""
        with opened(self.path, "MEDGRAFT_MAX_DOCUMENT_BYTES") as file:
            file.seek(self.place)
            data = file.read()
        data = data[: data.rfind(b"\n") + 1]
        self.place += len(data)
        yield from data.splitlines()

    def _take(self, lines: Iterator[bytes]) -> None:
        for line in lines:
            with suppress(ValueError, RecursionError):
                match json.loads(line):
                    case {"cell": str(key), "status": str(), "seconds": float() | int()} as entry if key in self.rows:
                        self.ended[key] = entry
                    case {"row": str(key), "metric": str(metric)} if key in self.rows:
                        self.metrics[key] = one_line(metric, 200)
                    case {"end": str(how)}:
                        self.end = how

    def status(self, now: float) -> Status:
        """How the sweep is at a time (seconds since 1970).

        Raises:
            UnreadableError: The journal has gone.
        """
        self._take(self._lines())
        plan, kept = self.plan, set(self.plan.kept)
        standing, silent = self._standing(now)
        status = Status(self._title(), standing, silent, total=len(self.rows), kept=len(kept & self.rows.keys()))
        spent: dict[Kind, list[float]] = {}
        for key, entry in self.ended.items():
            row = self.rows[key]
            spent.setdefault((row.task, row.adapter), []).append(float(entry["seconds"]))
            if entry["status"] == "success":
                status.done += 1
            else:
                name = f"{row.name()} seed {row.cells[key]}"
                status.failed.append(Failed(one_line(name), one_line(entry["status"], 20), _reason(entry)))
        status.rows = [f"{one_line(self.rows[key].name())}: {metric}" for key, metric in self.metrics.items()]
        if standing not in ENDS:
            status.working = list(working(self.root / plan.work, now, self.ended))
        if standing == "running":
            ahead = [(r.task, r.adapter) for key, r in self.rows.items() if key not in kept and key not in self.ended]
            busy = [worker.seconds for worker in status.working]
            status.left = seconds_left(ahead, spent, busy, plan.at_once)
        return status

    def _title(self) -> str:
        plan = self.plan
        begun = time.strftime("%Y-%m-%d %H:%M", time.localtime(plan.started))
        return one_line(f"sweep of {begun} on {plan.host or 'an unnamed host'} by launcher {plan.launcher}")

    def _standing(self, now: float) -> tuple[Standing, float]:
        """How it is and for how long it has been silent; clocks of machines may differ, so a change counts as life."""
        try:
            changed = self.path.stat().st_mtime
        except OSError:
            changed = self.changed
        if changed != self.changed:
            self.seen = now if self.changed else min(changed, now)
            self.changed = changed
        silent = max(0.0, now - self.seen)
        if self.end in ENDS:
            return self.end, silent  # pyright: ignore[reportReturnType]
        if self.plan.machine == machine_mark() and not _alive(self.plan.process):
            return "killed", silent
        return ("silent" if silent > SILENT else "running"), silent


def _reason(entry: dict[str, Any]) -> str:
    return one_line(str(entry.get("message") or "no reason is known"), 500)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    return True


def working(folder: Path, now: float, ended: dict[str, Any] | None = None) -> Iterator[Working]:
    """The cells whose folders of work are below ``folder``, but those in ``ended``."""
    try:
        jobs = sorted((entry for entry in os.scandir(folder) if entry.is_dir()), key=lambda entry: entry.name)
    except OSError:
        return
    for job in jobs:
        if job.name in (ended or {}):
            continue
        with suppress(UnreadableError, OSError, KeyError, TypeError):
            path = Path(job.path)
            spec = read_json(path / JOB)["spec"]
            name = one_line(f"{spec['task']} / {spec['encoder']} / {spec['adapter']} seed {spec['seed']}")
            begun = (path / JOB).stat().st_mtime
            doing, share, said = _last_word(path / PROGRESS)
            quiet = None if said is None else max(0.0, now - said)
            kind = (str(spec["task"]), str(spec["adapter"]))
            yield Working(job.name, name, kind, doing, share, max(0.0, now - begun), quiet)


def _last_word(path: Path) -> tuple[str, float, float | None]:
    """What a worker said last, the share of it that is done, and when the file last changed."""
    try:
        with opened(path, "MEDGRAFT_MAX_DOCUMENT_BYTES") as file:
            facts = os.fstat(file.fileno())
            file.seek(max(0, facts.st_size - TAIL))
            lines = file.read(TAIL).splitlines()
    except UnreadableError:
        return "starting", 0.0, None
    for line in reversed(lines):
        with suppress(ValueError, RecursionError):
            match json.loads(line):
                case {"doing": str(doing), "share": float(share) | int(share)}:
                    return one_line(doing, 80), min(max(float(share), 0.0), 1.0), facts.st_mtime
    return "starting", 0.0, facts.st_mtime


class Folder:
    """A results folder that is watched.

    Args:
        root: It.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.sweeps: dict[Path, Followed] = {}

    def look(self, now: float | None = None) -> list[Status]:
        """Its sweeps, those that run first, then the latest first."""
        now = time.time() if now is None else now
        for path in sorted((self.root / FOLDER).glob(f"*{ENDING}")):
            if path not in self.sweeps:
                with suppress(UnreadableError):
                    self.sweeps[path] = Followed(self.root, path)
        found = []
        for path, sweep in list(self.sweeps.items()):
            try:
                found.append((sweep.plan.started, sweep.status(now)))
            except UnreadableError:
                del self.sweeps[path]
        found.sort(key=lambda pair: (pair[1].standing != "running", -pair[0]))
        return [*(status for _, status in found), *self._without_plan(now)]

    def _without_plan(self, now: float) -> Iterator[Status]:
        """Work of sweeps that left no plan, such as those of earlier versions."""
        known = {sweep.plan.work for sweep in self.sweeps.values()}
        for folder in sorted(self.root.glob(".work-*")):
            if folder.name in known or not folder.is_dir():
                continue
            at_work = list(working(folder, now))
            process = folder.name.removeprefix(".work-").partition("-")[0]
            with suppress(OSError):
                here = (folder / "machine").read_text(errors="replace") == machine_mark()
                silent = min((w.quiet for w in at_work if w.quiet is not None), default=now - folder.stat().st_mtime)
                dead = here and process.isdigit() and not _alive(int(process))
                alive = "running" if here or silent <= SILENT else "silent"
                title = one_line(f"a sweep without a plan ({folder.name})")
                stored = sum(1 for path in files_below(self.root, ".json") if RESULT_NAME.fullmatch(path.name))
                standing: Standing = "killed" if dead else alive
                yield Status(title, standing, silent, done=stored, working=at_work, planned=False)
