"""A sweep from request to leaderboard, and what it shows on the terminal."""

from __future__ import annotations

import logging
import os
import statistics
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column, Table
from rich.text import Text

from medgraft.benchmarks import cohorts
from medgraft.benchmarks.content import announcing, verifying
from medgraft.benchmarks.diagnostics import DIAGNOSTIC_COLUMNS, diagnostic_cells
from medgraft.benchmarks.fork_server import end_fork_server
from medgraft.benchmarks.importing import uncollected
from medgraft.benchmarks.kernel_results import read_operations
from medgraft.benchmarks.launcher import Events, Launcher, Running
from medgraft.benchmarks.leaderboard import COLUMNS, BoardRow, board_rows, cells_of_row, write_board
from medgraft.benchmarks.plan import (
    Plan,
    Row,
    asked_adapters,
    cells_of,
    check_names,
    check_size,
    fits,
    rows,
    task_options,
)
from medgraft.benchmarks.request import Sweep
from medgraft.benchmarks.results import CellResult, CellSpec, CohortId, ResultStore, StorageError
from medgraft.benchmarks.tasks import build_task, task_class
from medgraft.benchmarks.verification import verified
from medgraft.console import say as say_error
from medgraft.errors import ConfigError, DataError, MedgraftError, UnknownNameError
from medgraft.plain_text import one_line

DEFAULT_RESULTS = Path("results")


