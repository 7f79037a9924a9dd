"""From two names to the rows that are compared, table by table."""

from __future__ import annotations

from collections.abc import Sequence

from medgraft.benchmarks.board.rows import BoardRow
from medgraft.commands.plain_text import one_line
from medgraft.errors import ConfigError, MedgraftError, UnknownNameError

CHOICES = 8
"""Rows that a message names."""


def label(row: BoardRow) -> str:
    """A row by its encoder, its adapter and what tells it from others of these."""
    return f"{row.first.spec.encoder}/{row.adapter}"


def names_of(row: BoardRow) -> set[str]:
    """What a person may call a row, in lower case."""
    spec = row.first.spec
    encoders = {spec.encoder, spec.encoder.partition("@")[0]}
    adapters = {spec.adapter, row.adapter}
    return {_plain(name) for name in adapters | {f"{encoder}/{each}" for encoder in encoders for each in adapters}}


def pairs_of(
    rows: Sequence[BoardRow], first: str, second: str, task: str | None = None
) -> list[tuple[BoardRow, BoardRow]]:
    """The rows that two names stand for, in each table that has both; on one encoder where the names leave it open.

    Args:
        rows: Of a board.
        first: Adapter, ``encoder/adapter``, or either with the note in brackets that the board shows.
        second: Likewise.
        task: Only its tables.

    Raises:
        UnknownNameError: No row has the name, or there are no results of the task; near ones are suggested.
        ConfigError: A name stands for several rows of one table, or both for the same; the message says which.
        MedgraftError: No table has both.
    """
    tasks = dict.fromkeys(row.first.spec.task for row in rows)
    if task is not None and task not in tasks:
        raise UnknownNameError("task", one_line(task, 80), tasks, "Name one that the results have.")
    members = [row for row in rows if task is None or row.first.spec.task == task]
    found = [_called(members, name) for name in (first, second)]
    pairs: list[tuple[BoardRow, BoardRow]] = []
    for table in dict.fromkeys(row.section for row in members):
        pairs += _in_table(*([row for row in each if row.section == table] for each in found))
    if not pairs:
        where = [sorted({row.title for row in each}) for each in found]
        raise MedgraftError(
            f"{one_line(first, 80)} and {one_line(second, 80)} have no table in common, and rows are compared on the "
            f"same task, cohort and samples: the first was tested on {_listed(where[0])}, the second on "
            f"{_listed(where[1])}"
        )
    for one, other in pairs:
        if one is other:
            raise ConfigError(f"{one_line(first, 80)} and {one_line(second, 80)} are both {one_line(label(one), 120)}")
    return pairs


def _called(rows: Sequence[BoardRow], name: str) -> list[BoardRow]:
    """All rows of that name."""
    wanted = _plain(name)
    if not (found := [row for row in rows if wanted in names_of(row)]):
        known = dict.fromkeys(each for row in rows for each in (row.first.spec.adapter, row.adapter, label(row)))
        raise UnknownNameError("row", one_line(name, 80), known, "Give an adapter or encoder/adapter of the results.")
    return found


def _in_table(first: Sequence[BoardRow], second: Sequence[BoardRow]) -> list[tuple[BoardRow, BoardRow]]:
    if not first or not second:
        return []
    encoders = [{row.first.spec.encoder for row in side} for side in (first, second)]
    shared = encoders[0] & encoders[1]
    if not shared or max(map(len, encoders)) == 1:
        return [(_only(first), _only(second))]
    on = [
        {name: [row for row in side if row.first.spec.encoder == name] for name in shared} for side in (first, second)
    ]
    return [(_only(on[0][name]), _only(on[1][name])) for name in sorted(shared)]


def _only(rows: Sequence[BoardRow]) -> BoardRow:
    if len(rows) > 1:
        names = _listed([label(row) for row in rows])
        raise ConfigError(f"several rows of {rows[0].title} have that name: {names}; name one as it stands here")
    return rows[0]


def _plain(name: str) -> str:
    return " ".join(name.casefold().split())


def _listed(names: Sequence[str]) -> str:
    shown = [one_line(name, 120) for name in names[:CHOICES]]
    return ", ".join(shown) + (f" and {len(names) - CHOICES} more" if len(names) > CHOICES else "")
