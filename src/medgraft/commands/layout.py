"""Tables on a terminal of any width, without a broken word: side by side, shortened by what rows share, or stacked."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medgraft.commands.plain_text import one_line


def say(console: Console, text: str) -> None:
    """One line as it is: foreign names and messages are neither markup nor control sequences.

    A terminal that is too narrow for it gets several, broken between words; a file or pipe always gets one.
    """
    line = one_line(text)
    for part in broken(line, console.width) if console.is_terminal else [line]:
        _print(console, part)


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def broken(text: str, width: int, indent: str = "") -> list[str]:
    """Lines of a text, broken between words; a word that is wider than the terminal stays whole."""
    return textwrap.wrap(
        text, max(width, 1), initial_indent=indent, subsequent_indent=f"{indent}  ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def show_table(
    console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], names: int, title: str = ""
) -> None:
    """Shows a table; every name and number in it stays in one piece.

    Where it is too wide, columns that hold the same in every row become lines above it; where it still is, each row
    becomes a few lines: its names, and below them what the other columns say.

    Args:
        console: The terminal.
        heads: Of the columns.
        rows: Their texts.
        names: Columns from the left that tell which row it is.
        title: Above the table.
    """
    heads, rows = [one_line(head) for head in heads], [[one_line(cell) for cell in row] for row in rows]
    if title:
        for line in broken(one_line(title), console.width):
            console.print(Text(line, style="italic"), soft_wrap=True)
    kept = _columns_that_fit(heads, rows, names, console.width)
    if kept is None:
        _stacked(console, heads, rows, names)
        return
    for column in range(len(heads)):
        if column not in kept:
            for line in broken(f"{heads[column]}: {rows[0][column]}", console.width):
                _print(console, line)
    table = Table(padding=(0, 1, 0, 0), box=None)
    for column in kept:
        table.add_column(Text(heads[column]), no_wrap=True)
    for row in rows:
        table.add_row(*(Text(row[column]) for column in kept))
    console.print(table)


def _columns_that_fit(heads: Sequence[str], rows: Sequence[Sequence[str]], names: int, width: int) -> list[int] | None:
    """Columns of a table that fits, without some that are the same in all rows; ``None`` where none does."""
    every = range(len(heads))
    wide = [max(cell_len(heads[k]), *(cell_len(row[k]) for row in rows)) if rows else cell_len(heads[k]) for k in every]
    shared = [k for k in every if len(rows) > 1 and len({row[k] for row in rows}) == 1]
    for dropped in ([], [k for k in shared if k < names], shared):
        kept = [k for k in every if k not in dropped]
        if kept and sum(wide[k] + 1 for k in kept) <= width:
            return kept
    return None


def _stacked(console: Console, heads: Sequence[str], rows: Sequence[Sequence[str]], names: int) -> None:
    for row in rows:
        for line in broken(" / ".join(row[:names]), console.width):
            _print(console, line)
        line = ""
        for head, cell in zip(heads[names:], row[names:], strict=True):
            part = f"{head} {cell}"
            if line and cell_len(line) + 2 + cell_len(part) > console.width:
                _print(console, line)
                line = ""
            line = f"{line}, {part}" if line else f"  {part}"
        if line:
            for each in broken(line.strip(), console.width, "  "):
                _print(console, each)
