"""The command ``show``: one row or cell of results, in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded


def show(
    row: Annotated[
        str,
        typer.Argument(help="Beginning of a key, KEY.json, a folder, ADAPTER, ENCODER/ADAPTER, TASK/ENCODER/ADAPTER."),
    ],
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders or URLs of results, in which it is looked for. Default: results."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="One seed of the row.")] = None,
    debug: Debug = False,
) -> None:
    """Show one row of results: metrics, groups, costs, training, where it is from and how to run it again."""
    with guarded(debug=debug, resumes=False):
        from rich.console import Console

        from medgraft.benchmarks.mirror.place import local_folders
        from medgraft.benchmarks.sharing.finding import find
        from medgraft.benchmarks.sharing.showing import show as shown

        shown(find(row, local_folders(results or [Path("results")]), seed), Console(highlight=False))
