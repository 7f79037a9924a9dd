"""The command ``inspect``: what a table or a folder of one's own is understood to be."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded
from medgraft.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from medgraft.benchmarks.cohorts.own.data import OwnData
    from medgraft.benchmarks.cohorts.own.inspection import Inspection
    from medgraft.benchmarks.tasks.own.own_data import OwnTask


def inspect(
    data: Annotated[
        Path,
        typer.Argument(
            help="A table (CSV or TSV), a folder with a folder for each class, or a file of MedMNIST (npz)."
        ),
    ],
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="OPTION=VALUE: label=dx, image=path, split=none, inputs=image.")
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the files that the table names, where they are not beside it.")
    ] = None,
    read: Annotated[int, typer.Option(help="Files to read whole, drawn from all.", min=0)] = 200,
    write: Annotated[
        Path | None, typer.Option(help="YAML file to write; its name becomes the task's, for --tasks FILE.")
    ] = None,
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the file of MedMNIST that is named, if it is not there.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Show what would be learnt from data of your own, and what may spoil it, before anything runs."""
    with guarded(debug=debug, resumes=False):
        from rich.console import Console

        console = Console(highlight=False)
        if data.suffix.lower() == ".npz":
            if set_ or root is not None or write is not None:
                raise ConfigError("--set, --root and --write are for tables and folders, not for files of MedMNIST")
            _inspect_medmnist(console, data, read, download=download)
            return
        if download:
            raise ConfigError(f"--download is for files of MedMNIST, such as pathmnist.npz, and {data} is none")
        _inspect_own(console, data, set_ or [], root, read, write)


def _inspect_own(
    console: Console, data: Path, assignments: list[str], root: Path | None, read: int, write: Path | None
) -> None:
    from medgraft.benchmarks.cohorts.own.inspection import inspected
    from medgraft.benchmarks.cohorts.own.task_file import write_task_file
    from medgraft.benchmarks.tasks.own.own import own_task

    task, place = own_task(data, assignments, root)
    samples, columns = task.read(place)
    settled = task.settled_on(samples, columns)
    grey = task.config.colour == "grey"
    facts = inspected(samples, read, colour=not grey)
    _show(console, settled, samples, facts, columns.unused)
    if write is not None:
        write_task_file(write, settled, place)
        console.print(f"written: {write}", markup=False, soft_wrap=True)
        _propose(console, samples.inputs, str(write))
        return
    given = f"{settled.cohort} --data {settled.cohort}={data}" + (f" --root {root}" if root is not None else "")
    for each in [*assignments, *(["colour=rgb"] if facts.coloured and grey else [])]:
        option = each.removeprefix(f"{settled.cohort}.")
        given += f" --set {shlex.quote(f'{settled.cohort}.{option}')}"
    _propose(console, samples.inputs, given)


def _inspect_medmnist(console: Console, path: Path, read: int, *, download: bool) -> None:
    from medgraft.benchmarks.board.terminal import say
    from medgraft.benchmarks.cohorts.medmnist.inspection import inspected_file, named
    from medgraft.task.names import build_task

    name, size = named(path)
    task = build_task(f"medmnist:{name}", {"size": size})
    if download:
        task.download(path.parent, lambda line: say(console, line))
    data = task.load(path.parent)
    kind, licence = data.provenance["task"], data.provenance["licence"]
    say(console, f"read as {task.objective} of {task.inputs[0]} ({kind} in MedMNIST's words; {licence})")
    _show_facts(console, inspected_file(data, read, path.stat().st_size), {}, f"{task.inputs[0]}s")
    option = f" --set medmnist:{name}.size={size}" if size != 28 else ""
    given = f"medmnist:{name} --data medmnist={shlex.quote(str(path.parent))}{option}"
    _propose(console, task.inputs, given)


def _show(console: Console, task: OwnTask, data: OwnData, facts: Inspection, unused: Any) -> None:
    from medgraft.benchmarks.board.terminal import say
    from medgraft.options import as_text

    roles = ("image", "label", "subject", "text", "split", "time", "event")
    options = task.config.model_dump()
    found = [f"{role} {as_text(options[role])}" for role in roles if role in options]
    found += ["in colour"] if task.config.colour == "rgb" else []
    say(console, f"read as {task.config.objective} of {' and '.join(data.inputs)}; {', '.join(found)}")
    if len(data.attributes.columns):
        kinds = [f"{name} ({data.attributes[name].nunique()} values)" for name in data.attributes.columns]
        say(console, f"attributes: {', '.join(kinds)}")
    for role, names in unused.items():
        say(console, f"not used: {', '.join(names)}, which could be {role}; --set {role}=COLUMN takes one")
    _show_facts(console, facts, data.left_out, "files")


def _show_facts(console: Console, facts: Inspection, left_out: Mapping[str, int], what: str) -> None:
    """Counts, sizes, what was left out for which reason, and what may spoil a result; ``what`` was looked at."""
    from medgraft.benchmarks.board.terminal import say

    _show_counts(console, facts)
    if facts.sizes:
        most = [f"{size} ({count})" for size, count in facts.sizes.most_common(5)]
        more = f" and {len(facts.sizes) - 5} other sizes" if len(facts.sizes) > 5 else ""
        say(console, f"sizes of {facts.looked_at} {what} that were read: {', '.join(most)}{more}")
    if facts.spacings:
        say(console, f"spacing in mm: {', '.join(f'{s} ({n})' for s, n in facts.spacings.most_common(5))}")
    if facts.words:
        low, median, high = facts.words
        say(console, f"words of a text: {low} to {high}, median {median}")
    for reason, count in [*left_out.items(), *facts.unreadable.items()]:
        say(console, f"left out: {count} with {reason}")
    for warning in facts.warnings:
        say(console, f"look at this: {warning}")


def _show_counts(console: Console, facts: Inspection) -> None:
    from rich.table import Table
    from rich.text import Text

    from medgraft.commands.plain_text import one_line
    from medgraft.task import SPLITS

    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("", *SPLITS, "all"):
        table.add_column(name, justify="left" if not name else "right")
    samples = [facts.samples[name][0] for name in SPLITS]
    subjects = [facts.samples[name][1] for name in SPLITS]
    for title, counts in (("samples", samples), ("subjects", subjects), *facts.classes.items()):
        table.add_row(Text(one_line(title, 40)), *(f"{count:,}" for count in counts), f"{sum(counts):,}")
    console.print(table)
    if facts.numbers:
        low, median, high = (f"{number:g}" for number in facts.numbers)
        seen = f"; the event was seen in {facts.events:,}" if facts.events is not None else ""
        console.print(f"{low} to {high}, median {median}{seen}")


def _propose(console: Console, inputs: Sequence[str], given: str) -> None:
    """A command to begin with, and encoders that read such samples."""
    from medgraft.benchmarks.board.terminal import say
    from medgraft.benchmarks.cohorts.own.proposals import encoders_for

    say(console, f"to begin with: medgraft run --adapters linear_probe,lora --tasks {given}")
    for name, why in encoders_for(inputs):
        say(console, f"  --encoders {name}: {why}")
