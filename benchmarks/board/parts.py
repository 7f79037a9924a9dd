"""Numbers by part: answers by the kind of their question, findings one by one.

A metric calls them ``<number>_of_<part>``; as columns of one table there would be dozens, so each part is a line.
"""

from __future__ import annotations

from collections.abc import Sequence

from medgraft.benchmarks.board.rows import BoardRow
from medgraft.benchmarks.board.text import with_interval

OF = "_of_"


def is_part(name: str) -> bool:
    """Whether a number is of one part only.

    Example:
        >>> is_part("exact_match_of_closed_plane"), is_part("exact_match")
        (True, False)
    """
    number, _, part = name.partition(OF)
    return bool(number and part)


def part_tables(members: Sequence[BoardRow]) -> list[tuple[list[str], list[list[str]]]]:
    """Heads and lines of tables of parts, one for each set of numbers that share their parts.

    Args:
        members: Rows of one task.
    """
    parts: dict[str, list[str]] = {}
    for row in members:
        for name in filter(is_part, row.metrics):
            number, _, part = name.partition(OF)
            if part not in (known := parts.setdefault(number, [])):
                known.append(part)
    together: dict[tuple[str, ...], list[str]] = {}
    for number, named in parts.items():
        together.setdefault(tuple(sorted(named)), []).append(number)
    return [_table(members, numbers, shared) for shared, numbers in together.items()]


def _table(
    members: Sequence[BoardRow], numbers: Sequence[str], parts: Sequence[str]
) -> tuple[list[str], list[list[str]]]:
    lines = [
        [
            part.replace("_", " "),
            row.first.spec.encoder,
            row.adapter,
            *(with_interval(row.metrics.get(f"{number}{OF}{part}")) for number in numbers),
        ]
        for part in parts
        for row in members
        if row.metrics
    ]
    return ["of", "encoder", "adapter", *numbers], lines
