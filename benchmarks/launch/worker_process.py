"""What runs in a process of the local launcher: the supervisor, and in its child the cell."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import multiprocessing
import signal
import sys
from pathlib import Path
from typing import Any

from medgraft.benchmarks.cell.job import JOB, LOG, Job
from medgraft.benchmarks.cell.worker import run_job
from medgraft.benchmarks.launch.supervisor import supervised
from medgraft.commands.plain_text import PlainFormatter

FORMAT = "%(levelname)s %(name)s: %(message)s"


def work(folder: Path, level: int) -> None:
    """Body of a worker process.

    Args:
        folder: Of the job.
        level: Of the log.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the harness decides what Ctrl-C means
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    sentinel: Any = launcher.sentinel
    job = Job.model_validate_json((folder / JOB).read_bytes())

    def keep_log(text: str) -> None:
        with contextlib.suppress(OSError):  # a full disk; the cell's own result says so
            (folder / LOG).write_text(job.shown(text), "utf-8")

    supervised(lambda: _cell(job, folder, level), sentinel, keep_log)


def _cell(job: Job, folder: Path, level: int) -> int:
    """Body of the cell's process; its exit code."""
    faulthandler.enable(2)
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setFormatter(PlainFormatter(FORMAT))
    logging.basicConfig(level=level, handlers=[terminal], force=True)
    return run_job(job, folder)
