"""What a sweep shows while it runs: one line of progress, above it one for each finished row and each failed cell."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Column

from medgraft.benchmarks.board.finished_rows import FinishedRow
from medgraft.benchmarks.launch.cells import Running
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.schedule.durations import Durations
from medgraft.benchmarks.schedule.remaining import Remaining
from medgraft.benchmarks.watch.time_left import clock
from medgraft.commands.layout import say
from medgraft.commands.plain_text import one_line


def fitted(left: str, doing: Sequence[str], width: int) -> str:
    """What a progress line says beside its bar, in whole parts that fit the width.

    Args:
        left: Time left; empty if that is not known.
        doing: What each worker does.
        width: Columns.

    Example:
        >>> fitted("2 min left", ["a/lora seed 0: train 5%", "a/vpt seed 0: train 9%"], 44)
        '2 min left | a/lora seed 0: train 5% | +1'
    """
    for shown in range(len(doing), -1, -1):
        more = [f"+{len(doing) - shown}"] if 0 < shown < len(doing) else []
        text = " | ".join([*filter(None, [left]), *doing[:shown], *more])
        if len(text) <= width:
            return text
    return ""


class Display:
    """One progress display: the sweep, what each worker does now, and how long is left.

    Args:
        console: Where it is shown; without a terminal, one line per finished cell and none per row.
        cells: What will run.
        jobs: Workers at a time.
        durations: What earlier cells took; takes those of this sweep in.
    """

    def __init__(self, console: Console, cells: Sequence[CellSpec], jobs: int, durations: Durations) -> None:
        self.console = console
        self.remaining = Remaining(cells, jobs, durations)
        bar = max(5, min(40, console.width // 4))
        self.room = console.width - bar - len(f"cells {len(cells)}/{len(cells)}") - 4
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self.total: TaskID = self.progress.add_task("cells", total=len(cells), note="")

    def tick(self, running: Sequence[Running]) -> None:
        """Shows what runs now."""
        doing = [
            one_line(f"{w.job.spec.task}/{w.job.spec.adapter} seed {w.job.spec.seed}: {w.doing} {w.share:.0%}")
            for w in running
        ]
        now = time.monotonic()
        left = self.remaining.seconds({w.job.spec.key(): now - w.started for w in running}, now)
        remaining = f"about {clock(left)} left" if left is not None else ""
        self.progress.update(self.total, note=fitted(remaining, doing, self.room))

    def finished(self, result: CellResult) -> None:
        """Counts a stored result; says so at once if it failed."""
        spec = result.spec
        self.remaining.ended(result)
        self.progress.advance(self.total)
        if result.status != "success" or not self.console.is_terminal:
            metric = result.metrics.get(result.primary)
            value = f"{result.primary} {metric.value:.3f}" if metric and metric.value is not None else result.message
            say(
                self.console,
                f"{result.status} {spec.task} / {spec.encoder} / {spec.adapter} seed {spec.seed}: {value} "
                f"({sum(result.timing.values()):.0f} s, {len(self.remaining)} left)",
            )

    def row(self, row: FinishedRow) -> None:
        """Keeps a line for a row whose last seed has ended, above the progress."""
        if self.console.is_terminal:
            spec = row.cells[0]
            say(self.console, f"{spec.task} / {spec.encoder} / {spec.adapter}: {row.metric}")
