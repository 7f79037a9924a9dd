"""Progress of a worker: lines of JSON beside its result, for whoever polls. The worker may be on any machine.

A line is ``{"time", "step", "doing", "share"}``: seconds since 1970, a step of
:data:`medgraft.benchmarks.cell.job.STEPS`, its text for a person, and the share of it that is done. Others are
``{"time", "log": [level, logger, text]}`` of what medgraft itself logs, and ``{"unwritable": reason}``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cell.job import step_of

PROGRESS = "progress.jsonl"
LONGEST_LINE = 3500
"""Bytes of a line; longer ones are not written."""
LARGEST_FILE = 8 << 20
"""Bytes of the file, beyond which nothing is written any more."""
READ_AT_ONCE = 1 << 18
"""Bytes of one worker's file in one look at it; more wait, so that no worker keeps the launcher from the others."""
BETWEEN = 0.5
"""Seconds between two lines of one step."""


class ProgressWriter:
    """Appends to the file of progress; each line is one write, so that it is whole or absent whoever is killed.

    Args:
        folder: Of the job.

    Raises:
        OSError: The file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.descriptor = os.open(folder / PROGRESS, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self.identity = self._identity()
        self.last = float("-inf")

    def _identity(self) -> tuple[int, int]:
        facts = os.fstat(self.descriptor)
        return facts.st_dev, facts.st_ino

    def step(self, doing: str, share: float) -> None:
        """Says what runs now and the share of it that is done, at most twice a second.

        Raises:
            OSError: A plugin has closed the file.
        """
        now = time.monotonic()
        if share in (0.0, 1.0) or now - self.last > BETWEEN:
            self.last = now
            self.write({"time": round(time.time(), 3), "step": step_of(doing), "doing": doing[:200], "share": share})

    def write(self, entry: dict[str, Any]) -> None:
        """Appends a line; one that is too long, or does not fit on the disk, is left out.

        Raises:
            OSError: A plugin has closed the file; what has its descriptor now is another one.
        """
        data = json.dumps(entry).encode() + b"\n"
        if self._identity() != self.identity:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if len(data) > LONGEST_LINE or os.fstat(self.descriptor).st_size > LARGEST_FILE:
            return
        try:
            os.write(self.descriptor, data)
        except OSError as error:
            if error.errno == errno.EBADF:
                raise  # where nothing can be written, the result cannot either, and says so

    def close(self) -> None:
        """Closes the file."""
        with contextlib.suppress(OSError):
            if self._identity() == self.identity:
                os.close(self.descriptor)

    @contextlib.contextmanager
    def logging(self) -> Iterator[None]:
        """Inside it, what medgraft logs stands in the file too."""
        handler, logger = _Handler(self), logging.getLogger("medgraft")
        logger.addHandler(handler)
        try:
            yield
        finally:
            logger.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, progress: ProgressWriter) -> None:
        super().__init__()
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError):
            entry = {"time": round(record.created, 3), "log": [record.levelno, record.name, record.getMessage()[:2000]]}
            self.progress.write(entry)


class ProgressReader:
    """Reads the file of progress as it grows.

    Args:
        folder: Of the job.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.place = folder / PROGRESS, 0

    def read(self) -> list[dict[str, Any]]:
        """Entries that were written since the last call; what is no line of ours is passed over."""
        try:
            with self.path.open("rb") as file:
                file.seek(self.place)
                data = file.read(READ_AT_ONCE)
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        if not end and len(data) == READ_AT_ONCE:
            end = len(data)  # no line of ours is as long
        self.place += end
        entries = []
        for line in data[:end].splitlines():
            with contextlib.suppress(ValueError, RecursionError):
                if isinstance(entry := json.loads(line), dict):
                    entries.append(entry)
        return entries

    def everything(self) -> list[dict[str, Any]]:
        """All entries, also those that were read before."""
        reader, entries = ProgressReader(self.path.parent), []
        while found := reader.read():
            entries += found
        return entries
