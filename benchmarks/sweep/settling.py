"""Tasks that learn from their data what they are, before rows are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console

from medgraft.benchmarks.board.terminal import say
from medgraft.benchmarks.cell.resolved import Resolver
from medgraft.benchmarks.cohorts import places as cohorts
from medgraft.benchmarks.sweep.recipe import task_options
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.benchmarks.tasks.own.own import below
from medgraft.benchmarks.tasks.own.table import Table
from medgraft.errors import ConfigError
from medgraft.launcher import Resources
from medgraft.options import as_text
from medgraft.task import Task
from medgraft.task.names import expand_tasks, is_task


def settled(sweep: Sweep, resolver: Resolver, console: Console, *, make: bool = True) -> Sweep:
    """The request with what the data decide among the options of its tasks, see :meth:`medgraft.task.Task.settled`.

    Args:
        sweep: The request.
        resolver: Looks names up.
        console: Where the making of a phantom is announced.
        make: Make a missing phantom; otherwise a task without data is as its class says.

    Raises:
        DataError: The data are not what a task reads.
    """
    options = dict(sweep.options)
    named = [name for name in sweep.test_on if is_task(name)]  # the others are cohorts, whose tasks know what they are
    for name in expand_tasks([*(sweep.tasks or ()), *named]):
        if resolver.task_class(name).settled is Task.settled:
            continue
        task = resolver.task(name, task_options(sweep, name))
        root = root_of(task.cohort, sweep, console, make=make)
        if root is not None:
            options[name] = _told(name, task, task.settled(root), console)
    return sweep.model_copy(update={"options": options})


def with_root(sweep: Sweep, root: Path) -> Sweep:
    """The request with the tables of ``--data table=TABLE`` seen from the folder of their files.

    Raises:
        ConfigError: The request has no such table.
        DataError: There is no such folder or table.
    """
    tables = {name: path for name, path in sweep.data.items() if name.partition(":")[0] == Table.cohort}
    if not tables:
        raise ConfigError(f"--root {root} is for --data table=TABLE, which was not given")
    options = dict(sweep.options)
    for name, path in tables.items():
        options[name] = {**options.get(name, {}), "table": below(root, path)}
    return sweep.model_copy(update={"options": options, "data": sweep.data | dict.fromkeys(tables, root)})


def _told(name: str, before: Task, after: Task, console: Console) -> dict[str, Any]:
    """The options that the data decided, said in a line: whoever reads it can say otherwise with ``--set``."""
    old, new = before.config.model_dump(), after.config.model_dump()
    said = [f"{option} {as_text(value)}" for option, value in new.items() if value != old.get(option)]
    if said:
        say(console, f"{name}: found {', '.join(said)} (--set {name}.OPTION=VALUE says otherwise)")
    return new


def root_of(cohort: str, sweep: Sweep, console: Console, *, make: bool) -> Path | None:
    """Folder of a cohort: the user's, or a phantom's; ``None`` where that is not to be made.

    Raises:
        DataError: There is no such folder.
    """
    if cohort in sweep.data:
        return cohorts.folder_of(cohort, sweep.data[cohort])
    if not make:
        return None
    entry = sweep.preset_entry().cohorts.get(cohort) or cohorts.default_entry(cohort)
    processes = Resources(sweep.jobs, sweep.threads, "cpu", sweep.timeout).processes()
    return cohorts.phantom(cohort, entry, processes, console.print).root
