"""The command ``texts``: what language models wrote, beside the images and what holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug, parse_data
from medgraft.commands.console import guarded


def texts(
    results: Annotated[
        list[Path], typer.Argument(help="JSON files of results with generated texts, all on the same test samples.")
    ],
    out: Annotated[Path, typer.Option(help="Markdown file to write; pictures go into a folder of its name.")] = Path(
        "texts.md"
    ),
    count: Annotated[int, typer.Option(min=1, max=200, help="Test samples that are shown.")] = 12,
    data: Annotated[list[str] | None, typer.Option(help="NAME=PATH of a real cohort; may be repeated.")] = None,
    debug: Debug = False,
) -> None:
    """Show what was generated beside images and truths; of real cohorts the page holds people's images and reports."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.board.drawn.texts_page import write_texts_page

        typer.echo(f"written: {write_texts_page(results, out, parse_data(data) or {}, count)}")
