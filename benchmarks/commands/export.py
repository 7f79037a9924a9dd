"""The command ``export``: a kept graft as ONNX, TorchScript, merged weights, a Hugging Face folder, or a model card."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug
from medgraft.commands.console import guarded
from medgraft.commands.main import export_layout
from medgraft.errors import ConfigError


def export(
    graft: Annotated[Path, typer.Argument(help="Folder of a kept graft: KEY.adapter beside a result.")],
    out: Annotated[Path, typer.Option(help="New file (onnx, torchscript, card) or folder (merged, hf).")],
    to: Annotated[str | None, typer.Option("--to", help="onnx, torchscript, merged, hf or card.")] = None,
    layout: Annotated[
        str | None,
        typer.Option("--format", help="Instead, the layout of a method's authors: ace_lora. Takes any adapter folder."),
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: PyTorch's own.", min=1)] = None,
    debug: Debug = False,
) -> None:
    """Write a kept graft for other programs, checked against the graft's own outputs; whole or not at all."""
    with guarded(debug=debug, resumes=False):
        if (to is None) == (layout is None):
            raise ConfigError("name one of --to (onnx, torchscript, merged, hf, card) and --format (ace_lora)")
        if layout is not None:
            typer.echo(export_layout(graft, layout, out))
            return
        assert to is not None
        import torch

        from medgraft.benchmarks.cell.kept import graft_folder, read_facts
        from medgraft.benchmarks.export.writing import export as written

        if threads is not None:
            torch.set_num_threads(threads)
        done = written(graft, to, out)
        typer.echo(f"written: {', '.join(str(path) for path in done.paths)}")
        if done.note:
            typer.echo(f"  {done.note}")
        if done.difference is not None:
            typer.echo(f"  largest difference from the graft in float32: {done.difference:.2g}")
        facts = read_facts(graft_folder(graft))
        if done.rounding is not None:
            typer.echo(f"  predict runs in {facts.precision}, whose rounding differs by up to {done.rounding:.2g}")
        if facts.phantom:
            typer.echo("  PHANTOM: the graft was trained on generated data; it predicts nothing about a person")
