"""Commands that read results: ``leaderboard``, ``expert-load`` and ``reliability``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from medgraft.benchmarks.commands.arguments import Debug, listed
from medgraft.commands.console import guarded


def leaderboard(
    results: Annotated[list[Path], typer.Argument(help="Folders of results, or URLs of some; they are merged.")],
    out: Annotated[
        Path, typer.Option(help="Folder for index.html and leaderboard.md, .csv, .json, .parquet.")
    ] = Path(),
    metrics: Annotated[
        str | None, typer.Option(help="Comma-separated: further metrics to show, such as precision_ad,recall_ad.")
    ] = None,
    groups: Annotated[
        bool, typer.Option("--groups", help="Add the primary metric, and --metrics, by sex, age, site and the like.")
    ] = False,
    margin: Annotated[
        float | None,
        typer.Option(help="Which rows are shown to be worse than full fine-tuning by less than this? Default: 0.01."),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="Rank adapters over the tasks of a suite, and say which results are not of it.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Build the leaderboard from any folders of results: Markdown, CSV, Parquet, JSON, and pages for a browser."""
    with guarded(debug=debug, resumes=False):
        from rich.console import Console

        from medgraft.benchmarks.board.options import MARGIN, BoardOptions
        from medgraft.benchmarks.board.rows import board_rows
        from medgraft.benchmarks.board.terminal import show_board
        from medgraft.benchmarks.kernels.results import read_operations
        from medgraft.benchmarks.mirror.place import local_folders, shown
        from medgraft.benchmarks.site.publish import publish
        from medgraft.benchmarks.statistics.comparison import checked_margin
        from medgraft.benchmarks.suite.ranks import boards_of
        from medgraft.benchmarks.suite.text import show_suite
        from medgraft.errors import MedgraftError

        folders = local_folders(results)
        rows, operations = board_rows(folders), read_operations(folders)
        if not rows and not operations:
            raise MedgraftError(f"no readable result below {', '.join(map(shown, results))}")
        also = listed(metrics, "--metrics") or []
        kept = checked_margin(MARGIN if margin is None else margin)
        options = [*(["--metrics", metrics] if metrics else []), *(["--groups"] if groups else [])]
        options += [] if margin is None else ["--margin", f"{margin:g}"]
        suites = boards_of(rows, [suite] if suite else ())
        options += ["--suite", suite] if suite else []
        command = shlex.join(["medgraft", "leaderboard", *map(shown, results), *options])
        published = publish(rows, out, BoardOptions(command, operations, also, groups, kept, suites))
        show_board(rows, groups=groups, also=also)
        show_suite(suites, Console())
        typer.echo(f"written: {', '.join(map(str, published.files))}")
        if published.notice:
            typer.echo(published.notice, err=True)


def expert_load(
    results: Annotated[list[Path], typer.Argument(help="Folders of results, or URLs of some; they are merged.")],
    out: Annotated[Path, typer.Option(help="SVG file to write.")],
    debug: Debug = False,
) -> None:
    """Draw which experts of tgh_moe the tokens of each task chose, from any folders of results."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.board.drawn.load_figure import draw_loads, loads
        from medgraft.benchmarks.board.rows import board_rows
        from medgraft.benchmarks.mirror.place import local_folders

        panels = loads(board_rows(local_folders(results)))
        draw_loads(panels, out)
        typer.echo(f"written: {out} ({len(panels)} panels)")


def reliability(
    results: Annotated[list[Path], typer.Argument(help="Folders of results, or URLs of some; they are merged.")],
    out: Annotated[Path, typer.Option(help="SVG file to write.")],
    debug: Debug = False,
) -> None:
    """Draw predicted probabilities against observed frequencies, from any folders of results."""
    with guarded(debug=debug, resumes=False):
        from medgraft.benchmarks.board.drawn.reliability_figure import draw_reliability, panels
        from medgraft.benchmarks.board.rows import board_rows
        from medgraft.benchmarks.mirror.place import local_folders

        drawn = panels(board_rows(local_folders(results)))
        draw_reliability(drawn, out)
        typer.echo(f"written: {out} ({len(drawn)} panels)")
