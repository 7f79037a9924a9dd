"""Ranks of the rows of a board, table by table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from medgraft.benchmarks.cell.results import CellResult
from medgraft.benchmarks.statistics.ranks import Contender, standings

if TYPE_CHECKING:  # rows have their standing from here
    from medgraft.benchmarks.board.rows import BoardRow

NO_VALUE = "its metric is undefined, or no seed succeeded"
NO_INTERVAL = "its metric has no interval"
OTHER_SPLIT = "it was tested on other subjects than the other rows of its table"
NO_PREDICTIONS = "its predictions are not at hand, so its rank interval is wider than they would make it"


def give_standings(rows: Sequence[BoardRow], upwards: Callable[[CellResult], bool]) -> None:
    """Gives each row its standing in its table, or the reason why it has none.

    A table ranks the rows that were tested on the same subjects: the most of them where there are several groups. A
    row whose predictions are not at hand is told from others by its interval alone.

    Args:
        rows: Of a board; their evidence is dropped afterwards.
        upwards: Whether more of a result's primary metric is better.
    """
    tables: dict[tuple[bool, str, str, str, str], list[BoardRow]] = defaultdict(list)
    for row in rows:
        tables[*row.section, row.first.primary].append(row)
    for members in tables.values():
        _rank_table(members, upwards)
    for row in rows:
        row.evidence = None


def _rank_table(members: Sequence[BoardRow], upwards: Callable[[CellResult], bool]) -> None:
    known: list[tuple[BoardRow, Contender]] = []
    for row in members:
        contender = _contender(row)
        if isinstance(contender, str):
            row.standing_note = contender
        else:
            known.append((row, contender))
    if not known:
        return
    splits = Counter(_split(row) for row, _ in known)
    split = max(splits, key=lambda name: (splits[name], name))
    for row, _ in known:
        row.standing_note = OTHER_SPLIT if _split(row) != split else ""
    known = [(row, contender) for row, contender in known if not row.standing_note]
    digests = Counter(row.evidence.subjects for row, _ in known if row.evidence is not None)
    digest = max(digests, key=lambda name: (digests[name], name)) if digests else ""
    left_out, contenders = None, list[Contender]()
    for row, contender in known:
        paired = row.evidence is not None and row.evidence.subjects == digest
        if row.evidence is not None and paired:
            left_out = row.evidence.left_out
        else:
            row.standing_note = NO_PREDICTIONS
        measured = row.evidence.measured if row.evidence is not None and paired else None
        contenders.append(Contender(contender.value, contender.low, contender.high, measured))
    found = standings(contenders, left_out, higher_is_better=upwards(known[0][0].first))
    for (row, _), standing in zip(known, found, strict=True):
        row.standing = standing


def _contender(row: BoardRow) -> Contender | str:
    """A row's number with its interval, or why it has none to be ranked by."""
    value, low, high = row.metrics.get(row.first.primary, (None, None, None))
    if value is None:
        return NO_VALUE
    if low is None or high is None:
        return NO_INTERVAL
    return Contender(value, low, high)


def _split(row: BoardRow) -> str:
    return str(row.first.data.get("split_hash", ""))
