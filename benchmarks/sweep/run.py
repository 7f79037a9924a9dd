"""A sweep from request to leaderboard, and what it shows on the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from medgraft.benchmarks.board.finished_rows import FinishedRow, FinishedRows
from medgraft.benchmarks.board.leaderboard import write_board
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.board.terminal import show_board
from medgraft.benchmarks.garbage import uncollected
from medgraft.benchmarks.kernels.results import read_operations
from medgraft.benchmarks.launch.cells import Events, Running, Runs
from medgraft.benchmarks.launch.unfinished import forget
from medgraft.benchmarks.mirror.live import SharedResults
from medgraft.benchmarks.mirror.place import local_folders
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore, StorageError
from medgraft.benchmarks.results.verification import succeeded
from medgraft.benchmarks.schedule.allowance import Allowance
from medgraft.benchmarks.schedule.durations import Durations, earlier_durations
from medgraft.benchmarks.schedule.order import ordered
from medgraft.benchmarks.suite.membership import misfit_of_spec
from medgraft.benchmarks.suite.ranks import boards_of
from medgraft.benchmarks.suite.text import show_suite
from medgraft.benchmarks.sweep.checks import check_caches, check_events, check_launcher, check_traces
from medgraft.benchmarks.sweep.display import Display
from medgraft.benchmarks.sweep.external import untested_cells
from medgraft.benchmarks.sweep.keeping import keep_best, kept_folders, without_graft
from medgraft.benchmarks.sweep.plan import Plan, make_plan, resources_of
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.tuning import tuned
from medgraft.benchmarks.watch.journal import Journal, planned
from medgraft.benchmarks.watch.recording import Recording
from medgraft.benchmarks.watch.time_left import clock
from medgraft.benchmarks.watch.traces import Traces
from medgraft.commands.console import say as say_error
from medgraft.commands.layout import say, show_table
from medgraft.errors import MedgraftError
from medgraft.launcher import launcher_class, make_launcher
from medgraft.suites import find_suite

DEFAULT_RESULTS = Path("results")
SHOWN_GRAFTS = 8
"""Folders of kept grafts that are named at the end of a sweep."""


def show_plan(sweep: Sweep) -> None:
    """Prints the cells of a request and why some pairs are left out; runs and makes nothing.

    Raises:
        SharedStorageError: Results are at a URL that does not answer; what it has is read first, and nothing is sent.
    """
    console = Console()
    if sweep.shared_results:
        local_folders([Path(sweep.shared_results)])
    plan = make_plan(sweep, console, make=False)
    grouped: dict[str, list[CellSpec]] = {}
    rows: list[tuple[str, ...]] = []
    for cell in plan.cells:
        grouped.setdefault(cell.row(), []).append(cell)
    for row, cells in grouped.items():
        first, label = cells[0], plan.labels[row]
        seeds = ",".join(str(cell.seed) for cell in cells)
        mark = "PHANTOM" if first.cohort.phantom else "real"
        adapter = f"{first.adapter}: {label}" if label else first.adapter
        texts = (first.task, first.encoder, adapter, seeds, str(first.train.epochs), mark)
        rows.append(texts)
    show_table(console, ("task", "encoder", "adapter", "seeds", "epochs", "cohort"), rows, 3)
    console.print(f"{len(plan.cells)} cells")
    say(console, expected(plan, sweep))
    if plan.spaces:
        say(console, f"before them {sweep.tune} trials at most of each of {len(plan.spaces)} rows")
    show_skipped(plan, console)


def expected(plan: Plan, sweep: Sweep) -> str:
    """How long the cells of a plan that have no result will take, in a sentence."""
    done = finished_before(plan.cells, ResultStore(sweep.results))
    ahead = [cell for cell in plan.cells if cell.key() not in done]
    if not ahead:
        return "all have results already"
    durations = earlier_durations(sweep.results)
    launcher = make_launcher(sweep.launcher, sweep.options.get(sweep.launcher, {}), resources_of(sweep))
    at_once = max(1, min(launcher.slots(), sweep.jobs or len(ahead), len(ahead)))
    seconds = durations.until_all_end(ordered(ahead, sweep.order, durations), at_once)
    if seconds is None:
        return f"how long they take is not known: {sweep.results} has no result yet to go by"
    return f"{len(ahead)} have no result yet; {at_once} at a time they take about {clock(seconds)}"


def show_skipped(plan: Plan, console: Console) -> None:
    """One line per pair that is left out."""
    for row, reason in plan.skipped.items():
        name = f"{row.adapter} ({row.label})" if row.label else row.adapter
        say(console, f"skipped {row.task} / {row.encoder} / {name}: {reason}")
    for reason in plan.untested:
        say(console, reason)
    for row in plan.untuned:
        say(console, f"{row.task} / {row.encoder} / {row.adapter} has nothing to tune and stands as it is")


def sweep_and_show(sweep: Sweep, *, fresh: bool, command: str, verbose: bool = False) -> bool:
    """Runs what is missing and shows it, with results in a folder or, through a folder, at a URL.

    As :func:`run_and_show`, which has the arguments.
    """
    if not sweep.shared_results:
        return run_and_show(sweep, fresh=fresh, command=command, verbose=verbose)
    with SharedResults(sweep.shared_results, sweep.results) as shared:
        return run_and_show(sweep, fresh=fresh, command=command, verbose=verbose, shared=shared)


def run_and_show(
    sweep: Sweep, *, fresh: bool, command: str, verbose: bool = False, shared: SharedResults | None = None
) -> bool:
    """Runs what is missing, shows the table, writes the leaderboard.

    Args:
        sweep: The request.
        fresh: Run finished cells again.
        command: Stands in the leaderboard.
        verbose: Workers log more.
        shared: Takes the results as well, and has those of other sweeps.

    Returns:
        Whether any cell of the sweep failed, or could not be stored.
    """
    console = Console()
    store = ResultStore(sweep.results)
    store.check_writable()
    check_events(sweep)
    check_caches(sweep)
    check_traces(sweep)
    check_launcher(sweep)
    allowance = allowance_of(sweep)
    plan = make_plan(sweep, console)
    show_skipped(plan, console)
    if sweep.tune:
        tuned_plan = tuned(plan, sweep, store, console, seconds=allowance.left(), fresh=fresh, verbose=verbose)
        if tuned_plan is None:
            say(console, f"{allowance.in_words()} ended the search for options; the same command goes on from there")
            return False
        plan = tuned_plan
    kept = set[str]() if fresh else finished_before(plan.cells, store)
    finished = [cell for cell in plan.cells if cell.key() in kept]
    kept -= without_graft(finished, store, sweep.keep) | untested_cells(finished, plan.external, store)
    missing = [cell for cell in plan.cells if cell.key() not in kept]
    for cell in missing if fresh else ():
        forget(store.root, cell.key())
    if kept:
        console.print(f"{len(kept)} of {len(plan.cells)} cells are done already", highlight=False)
    if not missing:
        launcher_class(sweep.launcher).cool_down()
    failed, stopped = [], ""
    try:
        recording = Recording(store, sweep.json_logs, Traces(command) if sweep.traces else None)
        failed = _run(missing, plan, sweep, recording, console, allowance, verbose, shared) if missing else []
    except StorageError as error:  # what was stored is shown all the same
        stopped = str(error)
    if sweep.keep == "best":
        keep_best(plan.cells, store)
    cited(sweep, plan, store)
    if shared is not None:
        stopped = stopped or shared.settle()
    keys = {cell.key() for cell in plan.cells}
    board = board_rows([sweep.results])
    show_board([row for row in board if any(cell.key in keys for cell in row.cells)], console)
    show_left_out([cell for row in board for cell in row.cells if cell.key in keys], console)
    folder = Path() if sweep.results == DEFAULT_RESULTS else sweep.results
    try:
        ranks = boards_of(board)
        shown = BoardOptions(command, read_operations([sweep.results]), suites=ranks)
        text, data = write_board(board, folder, shown)
        show_suite(ranks if sweep.suite else (), console)
        say(console, f"written: {sweep.shared_results or f'{sweep.results}/'}, {text}, {data}")
    except MedgraftError as error:
        stopped = stopped or str(error)
    if sweep.keep != "none":
        show_kept(kept_folders(plan.cells, store), console)
    show_failed(failed, sweep.results, console)
    if stopped:
        say_error(f"error: {stopped}")
    return bool(failed or stopped)


def show_kept(grafts: Sequence[Path], console: Console) -> None:
    """Where trained grafts were kept: a few by name, and how many more."""
    for graft in grafts[:SHOWN_GRAFTS]:
        say(console, f"kept: {graft}")
    if len(grafts) > SHOWN_GRAFTS:
        say(console, f"kept: {len(grafts) - SHOWN_GRAFTS} more, beside their results")


def show_failed(results: Sequence[CellResult], folder: Path, console: Console) -> None:
    """One line per cell that failed, with its log where it left one."""
    for result in results:
        spec, log = result.spec, f" (log: {folder / result.log})" if result.log else ""
        where = f"{spec.task} / {spec.encoder} / {spec.adapter} seed {spec.seed}"
        say(console, f"{result.status}: {where}: {result.message}{log}")


def finished_before(cells: Iterable[CellSpec], store: ResultStore) -> set[str]:
    """Keys of the cells that have succeeded and whose results are sound."""
    with uncollected():
        return {cell.key() for cell in cells if succeeded(store.path(cell))}


def show_left_out(results: Sequence[CellResult], console: Console) -> None:
    """One line per task on what was not used, and why: rows of tables, then samples that cannot be read."""
    lines: dict[str, None] = {}
    for result in results:
        reasons = {**(result.data.get("reader") or {}).get("skipped", {}), **result.data.get("left_out", {})}
        unread = result.data.get("unreadable_reasons", {})
        text = "; ".join(f"{reason}: {count}" for reason, count in [*reasons.items(), *unread.items()] if count)
        if text:
            lines[f"left out of {result.spec.task}: {text}"] = None
    for line in lines:
        say(console, line)


def allowance_of(sweep: Sweep) -> Allowance:
    """What a sweep that starts now may spend, with what earlier results say where that is needed."""
    needed = sweep.max_hours is not None or sweep.order != "plan"
    known = earlier_durations(sweep.results) if needed else Durations()
    return Allowance(None if sweep.max_hours is None else sweep.max_hours * 3600, sweep.max_cells, known)


def _run(
    missing: Sequence[CellSpec],
    plan: Plan,
    sweep: Sweep,
    recording: Recording,
    console: Console,
    allowance: Allowance,
    verbose: bool,
    shared: SharedResults | None,
) -> list[CellResult]:
    """Runs what is missing by the launcher; the results that are no success."""
    store = recording.store
    resources = resources_of(sweep, missing[0].device)
    launcher = make_launcher(sweep.launcher, sweep.options.get(sweep.launcher, {}), resources)
    at_once = max(1, min(launcher.slots(), sweep.jobs or len(missing), len(missing)))
    durations = allowance.durations
    if sweep.order != "plan" and not durations:
        say(console, f"--order {sweep.order}: {sweep.results} has no result yet that tells what takes long")
    missing = ordered(missing, sweep.order, durations)
    display = Display(console, missing, at_once, durations)
    keep = sweep.keep != "none"
    runs = Runs(
        store,
        plan.cohorts,
        launcher,
        sweep.launcher,
        verbose=verbose,
        keep=keep,
        external=plan.external,
        tunings=plan.tunings,
        suites=citing(sweep, plan),
        events=sweep.events(),
        turns=shared,
        allowance=allowance,
        checkpoint_every=sweep.checkpoint_every,
    )
    ahead = {cell.key() for cell in missing}
    kept = {key for cell in plan.cells if (key := cell.key()) not in ahead}
    facts = planned(plan.cells, plan.labels, kept, launcher=sweep.launcher, at_once=at_once, work=runs.work.name)
    rows, journal = FinishedRows(store, plan.cells, ahead), Journal(store.root, facts)

    def finished(result: CellResult, took: float) -> None:
        display.finished(result)
        journal.cell(result, took)
        if shared is not None:
            shared.stored(result)
        rows.add(result)

    def show(computed: Iterable[FinishedRow]) -> None:
        for row in computed:
            display.row(row)
            journal.row([cell.key() for cell in row.cells], row.metric)

    def tick(running: Sequence[Running]) -> None:
        display.tick(running)
        show(rows.computed())
        journal.beat()
        if shared is not None:
            shared.beat(journal.path)

    with recording.sweep(len(missing)), display.progress, journal.ending(runs.left):
        try:
            done = runs.run(missing, Events(tick, finished, recording.cell))
            show(rows.rest())
        finally:
            rows.close()
    if runs.left:
        say(console, f"{allowance.in_words()} left {len(runs.left)} cells undone; the same command goes on from there")
    return [result for result in done if result.status != "success"]


def citing(sweep: Sweep, plan: Plan) -> dict[str, list[str]]:
    """Key of each cell that is one of the sweep's suite -> that suite's id."""
    if not sweep.suite:
        return {}
    suite = find_suite(sweep.suite)
    return {cell.key(): [suite.id] for cell in plan.cells if not misfit_of_spec(suite, cell)}


def cited(sweep: Sweep, plan: Plan, store: ResultStore) -> None:
    """Has results that were there before cite the suite, too."""
    cells = {cell.key(): cell for cell in plan.cells}
    for key, suites in citing(sweep, plan).items():
        store.cite(cells[key], suites)
