"""Commands that read results: ``leaderboard``, ``expert-load`` and ``reliability``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug, listed
from medgraft.commands.console import guarded


def leaderboard(
    results: Annotated[list[Path], typer.Argument(help="Folders of results; they are merged.")],
    out: Annotated[
        Path, typer.Option(help="Folder for index.html and leaderboard.md, .csv, .json, .parquet.")
    ] = Path(),
    metrics: Annotated[
        str | None, typer.Option(help="Comma-separated: further metrics to show, such as precision_ad,recall_ad.")
    ] = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="Add the primary metric, and --metrics, by sex, age, site and the like.")
    ] = False,
    debug: Debug = False,
) -> None:
    """Build the leaderboard from any folders of results: Markdown, CSV, Parquet, JSON, and pages for a browser."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.board.rows import board_rows
        from medgraft.benchmarks.board.terminal import show_board
        from medgraft.benchmarks.kernels.results import read_operations
        from medgraft.benchmarks.site.publish import publish
        from medgraft.errors import MedgraftError

        rows, operations = board_rows(results), read_operations(results)
        if not rows and not operations:
            raise MedgraftError(f"no readable result below {', '.join(map(str, results))}")
        also = listed(metrics, "--metrics") or []
        options = [*(["--metrics", metrics] if metrics else []), *(["--groups"] if groups else [])]
        command = shlex.join(["medgraft", "leaderboard", *map(str, results), *options])
        published = publish(rows, out, command, operations, also, groups=groups)
        show_board(rows, groups=groups, also=also)
        typer.echo(f"written: {', '.join(map(str, published.files))}")
        if published.notice:
            typer.echo(published.notice, err=True)


def expert_load(
    results: Annotated[list[Path], typer.Argument(help="Folders of results; they are merged.")],
    out: Annotated[Path, typer.Option(help="SVG file to write.")],
    debug: Debug = False,
) -> None:
    """Draw which experts of tgh_moe the tokens of each task chose, from any folders of results."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.board.load_figure import draw_loads, loads
        from medgraft.benchmarks.board.rows import board_rows

        panels = loads(board_rows(results))
        draw_loads(panels, out)
        typer.echo(f"written: {out} ({len(panels)} panels)")


def reliability(
    results: Annotated[list[Path], typer.Argument(help="Folders of results; they are merged.")],
    out: Annotated[Path, typer.Option(help="SVG file to write.")],
    debug: Debug = False,
) -> None:
    """Draw predicted probabilities against observed frequencies, from any folders of results."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.board.reliability_figure import draw_reliability, panels
        from medgraft.benchmarks.board.rows import board_rows

        drawn = panels(board_rows(results))
        draw_reliability(drawn, out)
        typer.echo(f"written: {out} ({len(drawn)} panels)")
