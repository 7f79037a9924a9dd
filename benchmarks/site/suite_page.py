"""A suite's ranks as the board's page shows them."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from medgraft.benchmarks.suite.ranks import Ranked, SuiteBoard
from medgraft.benchmarks.suite.text import heads, remarks, title
from medgraft.commands.plain_text import one_line, plain


@dataclass(frozen=True)
class SuiteRow:
    """An adapter.

    Attributes:
        adapter: Its name.
        rank: Mean rank, as text.
        ends: Its interval, as text; empty without one.
        bar: Its interval as a picture; the text says the same.
        values: Primary metric of each column.
    """

    adapter: str
    rank: str
    ends: str
    bar: Markup
    values: tuple[str, ...]


@dataclass(frozen=True)
class SuitePage:
    """A suite.

    Attributes:
        id: Of its section.
        title: Heading, without the mark of generated cohorts.
        phantom: Of generated cohorts.
        digest: Of its definition.
        heads: Names of the columns, the adapter first.
        rows: Adapters, the best first.
        remarks: What a reader must know.
    """

    id: str
    title: str
    phantom: bool
    digest: str
    heads: tuple[str, ...]
    rows: tuple[SuiteRow, ...]
    remarks: tuple[str, ...]


def suite_page(board: SuiteBoard) -> SuitePage:
    """What the page shows of a suite."""
    rank, adapter, *columns = heads(board)
    name = "".join(c if c.isascii() and c.isalnum() else "-" for c in board.suite.id)
    return SuitePage(
        id=f"suite-{name}{'-phantom' if board.phantom else ''}",
        title=one_line(title(board).replace(" (PHANTOM)", "")),
        phantom=board.phantom,
        digest=board.suite.sha256()[:16],
        heads=(adapter, rank, *(plain(column) for column in columns)),
        rows=tuple(_row(board, each) for each in board.ranked),
        remarks=tuple(one_line(remark, 1000) for remark in remarks(board)),
    )


def _row(board: SuiteBoard, row: Ranked) -> SuiteRow:
    columns = [(task.task, encoder) for task in board.suite.tasks for encoder in task.encoders]
    values = tuple(f"{row.values[column]:.3f}" for column in columns)
    if row.low is None or row.high is None:
        return SuiteRow(plain(row.adapter), f"{row.rank:.2f}", "", Markup(), values)
    worst = max(len(board.ranked), 2)
    start, middle, end = (round(4 + 76 * (each - 1) / (worst - 1), 1) for each in (row.low, row.rank, row.high))
    bar = Markup(
        '<svg viewBox="0 0 84 10" aria-hidden="true"><line class="interval" x1="{}" x2="{}" y1="5" y2="5"/>'
        '<circle class="value" cx="{}" cy="5" r="3"/></svg>'
    ).format(start, end, middle)
    return SuiteRow(plain(row.adapter), f"{row.rank:.2f}", f"{row.low:.1f}, {row.high:.1f}", bar, values)
