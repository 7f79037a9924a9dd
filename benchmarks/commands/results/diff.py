"""The command ``diff``: what moved between two folders of results."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug, listed
from medgraft.commands.console import guarded


class FailOn(StrEnum):
    """What makes the exit code 1."""

    never = "never"
    worse = "worse"
    any = "any"


def diff(
    old: Annotated[Path, typer.Argument(help="Folder of results, a URL of one, or KEY.json.")],
    new: Annotated[Path, typer.Argument(help="Folder of results, a URL of one, or KEY.json.")],
    metrics: Annotated[
        str | None, typer.Option(help="Comma-separated: further metrics than the primary one of each row.")
    ] = None,
    fail_on: Annotated[
        FailOn, typer.Option(help="Exit code 1 if a row is worse by more than noise or fails, or if anything moved.")
    ] = FailOn.never,
    costs: Annotated[float, typer.Option(help="Share by which speed and memory must move to be told.", min=0.0)] = 0.2,
    json: Annotated[bool, typer.Option("--json", help="Print the differences as JSON.")] = False,
    debug: Debug = False,
) -> None:
    """Show what moved between two folders of results, and whether by more than noise."""
    with guarded(debug=debug, resumes=False):
        import json as writer

        from rich.console import Console

        from medgraft.benchmarks.board.terminal import say
        from medgraft.benchmarks.mirror.place import local_folders
        from medgraft.benchmarks.sharing.differing import as_json, differences, told

        old, new = local_folders([old, new])
        found = differences(old, new, listed(metrics, "--metrics") or [], costs)
        if json:
            typer.echo(writer.dumps(as_json(found), indent=1))
        else:
            console = Console(highlight=False)
            for line in told(found):
                say(console, line)
        bad = {"never": False, "worse": found.worse, "any": found.any}[fail_on.value]
        sys.exit(int(bad))
