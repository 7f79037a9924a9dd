"""The command ``predict``: a kept graft on new files, folders and tables."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded
from medgraft.errors import ConfigError


def predict(
    graft: Annotated[Path, typer.Argument(help="Folder of a kept graft: KEY.adapter beside a result.")],
    inputs: Annotated[list[Path], typer.Argument(help="Files, folders of files, or tables that name files or texts.")],
    out: Annotated[Path, typer.Option(help="CSV file; an earlier one is gone on with.")] = Path("predictions.csv"),
    batch: Annotated[int, typer.Option(help="Samples at once.", min=1)] = 16,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: PyTorch's own.", min=1)] = None,
    explain: Annotated[
        str | None,
        typer.Option(help="Also draw where decisions come from: rollout, gradcam or occlusion (medgraft[explain])."),
    ] = None,
    explain_class: Annotated[
        str | None, typer.Option(help="Class to explain. Default: of each sample the one with the highest score.")
    ] = None,
    explain_out: Annotated[
        Path | None, typer.Option(help="Folder of the pictures. Default: OUT without its ending, and _maps.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Predict with a graft that run --keep has kept. Exit code 1 where some input has no prediction (or no map)."""
    with guarded(debug=debug):
        import torch
        from rich.progress import Progress

        from medgraft.benchmarks.predict.explaining import MapFolder
        from medgraft.benchmarks.predict.output import PredictionTable
        from medgraft.benchmarks.predict.predictor import OK, Predictor

        if threads is not None:
            torch.set_num_threads(threads)
        if explain is None and (explain_class or explain_out):
            raise ConfigError("--explain-class and --explain-out are of --explain; name rollout, gradcam or occlusion")
        predictor = Predictor(graft, device)
        maps = None
        if explain is not None:
            maps = MapFolder(explain_out or out.with_name(f"{out.stem}_maps"), predictor, explain, explain_class)
        items = predictor.items(inputs)
        table = PredictionTable(out, ["input", "status", *predictor.columns], predictor.digest)
        left = Counter(table.done)
        waiting = [item for item in items if not (left[item.name] > 0 and not left.subtract([item.name]))]
        if len(waiting) < len(items):
            typer.echo(f"{len(items) - len(waiting)} of {len(items)} stand in {out} already")
        statuses: Counter[str] = Counter()
        warned = 0
        with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
            task = bar.add_task("predicting", total=len(waiting))
            for rows in predictor.batches(waiting, batch):
                table.add(rows)
                statuses.update(row["status"] for row in rows)
                warned += sum(bool(row.get("warning")) for row in rows)
                bar.advance(task, len(rows))
        _show(statuses, warned, out, phantom=predictor.facts.phantom, ok=OK)
        drawn: Counter[str] = Counter()
        if maps is not None:
            with Progress(disable=not sys.stderr.isatty(), transient=True) as bar:
                drawn.update(bar.track(maps.draw(items), total=len(items), description="explaining"))
            typer.echo(f"{drawn[OK]} maps by {explain} in {maps.folder}")
        sys.exit(1 if (set(statuses) | set(drawn)) - {OK} else 0)


def _show(statuses: Counter[str], warned: int, out: Path, *, phantom: bool, ok: str) -> None:
    typer.echo(f"{statuses[ok]} predictions in {out}")
    for reason, count in statuses.most_common():
        if reason != ok:
            typer.echo(f"  {count} x {reason}")
    if warned:
        typer.echo(f"  {warned} samples are unlike those that the graft was trained on; see the column warning")
    if phantom:
        typer.echo("  PHANTOM: the graft was trained on generated data; it predicts nothing about a person")
