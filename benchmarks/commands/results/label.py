"""The command ``label``: what a row adds, costs and reached, as Markdown and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded


def label(
    row: Annotated[str, typer.Argument(help="A row, as `medgraft show` takes it.")],
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders or URLs of results, in which it is looked for. Default: results."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for label.md and label.svg.")] = Path(),
    debug: Debug = False,
) -> None:
    """Write the label of a row: parameters by site, memory, speed, quality with intervals, and the data."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.mirror.place import local_folders
        from medgraft.benchmarks.sharing.finding import find
        from medgraft.benchmarks.sharing.label import write_label

        written = write_label(find(row, local_folders(results or [Path("results")])), out)
        typer.echo(f"written: {', '.join(map(str, written))}")
