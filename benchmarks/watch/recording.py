"""What a sweep leaves of each cell beside its result, if asked: a log of JSON lines, and spans."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from medgraft.benchmarks.cell.progress import ProgressReader
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.watch.cell_events import cell_events
from medgraft.benchmarks.watch.json_log import write_log
from medgraft.benchmarks.watch.traces import Traces

logger = logging.getLogger(__name__)


@dataclass
class Recording:
    """Records cells as they end; what cannot be recorded costs the record and nothing else.

    Attributes:
        store: The results.
        json_logs: Write a log of JSON lines beside each.
        traces: Takes the spans, if they are asked for.
    """

    store: ResultStore
    json_logs: bool = False
    traces: Traces | None = None
    failed: bool = field(default=False, init=False)

    def cell(self, result: CellResult, folder: Path, took: float) -> None:
        """A cell's result has been stored.

        Args:
            result: It.
            folder: Of its worker, in which its progress lies.
            took: Seconds from its start.
        """
        if not self.json_logs and self.traces is None:
            return
        ended = time.time()
        events = cell_events(ProgressReader(folder).everything(), result, ended - took, ended)
        try:
            if self.json_logs:
                write_log(self.store.path(result.spec), events, result)
            if self.traces is not None:
                self.traces.cell(events, result)
        except (OSError, ValueError, OverflowError) as error:  # times in the file are the worker's, or a plugin's
            if not self.failed:
                logger.warning("--json-logs and --traces: a cell cannot be recorded: %s", error)
            self.failed = True

    @contextmanager
    def sweep(self, cells: int) -> Iterator[None]:
        """Around the cells of a sweep.

        Args:
            cells: That will run.
        """
        if self.traces is None:
            yield
            return
        with self.traces.sweep(cells):
            yield
