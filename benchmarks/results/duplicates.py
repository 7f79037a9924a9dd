"""The same result found twice: under one key in folders that are merged, or under two keys, which somebody made.

Under one key two files should hold the same numbers. Where they do one of them counts, and nothing is said. Where they
do not, both may be right (another processor, another version of a library) and one may be edited; nothing tells which.
The checked one counts, then the one whose folder was named first: leaving both out would let any copy take a row off
everybody's board. What counts is said on the board, with the other's numbers.

Under two keys no two cells have the same times to the last digit. Such copies of one row (another seed was written in)
count once; copies in different rows are all left out, since nothing tells whose numbers they are.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.results.result import CellResult
from medgraft.commands.plain_text import one_line

TOLERANCE = 1e-6
"""Between two copies of one number, relative: libraries of other versions sum in another order."""

COPIED = "that are copies of another result under another key"
OTHER_NAME = "that are copies of another result under another name"
"""Kinds of :class:`medgraft.benchmarks.results.result_files.UnreadableError` of copies."""

SHOWN = 3
"""Numbers in a message."""


def same_value(one: float | None, other: float | None, tolerance: float = TOLERANCE) -> bool:
    """Whether two numbers are equal but for rounding; two that are undefined are.

    Example:
        >>> same_value(0.5, 0.5000001), same_value(0.5, 0.51), same_value(None, None), same_value(None, 0.5)
        (True, False, True, False)
    """
    if one is None or other is None:
        return one is other
    if not (math.isfinite(one) and math.isfinite(other)):
        return one == other
    return abs(one - other) <= tolerance * max(1.0, abs(one), abs(other))


def other_numbers(one: Mapping[str, Estimate], other: Mapping[str, Estimate], primary: str = "") -> list[str]:
    """Names of numbers that two results of one cell do not share, or have with other values; the primary one first."""
    names = [*([primary] if primary in one or primary in other else []), *one, *other]
    return [
        name
        for name in dict.fromkeys(names)
        if name not in one or name not in other or not same_value(one[name].value, other[name].value)
    ]


def conflict(counted: CellResult, other: CellResult) -> str:
    """What two successful results of one key do not agree on, in words; empty where they agree.

    Args:
        counted: The one that counts.
        other: The one that does not.
    """
    if counted.status != "success" or other.status != "success":
        return ""
    names = other_numbers(counted.metrics, other.metrics, counted.primary)
    if not names:
        return ""
    shown = [f"{one_line(n, 40)} {_told(counted.metrics, n)}, not {_told(other.metrics, n)}" for n in names[:SHOWN]]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    adapter = one_line(counted.spec.adapter, 60)
    return f"{adapter} seed {counted.spec.seed} was found twice with other numbers: {'; '.join(shown)}{more}"


def _told(metrics: Mapping[str, Estimate], name: str) -> str:
    value = metrics[name].value if name in metrics else None
    return "undefined" if value is None else f"{value:.6g}"


def measured(cell: CellResult) -> Hashable:
    """What was measured while a cell ran, equal for no two runs; ``None`` where nothing was.

    Times are kept to a millisecond, so one alone could be met twice by chance; all of them, and speeds, cannot.
    """
    speeds = cell.efficiency
    facts = (
        *sorted(cell.timing.items()),
        cell.training.get("seconds"),
        None if speeds is None else (speeds.train_samples_per_s, speeds.inference_samples_per_s),
    )
    numbers = [each for each in cell.timing.values() if each]
    return (facts, _values(cell)) if len(numbers) > 2 and isinstance(facts[-2], float) else None


def _values(cell: CellResult) -> tuple[tuple[str, float | None], ...]:
    return tuple((name, estimate.value) for name, estimate in cell.metrics.items())
