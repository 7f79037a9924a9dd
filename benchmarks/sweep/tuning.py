"""``--tune`` in a sweep: the searches of all rows first, then the cells with what was chosen."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from medgraft.benchmarks.board.terminal import say
from medgraft.benchmarks.launch.cells import Events, Running
from medgraft.benchmarks.results.chosen import Tuning
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.schedule.allowance import Allowance
from medgraft.benchmarks.sweep.display import clock, fitted
from medgraft.benchmarks.sweep.plan import Plan, resources_of
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.tuning.space import size_of
from medgraft.benchmarks.tuning.study import RowStudy
from medgraft.benchmarks.tuning.trial import FITS
from medgraft.benchmarks.tuning.trials import TrialRuns
from medgraft.commands.plain_text import one_line
from medgraft.launcher import make_launcher
from medgraft.metric.judging import metric_of
from medgraft.objective import objective_class
from medgraft.task.names import build_task


def tuned(
    plan: Plan, sweep: Sweep, store: ResultStore, console: Console, *, seconds: float, fresh: bool, verbose: bool
) -> Plan | None:
    """The plan with options that trials have chosen on validation samples; runs those that have not run.

    Args:
        plan: With the rows' untuned options.
        sweep: The request.
        store: Where trials are kept.
        console: Where it is shown.
        seconds: That the trials may take.
        fresh: Run trials again that have run.
        verbose: Workers log more.

    Returns:
        The plan; ``None`` where the seconds were over before all trials had ended.

    Raises:
        StorageError: A trial cannot be stored.
        ConfigError: optuna is not installed.
    """
    if not plan.spaces:
        return plan
    studies = {row: _study(row, plan, sweep, store, fresh=fresh) for row in plan.spaces}
    device = plan.cells[0].device
    launcher = make_launcher(sweep.launcher, sweep.options.get(sweep.launcher, {}), resources_of(sweep, device))
    allowance = Allowance(seconds)
    runs = TrialRuns(store, plan.cohorts, launcher, sweep.launcher, verbose=verbose, allowance=allowance)
    shown = TrialDisplay(console, list(studies.values()))
    with shown.progress:
        runs.search(list(studies.values()), Events(shown.tick, shown.finished))
    if runs.left:
        return None
    tunings = {row: study.outcome() for row, study in studies.items()}
    for row, tuning in tunings.items():
        say(console, in_words(studies[row].base, tuning, studies[row].resumed))
    return with_choices(plan, studies, tunings, sweep.tune)


def _study(row: str, plan: Plan, sweep: Sweep, store: ResultStore, *, fresh: bool) -> RowStudy:
    base = next(cell for cell in plan.cells if cell.row() == row)
    task = build_task(base.task, base.task_options)
    better = metric_of(task.primary, objective_class(task.objective).metrics).higher_is_better
    return RowStudy(base, plan.spaces[row], sweep.tune, task.primary, better, store, fresh=fresh)


def with_choices(plan: Plan, studies: dict[str, RowStudy], tunings: dict[str, Tuning], trials: int) -> Plan:
    """The plan with the cells of each searched row made of what its search has chosen.

    Args:
        plan: With the rows' untuned options.
        studies: :meth:`CellSpec.row` of the untuned cells -> their search.
        tunings: The same -> what it came to.
        trials: That were asked for.
    """
    cells: dict[str, CellSpec] = {}
    made = replace(plan, cells=[], labels=dict(plan.labels), external=dict(plan.external), tunings={})
    for cell in plan.cells:
        row = cell.row()
        if row in studies:
            chosen = studies[row].spec_of(tunings[row].chosen)
            after = chosen.model_copy(update={"seed": cell.seed, "tune": trials})
            made.labels.setdefault(after.row(), plan.labels.get(row, ""))
            made.external[after.key()] = plan.external.get(cell.key(), [])
            made.tunings[after.key()] = tunings[row]
            cell = after
        cells.setdefault(cell.key(), cell)
    made.cells = list(cells.values())
    return made


def in_words(base: CellSpec, tuning: Tuning, resumed: int) -> str:
    """One line on what a search came to."""
    names = f"tuned {base.task} / {base.encoder} / {base.adapter}: {tuning.counted} trials"
    if size_of(tuning.space) <= tuning.asked:
        names += f", all {size_of(tuning.space)} choices that there are"
    done = f" ({resumed} of them there already)" if resumed else ""
    changed = {each.name: tuning.chosen[each.name] for each in tuning.space if tuning.chosen[each.name] != each.default}
    values = ", ".join(f"{name}={value}" for name, value in changed.items()) or "the untuned values"
    if tuning.best_score is None:
        return f"{names}{done} in {clock(tuning.seconds)}, none with a {tuning.metric} on validation samples; {values}"
    before = "undefined" if tuning.default_score is None else f"{tuning.default_score:.3f}"
    score = f"{tuning.metric} on validation samples {before} untuned, {tuning.best_score:.3f} with {values}"
    return f"{names}{done} in {clock(tuning.seconds)}; {score}"


class TrialDisplay:
    """A line of progress over all trials, and one line for each that failed.

    Args:
        console: Where it is shown.
        studies: The searches.
    """

    def __init__(self, console: Console, studies: Sequence[RowStudy]) -> None:
        self.console, self.started = console, time.monotonic()
        total = sum(min(study.asked, size_of(study.space)) for study in studies)
        self.studies = studies
        bar = max(5, min(40, console.width // 4))
        self.room = console.width - bar - len(f"trials {total}/{total}") - 4
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.total = self.progress.add_task("trials", total=total, note="")

    def tick(self, running: Sequence[Running]) -> None:
        """Shows what runs now."""
        doing = [one_line(f"{w.job.spec.task}/{w.job.spec.adapter}: {w.doing} {w.share:.0%}") for w in running]
        done = sum(study.counted for study in self.studies)
        self.progress.update(self.total, completed=done, note=fitted("", doing, self.room))

    def finished(self, result: CellResult, seconds: float) -> None:
        """Says of a trial that failed that it did, and why."""
        spec = result.spec
        where = f"{spec.task} / {spec.encoder} / {spec.adapter}"
        if not result.training.get(FITS, True):
            say(self.console, f"not among the trials of {where}: {result.message}")
        elif result.status != "success":
            say(self.console, f"{result.status} in a trial of {where}: {result.message}")
