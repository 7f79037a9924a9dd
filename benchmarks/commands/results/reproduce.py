"""The command ``reproduce``: one cell run again, and whether its numbers agree."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug, parse_data
from medgraft.commands.console import guarded

if TYPE_CHECKING:
    from medgraft.benchmarks.sharing.reproduction import Compared

SHOWN = 8
"""Metrics that moved, of which so many are shown."""


def reproduce(
    result: Annotated[Path, typer.Argument(help="KEY.json of a results folder.")],
    data: Annotated[
        list[str] | None, typer.Option(help="NAME=PATH of the cohort; a phantom is made again where it is not here.")
    ] = None,
    results: Annotated[Path | None, typer.Option(help="Keep the new result in this folder. Default: nowhere.")] = None,
    debug: Debug = False,
) -> None:
    """Run one cell again from its result: exit code 0 if the numbers agree, at least within rounding, 1 if not."""
    from medgraft.benchmarks.launch.warm_start import ended_on_error

    with guarded(debug=debug, resumes=False), ended_on_error():
        from medgraft.benchmarks.sharing import reproduction as again
        from medgraft.benchmarks.sharing.finding import read_one
        from medgraft.errors import ConfigError

        stored = read_one(result)
        spec = stored.cell.spec
        if stored.cell.status != "success":
            raise ConfigError(
                f"{result} is of a cell that failed ({stored.cell.status}): there are no numbers to agree with"
            )
        again.check_same_code(spec)
        cohort = again.cohort_of(spec, parse_data(data) or {}, lambda line: typer.echo(line, err=True))
        with again.folder_for(results) as folder:
            typer.echo(f"running {spec.task} / {spec.encoder} / {spec.adapter} seed {spec.seed} again", err=True)
            new = again.run_again(spec, cohort, folder, lambda doing: typer.echo(f"  {doing}", err=True))
            verdict = again.compared(stored, new)
        _tell(verdict, stored.cell.primary, stored.cell.metrics[stored.cell.primary].value)
        if results is not None:
            typer.echo(f"written: {new.path}")
        sys.exit(int(verdict.verdict == "they differ"))


def _tell(compared: Compared, primary: str, value: float | None) -> None:
    from medgraft.commands.plain_text import plain

    shown = "undefined" if value is None else f"{value:.6g}"
    if compared.verdict == "bit for bit":
        lines = [f"the numbers agree bit for bit: {primary} {shown}"]
    else:
        agree = "agree within rounding" if compared.verdict == "within rounding" else "differ"
        scores = "" if compared.largest is None else f"; scores moved by up to {compared.largest:.2g}"
        lines = [f"the numbers {agree}{scores}; up to {compared.allowed:g} counts as rounding"]
        lines += [
            f"  {name}: {_number(old)}, now {_number(new)}" for name, (old, new) in [*compared.moved.items()][:SHOWN]
        ]
        if len(compared.moved) > SHOWN:
            lines.append(f"  and {len(compared.moved) - SHOWN} more metrics")
        if not compared.changes:
            lines.append("machine and versions are the same, and so every bit should be: something is left to chance")
    if compared.changes:
        lines += ["what is not as it was when the result was made:", *(f"  {change}" for change in compared.changes)]
    for line in lines:
        typer.echo(plain(line))


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.6g}"
