"""How long a sweep still takes, from what its finished cells took."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

Kind = tuple[str, str]
"""Task and adapter: cells that share both take about as long."""


def seconds_left(
    ahead: Iterable[Kind], spent: Mapping[Kind, Sequence[float]], busy: Iterable[float], at_once: int
) -> float | None:
    """Seconds until the last cell has ended; ``None`` before the first has.

    Args:
        ahead: Of each cell that has not ended, those at work included.
        spent: Seconds that finished cells of a kind took; kinds without any take the mean of all.
        busy: Seconds for which each cell at work has run.
        at_once: Cells at a time.

    Example:
        >>> seconds_left([("siim", "lora")] * 4, {("siim", "lora"): [10.0, 14.0]}, [6.0, 2.0], 2)
        20.0
    """
    values = [value for each in spent.values() for value in each]
    if not values:
        return None
    overall = statistics.fmean(values)
    means = {kind: statistics.fmean(each) for kind, each in spent.items() if each}
    total = sum(means.get(kind, overall) for kind in ahead)
    return max(total - sum(min(each, overall) for each in busy), 0.0) / max(at_once, 1)


def clock(seconds: float) -> str:
    """Seconds for people.

    Example:
        >>> clock(42), clock(3700)
        ('42 s', '1 h 01 min')
    """
    minutes = int(seconds // 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