def worker_count(sweep: Sweep) -> int:
    """Worker processes: as asked for, else one per core and at most four."""
    return sweep.jobs or max(1, min(4, (os.cpu_count() or 1) // sweep.threads))


def locate(sweep: Sweep, wanted: Sequence[Row], console: Console, *, make: bool) -> dict[str, cohorts.Cohort]:
    """Finds or makes the cohorts that the rows read.

    Args:
        sweep: The request.
        wanted: Rows that will run.
        console: Where the making of a phantom is announced.
        make: Make missing phantoms; otherwise their revision is left open.

    Raises:
        DataError: A folder is not what its task reads.
    """
    names = list(dict.fromkeys(task_class(row.task).cohort for row in wanted))
    known = [*names, *(cohorts.SAME_DATA[name] for name in names if name in cohorts.SAME_DATA)]
    if unknown := [name for name in sweep.data if name not in known]:
        raise UnknownNameError("cohort in --data", unknown[0], known, "It must be a cohort that a chosen task reads.")
    entries = sweep.preset_entry().cohorts
    found = {}
    for name in names:
        source = name if name in sweep.data else cohorts.SAME_DATA.get(name, name)
        tasks = list(dict.fromkeys(row.task for row in wanted if task_class(row.task).cohort == name))
        if source in sweep.data:
            root = cohorts.folder_of(name, sweep.data[source])
            with verifying(sweep.verify), announcing(console.print):
                loaded = {task: build_task(task, task_options(sweep, task)).load(root).check() for task in tasks}
                found[name] = cohorts.given(name, root, loaded)
            continue
        if name not in entries:
            raise DataError(
                f"preset {sweep.preset!r} has no phantom of cohort {name!r}; give a folder: --data {name}=PATH"
            )
        if make:
            with verifying(sweep.verify):
                found[name] = cohorts.phantom(name, entries[name], worker_count(sweep), console.print)
        else:
            found[name] = cohorts.Cohort(CohortId(name=name, revision="not made yet", phantom=True), Path())
            continue
        for task in tasks:
            build_task(task, task_options(sweep, task)).load(found[name].root).check()
    return found


def make_plan(sweep: Sweep, console: Console, *, make: bool = True) -> Plan:
    """Checks every name, finds what fits, finds or makes the cohorts, and lists the cells.

    Raises:
        ConfigError: Nothing that was asked for can run.
    """
    with uncollected():  # this imports torch and what was asked for
        check_names(sweep)
        wanted = rows(sweep)
        check_size(sweep, wanted)
        good, skipped = fits(sweep, wanted, set(sweep.encoders or ()))
    asked = set(asked_adapters(sweep))
    if not any(row.adapter in asked for row in good):
        reasons = "; ".join(f"{row.task} / {row.encoder} / {row.adapter}: {why}" for row, why in skipped.items())
        raise ConfigError(f"nothing to run: {reasons}")
    places = locate(sweep, good, console, make=make)
    cells: dict[str, CellSpec] = {}
    labels: dict[str, str] = {}
    for row in good:
        for cell in cells_of(row, sweep, places[task_class(row.task).cohort]):
            cells.setdefault(cell.key(), cell)
            labels.setdefault(cell.row(), row.label)
    return Plan(list(cells.values()), places, skipped, labels)


def show_plan(sweep: Sweep) -> None:
    """Prints the cells of a request and why some pairs are left out; runs and makes nothing."""
    console = Console()
    plan = make_plan(sweep, console, make=False)
    table = Table("task", "encoder", "adapter", "seeds", "epochs", "cohort")
    grouped: dict[str, list[CellSpec]] = {}
    for cell in plan.cells:
        grouped.setdefault(cell.row(), []).append(cell)
    for row, cells in grouped.items():
        first, label = cells[0], plan.labels[row]
        seeds = ",".join(str(cell.seed) for cell in cells)
        mark = "PHANTOM" if first.cohort.phantom else "real"
        adapter = f"{first.adapter}: {label}" if label else first.adapter
        texts = (first.task, first.encoder, adapter, seeds, str(first.train.epochs), mark)
        table.add_row(*(Text(one_line(text)) for text in texts))
    console.print(table)
    console.print(f"{len(plan.cells)} cells")
    show_skipped(plan, console)


def show_skipped(plan: Plan, console: Console) -> None:
    """One line per pair that is left out."""
    for row, reason in plan.skipped.items():
        name = f"{row.adapter} ({row.label})" if row.label else row.adapter
        say(console, f"skipped {row.task} / {row.encoder} / {name}: {reason}")


NARROW = ("encoder", "adapter", "F1 macro", "AUC", "trainable")
WIDE = (*NARROW[:3], "F1 weighted", *NARROW[3:5], "train/s", "infer/s", "step MB", "backend", "seeds")
WIDE_COLUMNS = 150
ABSENT = ("F1 weighted", "AUC")
BRIEF = {"F1 macro": "f1_macro", "F1 weighted": "f1_weighted", "AUC": "auc_macro"}


def brief(metric: tuple[float | None, float | None, float | None] | None) -> str:
    """A metric with its interval, short enough for 80 columns.

    Example:
        >>> brief((0.384, 0.247, 0.526))
        '0.384 [.25-.53]'
    """
    if metric is None or metric[0] is None:
        return "-"
    value, low, high = metric
    if low is None or high is None:
        return f"{value:.3f}"
    ends = (f"{end:.2f}".removeprefix("0") for end in (low, high))
    return f"{value:.3f} [{'-'.join(ends)}]"


def show_board(found: Sequence[BoardRow], console: Console | None = None) -> None:
    """The board on the terminal, one table per task and cohort; a wide terminal shows costs too."""
    console = console or Console()
    columns = WIDE if console.width >= WIDE_COLUMNS else NARROW
    groups: dict[tuple[bool, str, str, str], list[BoardRow]] = {}
    for row in found:
        groups.setdefault(row.section, []).append(row)
    for members in groups.values():
        failing = any(row.status != "success" for row in members)
        primary = members[0].first.primary
        shown = columns
        if primary not in BRIEF.values():  # a dense task has neither F1 nor AUC
            shown = tuple(primary if name == "F1 macro" else name for name in columns if name not in ABSENT)
        names = (*shown, "status") if failing else shown
        table = Table(title=Text(one_line(members[0].title)), title_justify="left", padding=(0, 1, 0, 0), box=None)
        for name in names:
            table.add_column(
                Text(one_line(name)), overflow="fold", no_wrap=name in ("F1 macro", "F1 weighted", "AUC", "trainable")
            )
        for row in members:
            texts = dict(zip(COLUMNS, cells_of_row(row), strict=True))
            texts |= {name: brief(row.metrics.get(metric)) for name, metric in BRIEF.items()}
            texts[primary] = brief(row.metrics.get(primary))
            table.add_row(*(Text(one_line(texts[name])) for name in names))
        console.print(table)
        for warning in dict.fromkeys(row.warning for row in members if row.warning):
            say(console, f"{warning} in the test split; the intervals of this table are too narrow")
        _show_diagnostics(members, console)
        console.print()


def _show_diagnostics(members: Sequence[BoardRow], console: Console) -> None:
    """Stages and routing of the rows that have any, one line per fact, since they are long."""
    for row in members:
        for name, text in zip(DIAGNOSTIC_COLUMNS, diagnostic_cells(row.cells), strict=False):
            if text != "-":
                say(console, f"{row.adapter}: {name}: {text}")


def say(console: Console, text: str) -> None:
    """One line as it is: foreign names and messages are neither markup nor control sequences.

    A terminal that is too narrow for it gets several, broken between words; a file or pipe always gets one.
    """
    line = one_line(text)
    parts = textwrap.wrap(line, console.width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    for part in parts if console.is_terminal else [line]:
        console.print(part, markup=False, highlight=False, soft_wrap=True)


def fitted(left: str, doing: Sequence[str], width: int) -> str:
    """What a progress line says beside its bar, in whole parts that fit the width.

    Args:
        left: Time left; empty if that is not known.
        doing: What each worker does.
        width: Columns.

    Example:
        >>> fitted("2 min left", ["a/lora seed 0: train 5%", "a/vpt seed 0: train 9%"], 44)
        '2 min left | a/lora seed 0: train 5% | +1'
    """
    for shown in range(len(doing), -1, -1):
        more = [f"+{len(doing) - shown}"] if 0 < shown < len(doing) else []
        text = " | ".join([*filter(None, [left]), *doing[:shown], *more])
        if len(text) <= width:
            return text
    return ""


class Display:
    """One progress display: the sweep, what each worker does now, and how long is left.

    Args:
        console: Where it is shown; without a terminal, one line per finished cell.
        cells: What will run.
        jobs: Workers at a time.
    """

    def __init__(self, console: Console, cells: Sequence[CellSpec], jobs: int) -> None:
        self.console, self.jobs = console, jobs
        self.left = {cell.key(): cell for cell in cells}
        self.spent: dict[tuple[str, str], list[float]] = {}
        self.started = time.monotonic()
        bar = max(5, min(40, console.width // 4))
        self.room = console.width - bar - len(f"cells {len(cells)}/{len(cells)}") - 4
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.total: TaskID = self.progress.add_task("cells", total=len(cells), note="")

    def remaining(self, running: Sequence[Running]) -> float | None:
        """Seconds left, from the cells of the same task and adapter that have ended; ``None`` before the first."""
        if not self.spent:
            return None
        overall = statistics.fmean(value for values in self.spent.values() for value in values)
        ahead = sum(
            statistics.fmean(self.spent.get((cell.task, cell.adapter), [overall])) for cell in self.left.values()
        )
        busy = sum(min(time.monotonic() - worker.started, overall) for worker in running)
        return max(ahead - busy, 0.0) / self.jobs

    def tick(self, running: Sequence[Running]) -> None:
        """Shows what runs now."""
        doing = [
            one_line(f"{w.job.spec.task}/{w.job.spec.adapter} seed {w.job.spec.seed}: {w.stage} {w.share:.0%}")
            for w in running
        ]
        left = self.remaining(running)
        known = f"about {clock(left)} left" if left is not None else ""
        self.progress.update(self.total, note=fitted(known, doing, self.room))

    def finished(self, result: CellResult) -> None:
        """Counts a stored result; says so at once if it failed."""
        spec = result.spec
        self.left.pop(result.key, None)
        self.spent.setdefault((spec.task, spec.adapter), []).append(sum(result.timing.values()) or 1.0)
        self.progress.advance(self.total)
        if result.status != "success" or not self.console.is_terminal:
            metric = result.metrics.get(result.primary)
            value = f"{result.primary} {metric.value:.3f}" if metric and metric.value is not None else result.message
            say(
                self.console,
                f"{result.status} {spec.task} / {spec.encoder} / {spec.adapter} seed {spec.seed}: {value} "
                f"({sum(result.timing.values()):.0f} s, {len(self.left)} left)",
            )


def clock(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> clock(42), clock(3700)
        ('42 s', '1 h 01 min')
    """
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def sweep_and_show(sweep: Sweep, *, fresh: bool, command: str, verbose: bool = False) -> bool:
    """Runs what is missing, shows the table, writes the leaderboard.

    Args:
        sweep: The request.
        fresh: Run finished cells again.
        command: Stands in the leaderboard.
        verbose: Workers log more.

    Returns:
        Whether any cell of the sweep failed, or could not be stored.
    """
    console = Console()
    store = ResultStore(sweep.results)
    store.check_writable()
    plan = make_plan(sweep, console)
    show_skipped(plan, console)
    stored = {} if fresh else {cell.key(): verified(store.path(cell), store.get(cell)) for cell in plan.cells}
    kept = {key for key, result in stored.items() if result is not None and result.status == "success"}
    missing = [cell for cell in plan.cells if cell.key() not in kept]
    if kept:
        console.print(f"{len(kept)} of {len(plan.cells)} cells are done already", highlight=False)
    if not missing:
        end_fork_server()
    failed, stopped = [], ""
    try:
        failed = _run(missing, plan, sweep, store, console, verbose) if missing else []
    except StorageError as error:  # what was stored is shown all the same
        stopped = str(error)
    keys = {cell.key() for cell in plan.cells}
    board = board_rows([sweep.results])
    show_board([row for row in board if any(cell.key in keys for cell in row.cells)], console)
    show_left_out([cell for row in board for cell in row.cells if cell.key in keys], console)
    folder = Path() if sweep.results == DEFAULT_RESULTS else sweep.results
    try:
        text, data = write_board(board, folder, command, read_operations([sweep.results]))
        say(console, f"written: {sweep.results}/, {text}, {data}")
    except MedgraftError as error:
        stopped = stopped or str(error)
    for result in failed:
        spec = result.spec
        log = f" (log: {sweep.results / result.log})" if result.log else ""
        say(
            console,
            f"{result.status}: {spec.task} / {spec.encoder} / {spec.adapter} seed {spec.seed}: {result.message}{log}",
        )
    if stopped:
        say_error(f"error: {stopped}")
    return bool(failed or stopped)


def show_left_out(results: Sequence[CellResult], console: Console) -> None:
    """One line per task on what was not used, and why: rows of tables, then samples that cannot be read."""
    told: dict[str, None] = {}
    for result in results:
        reasons = {**(result.data.get("reader") or {}).get("skipped", {}), **result.data.get("left_out", {})}
        unread = result.data.get("unreadable_reasons", {})
        text = "; ".join(f"{reason}: {count}" for reason, count in [*reasons.items(), *unread.items()] if count)
        if text:
            told[f"left out of {result.spec.task}: {text}"] = None
    for line in told:
        say(console, line)


def _run(
    missing: Sequence[CellSpec], plan: Plan, sweep: Sweep, store: ResultStore, console: Console, verbose: bool
) -> list[CellResult]:
    # Workers on one GPU would share its memory and each other's timings.
    alone = sweep.jobs is None and any(cell.device != "cpu" for cell in missing)
    jobs = 1 if alone else min(worker_count(sweep), len(missing))
    display = Display(console, missing, jobs)
    level = logging.INFO if verbose else logging.WARNING
    launcher = Launcher(store, plan.cohorts, jobs, sweep.timeout, level)
    with display.progress:
        done = launcher.run(missing, Events(display.tick, display.finished))
    return [result for result in done if result.status != "success"]
