"""What the harness itself costs in a sweep of many cells: sending them out, finding them done, making the board."""

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from medgraft.benchmarks.board.finished_rows import FinishedRows
from medgraft.benchmarks.board.leaderboard import write_board
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.cohorts.places import Cohort
from medgraft.benchmarks.launch.cells import Events, Running, Runs
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.schedule.durations import Durations, earlier_durations, last_end
from medgraft.benchmarks.side_process import cores
from medgraft.benchmarks.simulate.cells import seconds_of, specs, templates
from medgraft.benchmarks.simulate.filled import fill, keep_rows
from medgraft.benchmarks.simulate.launcher import SimulatedLauncher
from medgraft.benchmarks.sweep.display import Display
from medgraft.benchmarks.sweep.run import finished_before
from medgraft.benchmarks.watch.journal import Journal, planned

AT_ONCE = 64
"""Workers at a time."""

DISPATCHED = 1000
"""Cells that are sent out; those before them in a larger sweep are found done."""

PART = 2500
"""Cells whose results are written together, all seeds of a row among them."""

WRITERS = 4
"""Processes that write them, at most."""


@dataclass(frozen=True)
class Cost:
    """What a phase cost.

    Attributes:
        seconds: Wall time.
        peak: Bytes of the process at most, this package and torch among them.
        said: What came out: of the dispatch how cells ended, of resuming how many were found, of the board its rows.
    """

    seconds: float
    peak: int
    said: dict[str, int]


Phase = Callable[[Path, Path, int], tuple[float, dict[str, int]]]
"""From the folder of real results, that of the sweep, and the number of cells, to the seconds and what came out."""


def dispatch(real: Path, out: Path, cells: int) -> tuple[float, dict[str, int]]:
    """Runs the last cells of a sweep, all others of which are done; what simulated workers do is not counted.

    Rows take a second each, and cells no time, so that most wait when the last cell has ended. They are not waited for:
    what a sweep keeps of them for its board is kept of the results that they are made of.
    """
    found = templates(real)
    every = list(specs(found[0].result.spec, cells))
    for cell in every:
        cell.key()  # which a plan has computed before it is run
    launcher, store, done = SimulatedLauncher(found, AT_ONCE), ResultStore(out), cells_before(cells)
    seconds, rows = _run(every, every[done:], launcher, store)
    keep_rows(every[done:], found, store)
    return seconds - launcher.worked, {**launcher.ended, "done before": done, "rows computed meanwhile": rows}


def cells_before(cells: int) -> int:
    """How many cells of a sweep are done before the last are sent out."""
    return max(cells - DISPATCHED, 0)


def write_before(real: Path, out: Path, cells: int) -> Iterator[int]:
    """Writes the results of the cells before those that are sent out, on all cores; tells how many are written."""
    done = cells_before(cells)
    starts = range(0, done, PART)
    with ProcessPoolExecutor(min(cores(), WRITERS), multiprocessing.get_context("spawn")) as pool:
        parts = [pool.submit(_write, real, out, start, min(start + PART, done)) for start in starts]
        try:
            for start, part in zip(starts, parts, strict=True):
                part.result()
                yield min(start + PART, done)
        finally:
            pool.shutdown(cancel_futures=True)


def _write(real: Path, out: Path, start: int, end: int) -> None:
    _use_cache_of(out)
    found = templates(real)
    fill(specs(found[0].result.spec, end, start), found, ResultStore(out))


def _run(
    every: Sequence[CellSpec], cells: Sequence[CellSpec], launcher: SimulatedLauncher, store: ResultStore
) -> tuple[float, int]:
    """A sweep as :mod:`medgraft.benchmarks.sweep.run` runs it, shown on a terminal that nobody sees.

    Args:
        every: All cells that are asked for.
        cells: Those that run.
        launcher: Whose workers leave results.
        store: Where they go.

    Returns:
        Seconds until the last cell was stored, and the rows whose metric was computed until then.
    """
    start = time.perf_counter()
    cohort = cells[0].cohort
    runs = Runs(store, {cohort.name: Cohort(cohort, Path("/"))}, launcher, "simulated")
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    display = Display(console, cells, AT_ONCE, Durations())
    ahead = {cell.key() for cell in cells}
    kept = {key for cell in every if (key := cell.key()) not in ahead}
    facts = planned(every, {}, kept, launcher="simulated", at_once=AT_ONCE, work=runs.work.name)
    journal, rows, computed = Journal(store.root, facts), FinishedRows(store, every, ahead), 0

    def finished(result: CellResult, took: float) -> None:
        display.finished(result)
        journal.cell(result, took)
        rows.add(result)

    def tick(running: Sequence[Running]) -> None:
        nonlocal computed
        display.tick(running)
        for row in rows.computed():
            computed += 1
            display.row(row)
            journal.row([cell.key() for cell in row.cells], row.metric)
        journal.beat()

    with display.progress, journal.ending(runs.left):
        runs.run(cells, Events(tick, finished))
        seconds = time.perf_counter() - start
    rows.close()
    return seconds, computed


def resume(real: Path, out: Path, cells: int) -> tuple[float, dict[str, int]]:
    """Finds which cells of the same sweep are done."""
    planned_cells = list(specs(templates(real)[0].result.spec, cells))
    start = time.perf_counter()
    found = finished_before(planned_cells, ResultStore(out))
    return time.perf_counter() - start, {"found": len(found)}


def board(real: Path, out: Path, cells: int) -> tuple[float, dict[str, int]]:
    """Makes the board of all results."""
    start = time.perf_counter()
    rows = board_rows([out])
    write_board(rows, out / "board", BoardOptions("medgraft run"))
    return time.perf_counter() - start, {"rows": len(rows)}


def estimate(real: Path, out: Path, cells: int) -> tuple[float, dict[str, int]]:
    """Says how long a second sweep of the same rows with other seeds would take, beside what it is made to take."""
    again = [spec.model_copy(update={"seed": spec.seed + 100}) for spec in specs(templates(real)[0].result.spec, cells)]
    start = time.perf_counter()
    known = earlier_durations(out)
    said = known.until_all_end(again, AT_ONCE)
    seconds = time.perf_counter() - start
    true = last_end([known.start + seconds_of(spec) for spec in again], AT_ONCE)
    return seconds, {"said": round(said or 0.0), "true": round(true)}


PHASES: dict[str, Phase] = {"dispatch": dispatch, "resume": resume, "estimate": estimate, "board": board}


def cost(phase: str, real: Path, out: Path, cells: int) -> Cost:
    """A phase, in a process of its own, so that its memory is its own.

    Args:
        phase: One of :data:`PHASES`.
        real: Folder of real results.
        out: Folder of the sweep.
        cells: Number of cells.
    """
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, phase, real, out, cells).result()


def _use_cache_of(out: Path) -> None:
    """What was found true of results, and what was computed of rows, is kept beside them."""
    os.environ["MEDGRAFT_CACHE"] = str(out.parent / "cache")


def _measured(phase: str, real: Path, out: Path, cells: int) -> Cost:
    _use_cache_of(out)
    seconds, said = PHASES[phase](real, out, cells)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(seconds, peak, said)
