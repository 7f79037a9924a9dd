"""What the harness itself costs in a sweep of many cells: sending them out, finding them done, making the board."""

from __future__ import annotations

import io
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
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
from medgraft.benchmarks.simulate.cells import seconds_of, specs, templates
from medgraft.benchmarks.simulate.filled import fill
from medgraft.benchmarks.simulate.launcher import SimulatedLauncher
from medgraft.benchmarks.sweep.display import Display
from medgraft.benchmarks.sweep.run import finished_before
from medgraft.benchmarks.watch.journal import Journal, planned

AT_ONCE = 64
"""Workers at a time."""

DISPATCHED = 1000
"""Cells that are sent out; those before them in a larger sweep are found done."""


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
    """Runs the last cells of a sweep, all others of which are done; what simulated workers do is not counted."""
    found = templates(real)
    every = list(specs(found[0].result.spec, cells))
    launcher, store, done = SimulatedLauncher(found, AT_ONCE), ResultStore(out), max(cells - DISPATCHED, 0)
    fill(every[:done], found, store)
    seconds, late = _run(every, every[done:], launcher, store)
    said = {"done before": done, "rows computed after the last cell": late}
    return seconds - launcher.worked, {**launcher.ended, **said}


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
        Seconds until the last cell was stored, and the rows whose metric was not yet computed then.
    """
    start = time.perf_counter()
    cohort = cells[0].cohort
    runs = Runs(store, {cohort.name: Cohort(cohort, Path("/"))}, launcher, "simulated")
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    display = Display(console, cells, AT_ONCE, Durations())
    ahead = {cell.key() for cell in cells}
    kept = {key for cell in every if (key := cell.key()) not in ahead}
    facts = planned(every, {}, kept, launcher="simulated", at_once=AT_ONCE, work=runs.work.name)
    journal, rows = Journal(store.root, facts), FinishedRows(store, every, ahead)

    def finished(result: CellResult, took: float) -> None:
        display.finished(result)
        journal.cell(result, took)
        rows.add(result)

    def tick(running: Sequence[Running]) -> None:
        display.tick(running)
        for row in rows.computed():
            display.row(row)
            journal.row([cell.key() for cell in row.cells], row.metric)
        journal.beat()

    with display.progress, journal.ending(runs.left):
        runs.run(cells, Events(tick, finished))
        seconds = time.perf_counter() - start
    return seconds, sum(1 for _ in rows.rest())


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


def _measured(phase: str, real: Path, out: Path, cells: int) -> Cost:
    os.environ["MEDGRAFT_CACHE"] = str(out.parent / "cache")  # what was found true of results is kept there
    seconds, said = PHASES[phase](real, out, cells)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return Cost(seconds, peak, said)
