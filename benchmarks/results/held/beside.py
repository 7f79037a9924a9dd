"""Reads and checks results for a board, in processes beside this one where there are thousands of them.

A result takes about a millisecond to be read, checked against its predictions and made small. What comes back from the
other processes is small already; here it is only made to share what it has in common with results of other parts.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from itertools import islice
from pathlib import Path

from medgraft.benchmarks.garbage import uncollected
from medgraft.benchmarks.results.held.filed import Filing
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.verification import Verified, checked
from medgraft.benchmarks.side_process import begin, cores, settings

logger = logging.getLogger(__name__)

MANY = 5000
"""Results from which on processes are started, which import for seconds before they read the first."""

MOST = 4
"""Processes at most: each holds half a gigabyte of libraries, and more would wait for what is done here."""

PART = 250
"""Results of one message."""

AHEAD = 4
"""Parts for each process that are read before the first of them is taken."""

Found = Verified | UnreadableError
"""What a file is: a result that does not contradict itself, or why it is none."""


def read_held(paths: Iterable[Path]) -> Iterator[tuple[Path, Found]]:
    """What :func:`medgraft.benchmarks.results.verification.checked` gives or raises of each file, in their order.

    Results are held small, see :mod:`medgraft.benchmarks.results.held.filed`.

    Args:
        paths: Files, which must not change.
    """
    every, filing = list(paths), Filing()
    parts = [every[start : start + PART] for start in range(0, len(every), PART)]
    jobs = min(cores(), MOST) if len(every) >= MANY else 1
    done = 0
    if jobs > 1:
        try:
            for part, found in zip(parts, _beside(parts, jobs), strict=True):
                read = list(zip(part, found, strict=True))
                filing.adopt((path, each.cell) for path, each in read if isinstance(each, Verified))
                for path, each in read:
                    yield path, replace(each, path=path) if isinstance(each, Verified) else each
                done += 1
        except (BrokenProcessPool, OSError, EOFError) as error:
            logger.warning("a process that reads results has ended (%s); this one goes on", type(error).__name__)
    for part in parts[done:]:
        for path in part:
            yield path, _found(path, filing)


def _beside(parts: Sequence[Sequence[Path]], jobs: int) -> Iterator[list[Found]]:
    """Parts as they are read by as many processes, in order."""
    context = multiprocessing.get_context("forkserver")
    running: deque[Future[list[Found]]] = deque()
    left = iter(parts)
    with ProcessPoolExecutor(jobs, context, initializer=begin, initargs=(settings(),)) as pool:
        try:
            while True:
                running += (pool.submit(_part, part) for part in islice(left, jobs * AHEAD - len(running)))
                if not running:
                    return
                yield running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _part(paths: Sequence[Path]) -> list[Found]:
    """Of one message; what its results have in common is sent once."""
    filing = Filing()
    with uncollected():
        return [_found(path, filing) for path in paths]


def _found(path: Path, filing: Filing) -> Found:
    try:
        return checked(path, filing)
    except UnreadableError as error:
        return error
    except Exception as error:
        error.add_note(f"while {path} was read")
        raise
