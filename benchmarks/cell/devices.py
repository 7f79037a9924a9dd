"""One cell on several devices of a machine: starts a process for each by torchrun's launcher, and says how they ended.

The processes ("ranks") run :mod:`medgraft.benchmarks.cell.rank`, each with a folder of its own below the job's. What
rank 0 leaves there becomes the job's, once all have ended well. Of ranks that failed the row tells the first failure:
those that only lost the others say nothing.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from medgraft.benchmarks.cell.job import GRAFT, JOB, RESULT, UNWRITABLE, Job, failure
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.commands.plain_text import one_line

RANK = "medgraft.benchmarks.cell.rank_start"
"""What each process runs."""

TORCHRUN = "torchrun"
"""Folder of the launcher's own files, in the job's."""

LOST = 75
"""Exit code of a rank that cannot go on because another has ended (EX_TEMPFAIL of ``sysexits.h``)."""

LOSS = "lost.txt"
"""In a rank's folder: what such a rank has seen."""

OURS = (1, LOST)
"""Ends that say nothing by themselves: of a rank with a result that failed, and of one that lost the others."""

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""Signals that torchrun handles."""


def rank_folder(folder: Path, rank: int) -> Path:
    """Where a rank leaves its outcome.

    Args:
        folder: Of the job.
        rank: From 0.
    """
    return folder / f"rank{rank}"


def run_on_devices(job: Job, folder: Path) -> int:
    """Runs a cell on the devices that its job asks for.

    Args:
        job: The cell.
        folder: Of the job; its outcome is there at the end.

    Returns:
        Exit code: 0 for success, 1 for a cell that failed and left a result saying so, :data:`UNWRITABLE`. Where this
        process is told to end, or a rank was killed and no rank knows why, it ends by the same signal, and its
        launcher says what that means.

    Raises:
        OSError: The folder cannot be written.
    """
    if obstacle := _obstacle(job):
        return leave_failure(job, folder, obstacle)
    _remove_earlier(folder)
    try:
        ends = _launched(job, folder)
    except Exception as error:  # of torchrun itself: no port, no rendezvous, no room for its files
        text = f"{type(error).__name__}: {one_line(str(error), 500)}"
        return leave_failure(job, folder, f"its {job.devices} ranks cannot be started on this machine: {text}")
    if isinstance(ends, signal.Signals):
        return _ended_like(-ends)
    if not ends:
        _take(rank_folder(folder, 0), folder)
        return 0
    return _outcome(job, folder, ends)


def _outcome(job: Job, folder: Path, ends: Mapping[int, int]) -> int:
    """What ranks that failed come to, by their exit codes in the order of their ends; the exit code."""
    if UNWRITABLE in ends.values():
        return UNWRITABLE
    left = [place for rank in range(job.devices) if (place := rank_folder(folder, rank) / RESULT).is_file()]
    said = sorted((place for place in left if b'"status":"success"' not in place.read_bytes()), key=_written)
    if said:
        os.replace(said[0], folder / RESULT)
        return 1
    first = next(iter(ends))
    for rank, code in ends.items():
        by_torchrun = code == -signal.SIGTERM and rank != first  # which ends the others behind the first failure
        if code not in OURS and not by_torchrun:
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            sys.stderr.write(f"rank {rank} of {job.devices} ended {how}\n")
            return _ended_like(code)
    seen = [
        f"; rank {rank} says: {place.read_text(errors='replace')}"
        for rank in ends
        if (place := rank_folder(folder, rank) / LOSS).is_file()
    ]
    why = seen[0] if seen else " and none says why"
    return leave_failure(job, folder, f"its {job.devices} ranks lost each other{why}")


def _remove_earlier(folder: Path) -> None:
    """Removes what an earlier attempt has left: Slurm and Ray start a job again in the same folder."""
    for place in (*folder.glob("rank[0-9]*"), folder / GRAFT):
        shutil.rmtree(place, ignore_errors=True)


def _obstacle(job: Job) -> str:
    """Why the ranks cannot run on this machine; empty where they can."""
    if job.spec.device == "cpu":
        return ""
    import torch

    there = torch.cuda.device_count()
    remedy = "ask the launcher for as many GPUs as --devices says, or give fewer"
    return f"it is to run on {job.devices} GPUs, and PyTorch sees {there} here; {remedy}" if there < job.devices else ""


def _launched(job: Job, folder: Path) -> Mapping[int, int] | signal.Signals:
    """Starts the ranks and waits until all have ended.

    Returns:
        Exit codes of those that failed, in the order of their ends; or the signal that told this process to end.
    """
    # Not at the top: they bring half of torch, and most cells run on one device.
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=job.devices,
        run_id=job.spec.key(),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # a free port
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder / TORCHRUN)),
    )
    more = ("--verbose",) if logging.getLogger().isEnabledFor(logging.INFO) else ()
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    before = {each: signal.getsignal(each) for each in HANDLED}
    try:
        start = elastic_launch(config, sys.executable)
        start("-m", RANK, str(os.getpid()), str(folder / JOB), str(folder), *more)
    except ChildFailedError as error:
        failures = sorted(error.failures.items(), key=lambda each: each[1].timestamp)
        return {rank: each.exitcode for rank, each in failures}
    except SignalException as error:  # the ranks are ended by now
        return error.sigval
    finally:
        if threading.current_thread() is threading.main_thread():  # in others torchrun handles none
            for each, handler in before.items():  # torchrun's would raise where nobody expects it
                signal.signal(each, signal.SIG_DFL if handler is None else handler)
    return {}


def _take(mine: Path, folder: Path) -> None:
    """Moves what a rank has left into the job's folder, its result last, which says that all is there."""
    for place in sorted(mine.iterdir(), key=lambda each: each.name == RESULT):
        os.replace(place, folder / place.name)


def _written(place: Path) -> int:
    return place.stat().st_mtime_ns


def leave_failure(job: Job, folder: Path, message: str) -> int:
    """Leaves a result that says why a cell failed, in the job's folder or a rank's; the exit code."""
    text = failure(job, "error", message).model_dump_json()
    write_atomically(folder / RESULT, lambda handle: handle.write(text.encode()))
    return 1


def _ended_like(code: int) -> int:
    """Ends this process by the signal that ``code`` is minus the number of; an exit code is given back."""
    if code < 0:
        with contextlib.suppress(OSError, ValueError):  # of SIGKILL nothing can be said
            signal.signal(-code, signal.SIG_DFL)
        sys.stderr.flush()
        os.kill(os.getpid(), -code)
        time.sleep(1)  # until the signal arrives
    return code
