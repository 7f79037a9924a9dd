"""One process of a cell on several devices: the worker's work, as a member of a group of ``torch.distributed``.

``torchrun`` starts N of :mod:`medgraft.benchmarks.cell.rank_start` for a job on N devices
(:mod:`medgraft.benchmarks.cell.devices`). Each rank writes its outcome into a folder of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from medgraft.benchmarks.cell.devices import LOSS, LOST, leave_failure, rank_folder
from medgraft.benchmarks.cell.job import Job
from medgraft.benchmarks.cell.progress import ProgressWriter
from medgraft.benchmarks.cell.worker import execute, writing
from medgraft.commands.plain_text import one_line
from medgraft.world import LostRanksError

LONGEST = timedelta(days=31)
"""Time in which another rank must be heard of: no less than a cell may take, since the harness ends those that hang."""

JOINING = timedelta(minutes=10)
"""Time in which all ranks must have started, which a machine that reads torch from a slow disk may take."""

LAST_TO_SPEAK = 2.0
"""Seconds that a rank waits that has lost another, so that the other one's end is seen first."""


def run_rank(job: Job, folder: Path) -> int:
    """Runs a cell as one rank of several; the exit code as that of the worker, or :data:`LOST`.

    Args:
        job: The cell.
        folder: Of the job.
    """
    rank = int(os.environ["RANK"])
    mine = rank_folder(folder, rank)

    def run(progress: ProgressWriter) -> int:
        mine.mkdir(exist_ok=True)
        try:
            _join(job)
        except (RuntimeError, ValueError) as error:
            return leave_failure(job, mine, f"rank {rank} cannot join the others: {one_line(str(error), 300)}")
        try:
            return int(execute(job, mine, progress.step if rank == 0 else _silent) != "success")
        except LostRanksError as error:
            sys.stderr.write(f"rank {rank}: {error}\n")
            with contextlib.suppress(OSError):
                (mine / LOSS).write_text(one_line(str(error), 300))
            time.sleep(LAST_TO_SPEAK)
            return LOST

    return writing(folder, run)


def _join(job: Job) -> None:
    """Takes this rank's device and its place among the others."""
    cuda = job.spec.device == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(rendezvous("env://", timeout=JOINING))
    store.set(f"joined/{rank}", "")
    store.wait([f"joined/{each}" for each in range(size)], JOINING)
    backend = "nccl" if cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=LONGEST)


def _silent(doing: str, share: float) -> None:
    """Of the ranks the first says what they do."""


def main(arguments: list[str] | None = None) -> int:
    """Command line; exit codes as :func:`run_rank` says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path, help="JSON file of the job")
    parser.add_argument("folder", type=Path, help="folder of the job")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    faulthandler.enable(2)
    logging.basicConfig(level=logging.INFO if options.verbose else logging.WARNING, stream=sys.stderr)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # of whoever started the ranks; no terminal reaches their sessions
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    job = Job.model_validate_json(options.job.read_text())
    return run_rank(job, options.folder.absolute())  # a plugin may change the working directory
