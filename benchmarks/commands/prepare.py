"""The command ``prepare``: raw volumes made comparable."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded

if TYPE_CHECKING:
    from medgraft.benchmarks.prepare.cohort import PrepareReport


class Preparable(StrEnum):
    """Cohorts with raw volumes to prepare."""

    adni = "adni"


def prepare(
    name: Annotated[Preparable, typer.Argument(help="Which cohort's layout the folder has.")],
    source: Annotated[Path, typer.Option("--in", help="Raw cohort (LONI or BIDS), folder of volumes, or one volume.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the copy; an earlier run is continued.")],
    spacing: Annotated[float, typer.Option(help="Voxel size in mm.", min=0.5, max=8)] = 1.0,
    n4: Annotated[bool, typer.Option("--n4/--no-n4", help="Correct the bias field.")] = True,
    mask: Annotated[bool, typer.Option("--mask", help="Zero outside the template's brain, widened by 4 mm.")] = False,
    jobs: Annotated[int, typer.Option(help="Worker processes.", min=1, max=1024)] = 1,
    verbose: Annotated[bool, typer.Option("--verbose", help="Name the volumes that failed.")] = False,
    debug: Debug = False,
) -> None:
    """Prepare raw T1 volumes: orientation, N4, affine to MNI, 1 mm, crop, intensities. Exit code 1 if any failed."""
    with guarded(debug=debug, verbose=verbose):
        from rich.progress import Progress

        from medgraft.benchmarks.prepare.cohort import prepare_cohort
        from medgraft.benchmarks.prepare.volume import PrepareConfig

        config = PrepareConfig.model_validate({"spacing": spacing, "n4": n4, "mask": mask})
        with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
            task = bar.add_task("volumes", total=None)

            def progress(done: int, total: int) -> None:
                bar.update(task, completed=done, total=total)

            report = prepare_cohort(source, out, config, jobs=jobs, progress=progress)
        _show_prepared(report, name.value, out, verbose=verbose)
        sys.exit(1 if report.failed else 0)


def _show_prepared(report: PrepareReport, name: str, out: Path, *, verbose: bool) -> None:
    """Counts and reasons; names of volumes only on demand, since they may identify a person."""
    from medgraft.benchmarks.prepare.cohort import REPORT

    typer.echo(f"{report.made} volumes prepared, {report.kept} kept from before, {len(report.failed)} failed")
    for reason, count in report.reasons().most_common():
        typer.echo(f"  {count} x {reason}")
    for volume, reason in report.failed.items() if verbose else ():
        typer.echo(f"  {volume}: {reason}")
    typer.echo(f"what became of each: {out / REPORT}; use the copy with --data {name}={out}")
