"""The journal of a sweep, ``sweeps/*.sweep.jsonl`` in its results folder, for whoever watches it, on any machine.

Its first line is the plan: cells by row, launcher, when, and by which process of which host. A line follows for each
cell that ends, for each row whose last seed ends, and for the end. The time of the file's last change is the sweep's
sign of life. No line has a path of the machine in it, or anything of a subject.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.writing import machine_mark, write_atomically
from medgraft.commands.plain_text import one_line

logger = logging.getLogger(__name__)

FOLDER, ENDING = "sweeps", ".sweep.jsonl"
VERSION = 1
BEAT = 5.0
"""Seconds between two signs of life."""
KEPT = 20
"""Journals of ended sweeps that stay when another sweep begins."""

End = Literal["finished", "interrupted", "stopped", "allowance"]
"""``stopped``: a result could not be stored, or the launcher gave up; ``allowance``: hours or cells were spent."""


class PlannedRow(BaseModel):
    """A row of the plan.

    Attributes:
        task: Task name.
        encoder: Encoder name.
        adapter: Adapter name.
        label: What tells a variant from others; may be empty.
        cells: Key of each cell -> its seed.
    """

    model_config = ConfigDict(extra="forbid")

    task: str
    encoder: str
    adapter: str
    label: str = ""
    cells: dict[str, int]

    def name(self) -> str:
        """The row for a person."""
        return f"{self.task} / {self.encoder} / {self.adapter}{f': {self.label}' if self.label else ''}"


class Planned(BaseModel):
    """The first line of a journal.

    Attributes:
        version: Of the journal's form.
        started: Seconds since 1970.
        host: Name of the machine that the sweep itself runs on.
        machine: See :func:`medgraft.benchmarks.results.writing.machine_mark`.
        process: Number of the sweep's process there.
        launcher: What starts its workers.
        at_once: Most cells at a time.
        work: Folder of the jobs in the results folder.
        rows: What is asked for.
        kept: Keys of cells that were done before.
    """

    model_config = ConfigDict(extra="forbid")

    version: int = VERSION
    started: float
    host: str
    machine: str
    process: int = Field(gt=0)
    launcher: str
    at_once: int = Field(ge=1)
    work: str = Field(pattern=r"^\.work-[\w-]+$")
    rows: list[PlannedRow]
    kept: list[str] = Field(default_factory=list)


def planned(
    cells: Sequence[CellSpec],
    labels: Mapping[str, str],
    kept: Collection[str],
    *,
    launcher: str,
    at_once: int,
    work: str,
) -> Planned:
    """The plan of a sweep that this process runs.

    Args:
        cells: All that were asked for.
        labels: :meth:`CellSpec.row` of a variant's cells -> its label.
        kept: Keys of those that are done already.
        launcher: Its name.
        at_once: Cells at a time.
        work: Name of the folder of the jobs.
    """
    rows: dict[str, PlannedRow] = {}
    for cell in cells:
        name = cell.row()
        if name not in rows:
            label = labels.get(name, "")
            rows[name] = PlannedRow(task=cell.task, encoder=cell.encoder, adapter=cell.adapter, label=label, cells={})
        rows[name].cells[cell.key()] = cell.seed
    return Planned(
        started=round(time.time(), 3),
        host=one_line(platform.node(), 60),
        machine=machine_mark(),
        process=os.getpid(),
        launcher=launcher,
        at_once=at_once,
        work=work,
        rows=list(rows.values()),
        kept=sorted(kept),
    )


class Journal:
    """Writes the journal; a folder that takes none costs the journal, and nothing else.

    Args:
        root: Results folder.
        plan: What will run.
    """

    def __init__(self, root: Path, plan: Planned) -> None:
        begun = time.strftime("%Y%m%d-%H%M%S", time.gmtime(plan.started))
        self.path = root / FOLDER / f"{begun}-{plan.machine}-{plan.process}{ENDING}"
        self.beaten = time.monotonic()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            forget_old(self.path.parent)
            text = plan.model_dump_json() + "\n"
            write_atomically(self.path, lambda handle: handle.write(text.encode()))
        except OSError as error:
            logger.warning("medgraft watch will not see this sweep: its journal cannot be written: %s", error)

    def beat(self) -> None:
        """Gives a sign of life, at most every :data:`BEAT` seconds."""
        if time.monotonic() - self.beaten >= BEAT:
            self.beaten = time.monotonic()
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def cell(self, result: CellResult, took: float) -> None:
        """A cell has ended.

        Args:
            result: Its result.
            took: Seconds of its worker, from start to end.
        """
        said = {"message": one_line(result.message, 500), "stage": result.stage} if result.status != "success" else {}
        self._write(
            {"cell": result.key, "status": result.status, "seconds": _seconds(result), "took": round(took, 3), **said}
        )

    def row(self, keys: Sequence[str], metric: str) -> None:
        """All seeds of a row have ended.

        Args:
            keys: Of its cells.
            metric: Its main metric with the interval, for a person.
        """
        self._write({"row": keys[0], "metric": one_line(metric, 200)})

    @contextlib.contextmanager
    def ending(self, left: Sequence[CellSpec]) -> Iterator[None]:
        """Says at its end how the sweep inside it has ended.

        Args:
            left: Takes what the sweep leaves undone for want of hours or cells.
        """
        how: End = "stopped"
        try:
            yield
            how = "allowance" if left else "finished"
        except KeyboardInterrupt:
            how = "interrupted"
            raise
        finally:
            self._write({"end": how})

    def _write(self, entry: Mapping[str, Any]) -> None:
        data = json.dumps({"time": round(time.time(), 3), **entry}).encode() + b"\n"
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                os.write(descriptor, data)  # at once, so that a line is whole or absent whoever is killed
            finally:
                os.close(descriptor)


def _seconds(result: CellResult) -> float:
    return round(sum(result.timing.values()), 3)


def forget_old(folder: Path) -> None:
    """Removes journals but the newest; that of a sweep that still runs is among those, its last change being new."""
    found = sorted(folder.glob(f"*{ENDING}"), key=lambda path: path.lstat().st_mtime, reverse=True)
    for path in found[KEPT:]:
        path.unlink(missing_ok=True)
