"""The command ``results sync``: a folder of results and shared storage, brought into step."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded

if TYPE_CHECKING:
    from medgraft.benchmarks.mirror.sync import Report

results = typer.Typer(
    help="Folders of results and storage that machines share.", no_args_is_help=True, pretty_exceptions_enable=False
)


class Prefer(StrEnum):
    """Whose result stays where two have other numbers."""

    local = "local"
    shared = "shared"


@results.callback()
def _group() -> None:
    """Keeps ``sync`` a word of its own while it is the only command here."""


@results.command("sync")
def sync(
    local: Annotated[Path, typer.Argument(help="Folder of results.")],
    url: Annotated[str, typer.Argument(help="s3://BUCKET/FOLDER, gs://..., or a folder that machines share.")],
    prefer: Annotated[
        Prefer | None, typer.Option(help="Whose result stays where both have one of a cell, with other numbers.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Copy results both ways, what is missing or newer; of a cell with two different results neither is overwritten."""
    with guarded(debug=debug):
        from medgraft.benchmarks.mirror.sync import Sync
        from medgraft.benchmarks.storage.opening import is_url, open_storage
        from medgraft.errors import ConfigError

        if is_url(local):
            raise ConfigError(f"{local} is no folder of this machine; write `medgraft results sync FOLDER URL`")
        storage = open_storage(url)
        storage.check()
        report = Sync(local, storage, prefer=None if prefer is None else prefer.value).run()
        for line in told(report, local, storage.url):
            typer.echo(line)
        sys.exit(1 if report.refused or report.damaged else 0)


def told(report: Report, local: Path, url: str) -> list[str]:
    """What was done, in lines for a person."""
    lines = [f"{len(report.sent)} sent to {url}, {len(report.fetched)} fetched to {local}"]
    if report.kept:
        lines.append(f"{len(report.kept)} were measured twice with the same numbers, and both stay as they are")
    lines += [
        f"{name} is another result in {local} than at {url} ({why}); neither is overwritten: name the one that stays "
        "with --prefer local or --prefer shared"
        for name, why in report.refused.items()
    ]
    lines += [f"{name} at {url} is damaged ({why})" for name, why in report.damaged.items()]
    return lines
