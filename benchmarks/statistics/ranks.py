"""Ranks of rows with their intervals: rows that the data do not separate share a rank."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """Where a row stands among those of its table.

    Attributes:
        rank: 1 is best; rows that the data do not separate share it.
        low: Best rank that the data allow, the lower end of the 95% interval of the rank.
        high: Worst rank that they allow.
        tie: Number of the group of rows that share ``rank``, from 1 in the order of the board.
    """

    rank: int
    low: int
    high: int
    tie: int
