"""Ranks of the rows of a board, table by table."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.benchmarks.metrics.student import quantile
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.statistics.evidence import Evidence
from medgraft.benchmarks.statistics.pairs import differences
from medgraft.benchmarks.statistics.ranks import BesideFull, Contender, Standing, standings

NO_VALUE = "its metric is undefined, or no seed succeeded"
NO_INTERVAL = "its metric has no interval"
OTHER_SPLIT = "it was tested on other subjects than the other rows of its table"
FULL = "full_finetune"
"""Adapter that trains the whole encoder."""

NO_PREDICTIONS = "its predictions are not at hand, so its rank interval is wider than they would make it"


class Ranked(Protocol):
    """What is ranked: :class:`medgraft.benchmarks.board.rows.BoardRow`, which has its standing from here."""

    metrics: dict[str, tuple[float | None, float | None, float | None]]
    standing: Standing | None
    standing_note: str
    beside_full: BesideFull | None
    evidence: Evidence | None

    @property
    def section(self) -> tuple[bool, str, str, str]:
        """What the rows of one table share."""
        ...

    @property
    def first(self) -> CellResult:
        """A result that says what all of the row share."""
        ...


def give_standings(rows: Sequence[Ranked], upwards: Callable[[CellResult], bool]) -> None:
    """Gives each row its standing in its table, or the reason why it has none.

    A table ranks the rows that were tested on the same subjects: the most of them where there are several groups. A
    row whose predictions are not at hand is told from others by its interval alone.

    Args:
        rows: Of a board; their evidence is dropped afterwards.
        upwards: Whether more of a result's primary metric is better.
    """
    tables: dict[tuple[bool, str, str, str, str], list[Ranked]] = defaultdict(list)
    for row in rows:
        tables[*row.section, row.first.primary].append(row)
    for members in tables.values():
        _rank_table(members, upwards)
    for row in rows:
        row.evidence = None


def _rank_table(members: Sequence[Ranked], upwards: Callable[[CellResult], bool]) -> None:
    known: list[tuple[Ranked, Contender]] = []
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
    left_out, contenders = _test_split([row for row, _ in known], digest), list[Contender]()
    for row, contender in known:
        if row.evidence is None or row.evidence.subjects != digest:
            row.evidence, row.standing_note = None, NO_PREDICTIONS
        measured = None if row.evidence is None else row.evidence.measured
        contenders.append(Contender(contender.value, contender.low, contender.high, measured))
    if left_out is not None:
        _beside_full([row for row, _ in known if row.evidence is not None], left_out, upwards)
    found = standings(contenders, left_out, higher_is_better=upwards(known[0][0].first))
    for (row, _), standing in zip(known, found, strict=True):
        row.standing = standing


def _test_split(rows: Sequence[Ranked], digest: str) -> LeftOut | None:
    """That of the rows with a digest, whose evidence goes where it is of another number of subjects."""
    left_out = None
    for row in reversed(rows):
        if row.evidence is None or row.evidence.subjects != digest:
            continue
        try:
            left_out = left_out or row.evidence.left_out
        except UnreadableError:  # its predictions have gone since they were judged; those of another row will do
            row.evidence = None
            continue
        if row.evidence.measured.influences.shape != left_out.size.shape:
            row.evidence = None
    return left_out


def _beside_full(paired: Sequence[Ranked], left_out: LeftOut, upwards: Callable[[CellResult], bool]) -> None:
    """Gives the rows of a table their gain over full fine-tuning of the same encoder, where there is one such row.

    Args:
        paired: Those with evidence on the same test subjects.
        left_out: Of these.
        upwards: Whether more of a result's primary metric is better.
    """
    for encoder in dict.fromkeys(row.first.spec.encoder for row in paired):
        rows = [row for row in paired if row.first.spec.encoder == encoder]
        full = [row for row in rows if row.first.spec.adapter == FULL]
        if len(full) != 1 or full[0].evidence is None:
            continue
        others = [row for row in rows if row is not full[0] and row.evidence is not None]
        measured = [full[0].evidence.measured, *(row.evidence.measured for row in others if row.evidence is not None)]
        found = differences(measured, [(i, 0) for i in range(1, len(measured))], left_out)
        sign = 1.0 if upwards(full[0].first) else -1.0
        for row, value, variance, freedom in zip(others, found.value, found.variance, found.freedom, strict=True):
            if not np.isnan(variance):
                half = quantile(float(freedom)) * float(np.sqrt(variance))
                gain = sign * float(value)
                row.beside_full = BesideFull(gain, gain - half, gain + half, _share(row, full[0]))


def _share(row: Ranked, full: Ranked) -> float | None:
    counts = [sum(each.first.efficiency.trainable.values()) if each.first.efficiency else 0 for each in (row, full)]
    return counts[0] / counts[1] if counts[1] else None


def _contender(row: Ranked) -> Contender | str:
    """A row's number with its interval, or why it has none to be ranked by."""
    value, low, high = row.metrics.get(row.first.primary, (None, None, None))
    if value is None:
        return NO_VALUE
    if low is None or high is None:
        return NO_INTERVAL
    return Contender(value, low, high)


def _split(row: Ranked) -> str:
    return str(row.first.data.get("split_hash", ""))
