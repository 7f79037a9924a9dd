"""The command ``compare``: two rows of results against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded


def compare(
    first: Annotated[
        str, typer.Argument(help="ADAPTER, ENCODER/ADAPTER, or either with its note as the board has it.")
    ],
    second: Annotated[str, typer.Argument(help="The row that it is held against.")],
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders or URLs of results; they are merged. Default: results."),
    ] = None,
    task: Annotated[str | None, typer.Option(help="Only this task; all that both rows have otherwise.")] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Is the first row shown to be worse by less than this (0.01 is one point)?"),
    ] = None,
    debug: Debug = False,
) -> None:
    """Say whether one row is better than another: the difference, its interval, the tests, and what it would take."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.board.compared.choosing import pairs_of
        from medgraft.benchmarks.board.compared.sentences import compare_rows, sentences
        from medgraft.benchmarks.board.rows import board_rows
        from medgraft.benchmarks.mirror.place import local_folders
        from medgraft.benchmarks.statistics.comparison import checked_margin
        from medgraft.errors import MedgraftError

        if margin is not None:
            checked_margin(margin)
        folders = local_folders(results or [Path("results")])
        rows = board_rows(folders)
        if not rows:
            raise MedgraftError(f"no readable result below {', '.join(map(str, folders))}")
        compared = [compare_rows(*pair) for pair in pairs_of(rows, first, second, task)]
        said = sentences(compared, margin)
        if all(isinstance(each.outcome, str) for each in compared):
            raise MedgraftError(" ".join(said).rstrip("."))
        typer.echo("\n\n".join(said))
