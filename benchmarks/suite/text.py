"""A suite's ranks as Markdown and on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from medgraft.benchmarks.board.terminal import say
from medgraft.benchmarks.suite.ranks import Ranked, SuiteBoard
from medgraft.commands.plain_text import markdown_text, one_line

NAMED = 4


def heads(board: SuiteBoard) -> list[str]:
    """Names of the columns."""
    several = any(len(task.encoders) > 1 for task in board.suite.tasks)
    columns = [
        f"{task.task} {task.primary}{f' ({encoder})' if several else ''}"
        for task in board.suite.tasks
        for encoder in task.encoders
    ]
    return ["mean rank", "adapter", *columns]


def cells(board: SuiteBoard, row: Ranked) -> list[str]:
    """A row as text."""
    ends = "" if row.low is None or row.high is None else f" [{row.low:.1f}, {row.high:.1f}]"
    columns = [(task.task, encoder) for task in board.suite.tasks for encoder in task.encoders]
    return [f"{row.rank:.2f}{ends}", row.adapter, *(f"{row.values[column]:.3f}" for column in columns)]


def title(board: SuiteBoard) -> str:
    """Heading."""
    return f"Suite {board.suite.id}{' (PHANTOM)' if board.phantom else ''}: {board.suite.title}"


def remarks(board: SuiteBoard) -> list[str]:
    """What a reader must know: what the intervals hold, who is not ranked, and what was refused."""
    tasks = len(board.suite.tasks)
    lines = [
        f"Mean rank over {tasks} task{'s' if tasks > 1 else ''} of {len(board.ranked)} adapters, by the suite's "
        "metrics; brackets hold 95% intervals that resample test subjects within tasks, and seeds. Tasks are few and "
        "are not resampled: on other tasks the order may be another."
    ]
    lines += [f"Not ranked: {name} lacks {lack}." for name, lack in board.unranked.items()]
    for reason, (names, count) in board.refused.items():
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(
            f"Left out: {count} result{'s' if count > 1 else ''} of {', '.join(names[:NAMED])}{more}: {reason}."
        )
    return lines


def suite_markdown(boards: Sequence[SuiteBoard]) -> list[str]:
    """Lines of a section for each of a suite's boards."""
    lines: list[str] = []
    for board in boards:
        lines += [f"## {markdown_text(title(board))}", ""]
        lines += [f"Digest of the definition: `{board.suite.sha256()[:16]}`.", ""]
        if board.ranked:
            names = [markdown_text(head) for head in heads(board)]
            rows = [[markdown_text(text) for text in cells(board, row)] for row in board.ranked]
            lines += [f"| {' | '.join(each)} |" for each in (names, [":---"] * len(names), *rows)]
            lines.append("")
        lines += [f"- {markdown_text(one_line(remark, 1000))}" for remark in remarks(board)]
        lines.append("")
    return lines


def show_suite(boards: Sequence[SuiteBoard], console: Console) -> None:
    """The same on the terminal."""
    for board in boards:
        table = Table(title=Text(one_line(title(board))), title_justify="left", padding=(0, 1, 0, 0), box=None)
        for head in heads(board):
            table.add_column(Text(one_line(head)), overflow="fold", no_wrap=head == "mean rank")
        for row in board.ranked:
            table.add_row(*(Text(one_line(text)) for text in cells(board, row)))
        console.print(table)
        for remark in remarks(board):
            say(console, remark)
        console.print()
