"""The command ``medgraft watch``: what the sweeps into a results folder are doing."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded

if TYPE_CHECKING:
    from rich.console import Console

    from medgraft.benchmarks.watch.following import Folder


def watch(
    results: Annotated[Path, typer.Argument(help="Folder of results that a sweep writes, or the URL of one.")] = Path(
        "results"
    ),
    once: Annotated[bool, typer.Option("--once", help="Print how it is now and end.")] = False,
    interval: Annotated[float, typer.Option(min=0.2, max=3600, help="Seconds between two looks.")] = 2.0,
    debug: Debug = False,
) -> None:
    """Show the sweeps into a folder of results: done, at work, failed, time left; ends when none runs."""
    with guarded(debug=debug, resumes=False):
        from rich.console import Console

        from medgraft.benchmarks.mirror.watching import SharedFolder
        from medgraft.benchmarks.storage.opening import as_url, is_url
        from medgraft.benchmarks.watch.following import Folder
        from medgraft.errors import MedgraftError

        if is_url(results):
            folder = SharedFolder(as_url(results))
        elif results.is_dir():
            folder = Folder(results)
        else:
            raise MedgraftError(f"results folder {results} does not exist; name the folder that a sweep writes")
        console = Console()
        if once or not console.is_terminal:
            _print(folder, console)
            return
        with contextlib.suppress(KeyboardInterrupt):
            _follow(folder, console, interval)


def _print(folder: Folder, console: Console) -> None:
    """How it is now, as plain text."""
    from medgraft.benchmarks.watch.screen import folder_lines

    for line in folder_lines(folder.look(), console.width) or [_nothing(folder)]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _nothing(folder: Folder) -> str:
    return f"no sweep has left anything in {folder.root} yet"


def _follow(folder: Folder, console: Console, interval: float) -> None:
    """Shows it until nothing runs; an empty folder is waited at."""
    from rich.live import Live
    from rich.text import Text

    from medgraft.benchmarks.watch.screen import folder_lines

    with Live(console=console, auto_refresh=False, transient=True) as live:
        while True:
            sweeps = folder.look()
            lines = folder_lines(sweeps, console.width, console.height - 1) or [f"{_nothing(folder)}; waiting"]
            live.update(Text("\n".join(lines), overflow="fold"), refresh=True)
            if sweeps and not any(status.standing in ("running", "silent") for status in sweeps):
                break
            time.sleep(interval)
    _print(folder, console)
