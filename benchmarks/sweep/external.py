"""Which other cohorts the grafts of a sweep are tested on: names to tasks, what they share, where they are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from medgraft.benchmarks.board.terminal import say
from medgraft.benchmarks.cell.resolved import ResolvedRow, Resolver
from medgraft.benchmarks.cohorts import places
from medgraft.benchmarks.external.results import external_path, read_external
from medgraft.benchmarks.external.shared import labels_in_common
from medgraft.benchmarks.external.spec import ExternalSpec, ExternalTest
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.spec import CellSpec, CohortId
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.sweep.recipe import task_options
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.sweep.rows import Row
from medgraft.benchmarks.sweep.settling import root_of
from medgraft.cohort import cohort_class
from medgraft.errors import ConfigError, DataError, MedgraftError, UnknownNameError
from medgraft.files.content import announcing, verifying
from medgraft.objective import objective_name
from medgraft.plugins import discover
from medgraft.task import Task, TaskData
from medgraft.task.names import every_task, is_task, resolve_task

Candidates = Mapping[str, Mapping[str, Task]]
"""What ``--test-on`` names -> tasks that may be meant, by name; one where a task was named."""


def other_tasks(sweep: Sweep, resolver: Resolver) -> Candidates:
    """The tasks that ``--test-on`` may mean: the one of that name, or those that read the cohort of that name.

    Raises:
        UnknownNameError: There is neither.
    """
    found: dict[str, dict[str, Task]] = {}
    for name in sweep.test_on:
        if is_task(name, strict=True):
            names: Sequence[str] = [name]
        else:
            names = [each for each in every_task() if resolver.task_class(each).cohort == name]
        if not names:
            known = [*discover("task"), *discover("cohort")]
            raise UnknownNameError("task or cohort in --test-on", name, known)
        found[name] = {each: resolver.task(each, task_options(sweep, each)) for each in names}
    if sweep.match and not found:
        raise ConfigError("--match says which classes of another cohort are the same; name that with --test-on")
    return found


def cohorts_of(tasks: Candidates) -> list[str]:
    """Cohorts that these tasks read."""
    return list(dict.fromkeys(places.data_of(task.cohort) for each in tasks.values() for task in each.values()))


def external_tests(
    sweep: Sweep,
    rows: Mapping[Row, ResolvedRow],
    cohorts: Mapping[str, places.Cohort],
    tasks: Candidates,
    console: Console,
    *,
    make: bool,
) -> tuple[dict[str, list[ExternalTest]], list[str]]:
    """The tests of each task's grafts.

    Args:
        sweep: The request.
        rows: What is trained.
        cohorts: Where it is trained.
        tasks: See :func:`other_tasks`.
        console: Where the making of a phantom is announced.
        make: Make missing phantoms; otherwise nothing is read, and no test is planned.

    Returns:
        Task -> its tests, and why others are not tested on something, in words.

    Raises:
        ConfigError: Nothing is tested on a cohort that was named.
        DataError: A folder is not what its task reads.
    """
    tests: dict[str, list[ExternalTest]] = {}
    untested: list[str] = []
    if not tasks or not make:
        return tests, untested
    homes = {row.task: each.task for row, each in rows.items()}
    with verifying(sweep.verify), announcing(console.print):
        at_home = {name: task.load(cohorts[task.cohort].root).check() for name, task in homes.items()}
        for asked, possible in tasks.items():
            read = _Reader(sweep, console)
            reasons: list[str] = []
            for name, home in homes.items():
                try:
                    test, told = _test(home, at_home[name], possible, read)
                    if test.root == cohorts[home.cohort].root:
                        raise DataError(f"{test.root} holds the very files that it is trained on")
                except DataError as error:
                    reasons.append(f"{name} is not tested on {asked}: {error}")
                    continue
                tests.setdefault(name, []).append(test)
                say(console, f"{name} is tested on {test.spec.task}: {told}")
            if len(reasons) == len(homes):
                raise ConfigError(f"--test-on {asked}: {'; '.join(reasons)}")
            untested += reasons
    return tests, untested


class _Reader:
    """Reads the tasks of another cohort, each once."""

    def __init__(self, sweep: Sweep, console: Console) -> None:
        self.sweep, self.console = sweep, console
        self._read: dict[str, tuple[TaskData, Path, CohortId]] = {}

    def __call__(self, name: str, task: Task) -> tuple[TaskData, Path, CohortId]:
        if name not in self._read:
            root = root_of(task.cohort, self.sweep, self.console, make=True)
            assert root is not None
            data = task.load(root).check()
            place = places.cohort_at(task.cohort, root, {name: data})
            self._read[name] = data, root, place.of(name)
        return self._read[name]


def _test(home: Task, at_home: TaskData, possible: Mapping[str, Task], read: _Reader) -> tuple[ExternalTest, str]:
    """The first of some tasks that a task's grafts can be tested on, and what is compared, in words.

    Raises:
        DataError: There is none; the message says why.
    """
    kind = objective_name(home.objective)
    alike = sorted(possible.items(), key=lambda each: objective_name(each[1].objective) != kind)
    reasons: list[str] = []
    for name, task in alike:
        try:
            _check_strangers(home.cohort, task.cohort)
            data, root, cohort = read(name, task)
            shared = labels_in_common(home, at_home, task, data, read.sweep.match)
        except DataError as error:
            reasons.append(str(error) if len(alike) == 1 else f"{name}: {error}")
            continue
        spec = ExternalSpec(
            task=name,
            task_options=task.config.recorded(),
            task_version=task.version,
            cohort=cohort,
            match=read.sweep.match,
            plugins=_foreign(name),
        )
        return ExternalTest(spec=spec, root=root), shared.told()
    raise DataError("; ".join(dict.fromkeys(reasons)))


def _foreign(task: str) -> dict[str, str]:
    plugin = resolve_task(task).plugin
    return {} if plugin.builtin else {plugin.distribution: plugin.version}


def _check_strangers(home: str, away: str) -> None:
    """Raises :class:`DataError` where persons of one cohort may be in the other."""
    names = places.data_of(home), places.data_of(away)
    if names[0] == names[1]:
        raise DataError(f"it is trained on {home}, so {away} is no other cohort")
    origins = [_drawn_from(name) or name for name in names]
    if origins[0] == origins[1]:
        raise DataError(f"images of {names[0]} and of {names[1]} are both of {origins[0]}, maybe of the same persons")


def _drawn_from(name: str) -> str:
    try:
        return cohort_class(name).drawn_from
    except MedgraftError:
        return ""


def untested_cells(
    cells: Iterable[CellSpec], tests: Mapping[str, Sequence[ExternalTest]], store: ResultStore
) -> set[str]:
    """Keys of cells that must run, again where they are finished, so that what is to be tested is.

    Args:
        cells: Of the sweep.
        tests: Key of a cell -> its tests.
        store: Results.
    """
    return {cell.key() for cell in cells if any(not _is_done(cell, test, store) for test in tests.get(cell.key(), ()))}


def _is_done(cell: CellSpec, test: ExternalTest, store: ResultStore) -> bool:
    try:
        return read_external(external_path(store.path(cell), test.spec.mark())).status == "success"
    except (UnreadableError, OSError):
        return False
