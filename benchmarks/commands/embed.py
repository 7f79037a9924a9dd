"""The command ``medgraft embed``: a picture of a result's test samples before and after training."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug, parse_data
from medgraft.commands.console import guarded


class Methods(StrEnum):
    """How embeddings are brought into the plane."""

    tsne = "tsne"
    pca = "pca"


def embed(
    results: Annotated[list[Path], typer.Argument(help="JSON files of results, a row of the picture each.")],
    out: Annotated[Path, typer.Option(help="SVG file to write.")] = Path("embeddings.svg"),
    method: Annotated[Methods, typer.Option(help="t-SNE, or the first two principal components.")] = Methods.tsne,
    data: Annotated[list[str] | None, typer.Option(help="NAME=PATH of a real cohort; may be repeated.")] = None,
    debug: Debug = False,
) -> None:
    """Draw the test samples of results by class, before and after training; each cell is trained again."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.board.drawn import embedding

        read = [embedding.read_result(path) for path in results]
        roots = [embedding.cohort_root(result.spec, parse_data(data) or {}) for result in read]
        cells = []
        for result, root in zip(read, roots, strict=True):
            typer.echo(f"{result.spec.task} / {result.spec.encoder} / {result.spec.adapter}: training again", err=True)
            cell = embedding.embed(result, root)
            cells.append(cell)
            if cell.value != cell.stored:
                typer.echo(f"{cell.title}: {cell.metric} is {cell.value}, {cell.stored} in the result")
        embedding.draw(cells, out, "tsne" if method is Methods.tsne else "pca")
        typer.echo(f"written: {out}")
