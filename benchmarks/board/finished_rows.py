"""Rows of a sweep that runs, as their last seed ends: their main metric with its interval, for who watches.

The interval resamples subjects and seeds, tens of milliseconds to seconds for each row. In a sweep of many cells a
process beside this one does that, so that no worker waits for its next cell meanwhile; what it has computed is
remembered for the board, see :mod:`medgraft.benchmarks.board.remembered`.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

from medgraft.benchmarks.board.rows import BoardRow, make_row
from medgraft.benchmarks.board.terminal import brief
from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import succeeded
from medgraft.benchmarks.side_process import begin, settings

logger = logging.getLogger(__name__)

MANY = 100
"""Cells from which on rows are computed beside the sweep; the process takes seconds to start."""


@dataclass(frozen=True)
class FinishedRow:
    """A row all of whose seeds have ended.

    Attributes:
        cells: Its cells.
        metric: Its main metric with the interval over subjects and seeds, or how its seeds ended.
    """

    cells: Sequence[CellSpec]
    metric: str


class FinishedRows:
    """Tells when a row is complete.

    Args:
        store: Where the results are.
        cells: All cells of the sweep.
        ahead: Keys of those that will run.
    """

    def __init__(self, store: ResultStore, cells: Sequence[CellSpec], ahead: Collection[str]) -> None:
        self.store = store
        self.rows: dict[str, list[CellSpec]] = {}
        self.left: dict[str, set[str]] = {}
        for cell in cells:
            self.rows.setdefault(cell.row(), []).append(cell)
            if (key := cell.key()) in ahead:
                self.left.setdefault(cell.row(), set()).add(key)
        self._pool: ProcessPoolExecutor | None = None
        self._end: Connection | None = None
        if len(ahead) >= MANY:
            context = multiprocessing.get_context("forkserver")
            reader, self._end = context.Pipe(duplex=False)
            self._pool = ProcessPoolExecutor(1, context, initializer=begin, initargs=(settings(), reader))
        self._waiting: deque[tuple[list[CellSpec], Future[str]]] = deque()

    def add(self, result: CellResult) -> None:
        """Takes a result that is stored; its row is computed if that was the last one missing."""
        name = result.spec.row()
        left = self.left.get(name, set())
        if result.key not in left:
            return
        left.discard(result.key)
        if left:
            return
        cells = self.rows[name]
        paths = [self.store.path(cell) for cell in cells]
        if self._pool is not None:
            try:
                self._waiting.append((cells, self._pool.submit(metric_of_row, paths)))
                return
            except (BrokenProcessPool, OSError, EOFError) as error:
                self._lost(error)
        done: Future[str] = Future()
        done.set_result(metric_of_row(paths))
        self._waiting.append((cells, done))

    def computed(self) -> Iterator[FinishedRow]:
        """Rows that were computed since the last call, in the order in which they ended."""
        while self._waiting and self._waiting[0][1].done():
            yield self._take()

    def rest(self) -> Iterator[FinishedRow]:
        """The rows that are left, waited for; to be called once, at the end."""
        while self._waiting:
            yield self._take()
        self.close()

    def close(self) -> None:
        """Ends the process; rows that it has not computed are left to the board."""
        if self._pool is None or self._end is None:
            return
        # Waiting rows are not cancelled: a pool that nobody holds any longer forgets that it was asked to, and this
        # process could not end before all of them were computed.
        with suppress(OSError):
            self._end.send_bytes(b"end")
        self._pool.shutdown()
        self._end.close()
        self._pool = self._end = None

    def _take(self) -> FinishedRow:
        cells, future = self._waiting.popleft()
        try:
            return FinishedRow(cells, future.result())
        except BrokenProcessPool as error:
            self._lost(error)
            return FinishedRow(cells, metric_of_row([self.store.path(cell) for cell in cells]))

    def _lost(self, error: Exception) -> None:
        """The process has died; from now on rows are computed here."""
        logger.warning("the process that computes finished rows has ended (%s); this one does it", type(error).__name__)
        self.close()


def metric_of_row(paths: Sequence[Path]) -> str:
    """The main metric of a row in words.

    A mean over the seeds that succeeded says how many did not. Each result is checked against its predictions, and that
    it was is remembered too.

    Args:
        paths: Of its results; those that cannot be read are left out.
    """
    seeds = []
    for path in paths:
        try:
            seeds.append((path, read_result(path)))
        except UnreadableError as error:
            logger.warning("%s is left out: %s", path, error)
            continue
        succeeded(path)
    return _metric(make_row(seeds)) if seeds else "no result can be read"


def _metric(row: BoardRow) -> str:
    seeds = f"{len(row.cells)} seed{'s' * (len(row.cells) > 1)}"
    if row.first.status != "success":
        return f"no seed succeeded, {row.status}" if len(row.cells) > 1 else row.first.status
    value = f"{row.first.primary} {brief(row.metrics.get(row.first.primary))}"
    return f"{value}, {seeds}" if row.status == "success" else f"{value}, seeds that failed: {row.status}"
