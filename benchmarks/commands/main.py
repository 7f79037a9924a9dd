"""Commands of the harness, as parts of ``medgraft`` and as ``python -m benchmarks.run``.

``python -m benchmarks.run``, ``python -m medgraft.benchmarks.run`` and ``medgraft run`` are one parser.
"""

from __future__ import annotations

import sys

import typer

from medgraft.benchmarks.commands.board import expert_load, leaderboard, reliability
from medgraft.benchmarks.commands.cache import cache
from medgraft.benchmarks.commands.cohort import cohort, pairs
from medgraft.benchmarks.commands.embed import embed
from medgraft.benchmarks.commands.export import export
from medgraft.benchmarks.commands.fetch_weights import fetch_weights
from medgraft.benchmarks.commands.inspect import inspect
from medgraft.benchmarks.commands.leak_check import leak_check
from medgraft.benchmarks.commands.predict import predict
from medgraft.benchmarks.commands.prepare import prepare
from medgraft.benchmarks.commands.results.compare import compare
from medgraft.benchmarks.commands.results.diff import diff
from medgraft.benchmarks.commands.results.label import label
from medgraft.benchmarks.commands.results.reproduce import reproduce
from medgraft.benchmarks.commands.results.show import show
from medgraft.benchmarks.commands.results.submit_check import submit_check
from medgraft.benchmarks.commands.results.sync import results
from medgraft.benchmarks.commands.results.texts import texts
from medgraft.benchmarks.commands.results.watch import watch
from medgraft.benchmarks.commands.run import RunCommand, run
from medgraft.commands.console import entered
from medgraft.commands.main import app

app.command("run", cls=RunCommand)(run)
app.add_typer(cohort, name="cohort")
app.add_typer(cache, name="cache")
app.command("leaderboard")(leaderboard)
app.command("expert-load")(expert_load)
app.command("reliability")(reliability)
app.command("compare")(compare)
app.command("pairs")(pairs)
app.command("prepare")(prepare)
app.command("inspect")(inspect)
app.command("predict")(predict)
app.command("export")(export)
app.command("embed")(embed)
app.command("fetch-weights")(fetch_weights)
app.command("leak-check")(leak_check)
app.command("show")(show)
app.command("label")(label)
app.command("diff")(diff)
app.command("reproduce")(reproduce)
app.command("submit-check")(submit_check)
app.command("texts")(texts)
app.add_typer(results, name="results")
app.command("watch")(watch)


def main() -> None:
    """Entry point of ``medgraft``."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    entered(f"medgraft {command}".rstrip(), app)


def run_main() -> None:
    """Entry point of ``python -m benchmarks.run``."""
    alone = typer.Typer(add_completion=False)
    alone.command(cls=RunCommand)(run)
    entered("benchmarks.run", alone)


if __name__ == "__main__":
    main()
