"""What runs in a worker process: the supervisor, and in its child the cell, whose progress goes to the launcher."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import logging
import multiprocessing
import signal
import sys
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from medgraft.benchmarks.results import StorageError
from medgraft.benchmarks.supervisor import supervised
from medgraft.benchmarks.worker import Job, execute, without_files
from medgraft.plain_text import PlainFormatter, plain

LOG = "log.txt"
"""What the cell wrote to its terminal, in the folder of its outcome."""

UNWRITABLE = 74
"""Exit code of a worker that cannot write its outcome (EX_IOERR of ``sysexits.h``)."""

MESSAGE_LIMIT = 3500
"""Bytes of a message: one write of fewer than PIPE_BUF is whole or absent, whoever is killed."""

FORMAT = "%(levelname)s %(name)s: %(message)s"


def work(job: Job, folder: Path, pipe: Connection, level: int) -> None:
    """Body of a worker process.

    Args:
        job: The cell.
        folder: For its outcome.
        pipe: To the launcher.
        level: Of the log.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what Ctrl-C means
    launcher = multiprocessing.parent_process()
    assert launcher is not None

    def keep_log(text: str) -> None:
        shown = without_files(plain(text, keep="\n\t"), job.root)
        with contextlib.suppress(OSError):  # a full disk; the cell's own result says so
            (folder / LOG).write_text(shown, "utf-8")

    sentinel: Any = launcher.sentinel
    supervised(lambda: _cell(job, folder, pipe, level), sentinel, keep_log)


def _cell(job: Job, folder: Path, pipe: Connection, level: int) -> int:
    """Body of the cell's process; its exit code."""
    faulthandler.enable(2)
    pipe_log = _PipeHandler(pipe)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(PlainFormatter(FORMAT))
    logging.basicConfig(level=level, handlers=[terminal, pipe_log], force=True)
    last = [0.0]

    def progress(doing: str, share: float) -> None:
        now = time.monotonic()
        if share in (0.0, 1.0) or now - last[0] > 0.5:
            last[0] = now
            _send(pipe, {"doing": doing[:200], "share": share})

    try:
        execute(job, folder, progress)
    except StorageError as error:
        _send(pipe, {"unwritable": str(error.__cause__ or error)[:500]})
        return UNWRITABLE
    return 0


def _send(pipe: Connection, message: dict[str, Any]) -> None:
    """Sends a message; one that is too long is not sent.

    Raises:
        OSError: The pipe is closed, by the launcher's end or by a plugin.
    """
    data = json.dumps(message).encode()
    if len(data) < MESSAGE_LIMIT:
        pipe.send_bytes(data)


class _PipeHandler(logging.Handler):
    """Tells the launcher what medgraft itself logs; what others log is in the cell's log."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self.pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        if record.name.startswith("medgraft"):
            with contextlib.suppress(OSError):
                _send(self.pipe, {"log": [record.levelno, record.name, record.getMessage()[:2000]]})
