"""Tables of measured rows in ``docs``: every table with columns ``adapter`` and ``trainable``, and where it stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

FIRST = "leaderboard.md"
"""The generated board, whose rows come before those of other pages."""


class Table(NamedTuple):
    """One table of a page.

    Attributes:
        heading: What it is under: ``chexpert (PHANTOM)``.
        anchor: Of that heading.
        columns: Names of the columns.
        rows: Cells of each row.
    """

    heading: str
    anchor: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@cache
def tables(docs: Path) -> Mapping[str, Sequence[Table]]:
    """Name of a page of ``docs`` -> its tables of measured rows, the generated board first."""
    pages = sorted(docs.glob("*.md"), key=lambda page: (page.name != FIRST, page.name))
    return {page.name: found for page in pages if (found := _tables(page.read_text(encoding="utf-8")))}


def rows_of(table: Table, adapter: str) -> list[str]:
    """Rows of a table whose adapter is the one named, whatever its options, as lines of Markdown."""
    place = table.columns.index("adapter")
    mine = [row for row in table.rows if re.split(r"[ :(]", row[place].strip("`"))[0] == adapter]
    return [f"| {' | '.join(row)} |" for row in mine]


def anchor_of(heading: str) -> str:
    """What a heading is linked by, on the site and on GitHub alike: ``chexpert (PHANTOM)`` -> ``chexpert-phantom``."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"`|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
    return kept.strip().replace(" ", "-")


def _tables(text: str) -> list[Table]:
    found = []
    heading = ""
    for block in re.split(r"\n\s*\n", text):
        lines = block.strip().splitlines()
        if title := re.match(r"#+ (.+)", lines[0] if lines else ""):
            heading = title[1]
        rows = [_cells(line) for line in lines if line.startswith("|")]
        if len(rows) > 2 and {"adapter", "trainable"} <= set(rows[0]):
            found.append(Table(heading, anchor_of(heading), rows[0], tuple(row for row in rows[2:])))
    return found


def _cells(line: str) -> tuple[str, ...]:
    return tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|")))
