"""Ranks of rows with their intervals: rows that the data do not separate share a rank.

The rank interval of a row counts the rows that are better, and those that are not worse, beyond doubt: Mogstad, Romano,
Shaikh and Wilhelm, "Inference for ranks with applications to mobility across neighbourhoods and academic achievement
across countries", Review of Economic Studies 91, 2024. Differences of all pairs are tested on the same subjects, and
Holm's procedure keeps the chance of any wrong word about any pair of a table at 5%, so all rank intervals of a table
hold together in 95%. For rows whose predictions are not at hand, intervals that hold together take the place of paired
differences (Klein, Wright and Wieczorek, "A joint confidence region for an overall ranking of populations", Journal of
the Royal Statistical Society C 69, 2020): they separate less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.benchmarks.metrics.student import LEVEL
from medgraft.benchmarks.statistics.pairs import Measured, differences, holm
from medgraft.metric import Array

MOST_PAIRED = 150
"""Rows of a table up to which every pair is tested; more are told apart by intervals that hold together."""


@dataclass(frozen=True)
class Standing:
    """Where a row stands among those of its table.

    Attributes:
        rank: 1 is best. In the order of the values it grows where a row is separated from better ones, to ``low`` of
            that row; rows between two such steps share it.
        low: Best rank that the data allow, the lower end of the 95% interval of the rank.
        high: Worst rank that they allow.
        tie: Number of the group of rows that share ``rank``, from 1 in the order of the board.
    """

    rank: int
    low: int
    high: int
    tie: int


@dataclass(frozen=True)
class Contender:
    """What is known of one row of a table.

    Attributes:
        value: Of the number that ranks it.
        low: Lower end of its 95% interval.
        high: Upper end.
        measured: The number with each subject's influence; ``None`` where predictions are not at hand.
    """

    value: float
    low: float
    high: float
    measured: Measured | None = None


def standings(
    contenders: Sequence[Contender], left_out: LeftOut | None, *, higher_is_better: bool = True
) -> list[Standing]:
    """Standings of the rows of one table, all of which are of the same test subjects.

    Args:
        contenders: ``M`` rows.
        left_out: Of the test split; ``None`` where no row has its predictions at hand.
        higher_is_better: How the number is read.
    """
    M = len(contenders)
    if M > MOST_PAIRED:
        above, below = _by_joint_intervals(contenders)
    else:
        above, below = _by_pairs(contenders, left_out)
    better, worse = (above, below) if higher_is_better else (below, above)
    values = np.array([each.value for each in contenders])
    order = np.argsort(-values if higher_is_better else values, kind="stable")
    lows, ranks = 1 + better, np.empty(M, int)
    # Rows of one value have one rank, whatever their order.
    steps = np.maximum.accumulate([lows[values == values[i]].max() for i in order]) if M else np.zeros(0, int)
    ranks[order] = steps
    ties = {rank: tie for tie, rank in enumerate(sorted(set(ranks.tolist())), start=1)}
    highs = M - worse
    found = zip(ranks.tolist(), lows.tolist(), highs.tolist(), strict=True)
    return [Standing(rank, low, high, ties[rank]) for rank, low, high in found]


def _by_pairs(contenders: Sequence[Contender], left_out: LeftOut | None) -> tuple[Array, Array]:
    """How many rows have a number that is surely larger than that of each row, ``int64 [M]``, and surely smaller."""
    M = len(contenders)
    first, second = np.triu_indices(M, 1)
    if not len(first):
        return np.zeros(M, int), np.zeros(M, int)
    values = np.array([each.value for each in contenders])
    difference = values[first] - values[second]
    p_values = _by_ends(contenders, first, second)
    known = [i for i, each in enumerate(contenders) if each.measured is not None]
    place = np.full(M, -1)
    place[known] = np.arange(len(known))
    paired = (place[first] >= 0) & (place[second] >= 0)
    if left_out is not None and paired.any():
        rows = [each.measured for each in contenders if each.measured is not None]
        found = differences(rows, np.stack([place[first], place[second]], axis=1)[paired], left_out)
        p_values[paired] = found.p_values()
    separated = holm(np.nan_to_num(p_values, nan=1.0)) <= 1 - LEVEL
    larger, smaller = np.zeros(M, int), np.zeros(M, int)
    for up, down, chosen in (
        (first, second, separated & (difference > 0)),
        (second, first, separated & (difference < 0)),
    ):
        np.add.at(larger, down[chosen], 1)
        np.add.at(smaller, up[chosen], 1)
    return larger, smaller


def _by_ends(contenders: Sequence[Contender], first: Array, second: Array) -> Array:
    """P-values of pairs from the rows' own intervals, whatever the rows have in common.

    The deviation of a difference is at most the sum of the deviations.
    """
    from scipy.special import ndtr, ndtri

    values, lows, highs = (np.array([getattr(each, name) for each in contenders]) for name in ("value", "low", "high"))
    up = values[first] >= values[second]
    over, under = np.where(up, first, second), np.where(up, second, first)
    deviation = (values[over] - lows[over] + highs[under] - values[under]) / ndtri((1 + LEVEL) / 2)
    difference = values[over] - values[under]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(difference == 0, 1.0, 2 * ndtr(-difference / np.maximum(deviation, 0.0)))


def _by_joint_intervals(contenders: Sequence[Contender]) -> tuple[Array, Array]:
    """The same for many rows, by intervals of which all hold together in 95%."""
    from scipy.special import ndtri

    values, lows, highs = (np.array([getattr(each, name) for each in contenders]) for name in ("value", "low", "high"))
    wider = ndtri(1 - (1 - LEVEL) / (2 * len(values))) / ndtri((1 + LEVEL) / 2)
    lows, highs = values - (values - lows) * wider, values + (highs - values) * wider
    larger = len(values) - np.searchsorted(np.sort(lows), highs, side="right")
    return larger, np.searchsorted(np.sort(highs), lows, side="left")
