"""``--download``: data that tasks can fetch, fetched before anything is planned and never unasked."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from medgraft.benchmarks.board.terminal import say
from medgraft.benchmarks.cell.resolved import Resolver
from medgraft.benchmarks.sweep.checks import check_names
from medgraft.benchmarks.sweep.recipe import task_options
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.errors import ConfigError
from medgraft.task import Task
from medgraft.task.names import expand_tasks


def fetch(sweep: Sweep, console: Console) -> None:
    """Fetches what is missing of the data of the tasks that can; names are checked first.

    Args:
        sweep: The request.
        console: Where files are announced.

    Raises:
        ConfigError: No task of the request can, or no folder is named for what it would fetch.
        DataError: There is no network, or what came is not what was published.
    """
    resolver = Resolver()
    check_names(sweep, resolver)
    names = expand_tasks(sweep.tasks or ())
    able = [name for name in names if resolver.task_class(name).download is not Task.download]
    if not able:
        raise ConfigError(
            "--download is for tasks whose data can be fetched, such as medmnist:pathmnist; leave it out, or name one"
        )
    tasks = [resolver.task(name, task_options(sweep, name)) for name in able]
    if homeless := [task.cohort for task in tasks if task.cohort not in sweep.data]:
        raise ConfigError(f"--download puts files into a folder of yours; name one: --data {homeless[0]}=FOLDER")
    for task in tasks:
        task.download(Path(sweep.data[task.cohort]).expanduser(), lambda line: say(console, line))
