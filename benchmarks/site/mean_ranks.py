"""Mean ranks of adapters over tasks, and which of them the tasks do not tell apart.

Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, 2006: ranks by task (1 is best, ties
share the mean of their ranks), Friedman's test of whether any adapter differs (section 3.2.2), and Nemenyi's critical
difference ``CD = q sqrt(k (k + 1) / (6 N))`` of mean ranks of ``k`` adapters over ``N`` tasks, ``q`` the 95th
percentile of the Studentised range over ``sqrt(2)``.

Tasks must be comparable and independent. So an adapter has one rank per task: its mean rank over the encoders that it
ran on there, ranked again among the adapters; and generated cohorts are never mixed with real ones.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from medgraft.benchmarks.board.document import Document, Row

LEVEL = 0.95
Block = tuple[str, str]
"""Table and encoder: where adapters are ranked against each other."""


@dataclass(frozen=True)
class MeanRanks:
    """Adapters over tasks.

    Attributes:
        names: Adapters, the best first.
        ranks: Mean rank of each.
        tasks: Titles of the tasks.
        difference: Nemenyi's critical difference.
        p_value: Of Friedman's test; ``None`` for two adapters, of which it needs three.
        left_out: Adapters that did not run on all of these tasks.
    """

    names: tuple[str, ...]
    ranks: tuple[float, ...]
    tasks: tuple[str, ...]
    difference: float
    p_value: float | None
    left_out: tuple[str, ...] = ()

    def groups(self) -> list[tuple[int, int]]:
        """Longest runs of adapters, first and last, whose mean ranks lie within the critical difference."""
        runs: list[tuple[int, int]] = []
        for first in range(len(self.ranks)):
            last = max(n for n in range(first, len(self.ranks)) if self.ranks[n] - self.ranks[first] <= self.difference)
            if last > first and not any(start <= first and last <= end for start, end in runs):
                runs.append((first, last))
        return runs


def critical_difference(k: int, n: int) -> float:
    """Nemenyi's critical difference of mean ranks of ``k`` adapters over ``n`` tasks at 5%.

    Example:
        >>> round(critical_difference(4, 14), 2)  # Demsar's example, page 16, with q = 2.569
        1.25
    """
    from scipy.stats import studentized_range

    q = float(studentized_range.ppf(LEVEL, k, np.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


def mean_ranks(document: Document, *, phantom: bool) -> MeanRanks | str:
    """Mean ranks over the tasks of real or of generated cohorts; why there are none, in words, where there are not.

    Args:
        document: The board.
        phantom: Of generated cohorts.
    """
    sections = {section.id: section for section in document.sections if section.phantom == phantom}
    blocks: dict[Block, dict[str, float]] = defaultdict(dict)
    for row in document.rows:
        if row.section in sections:
            section = sections[row.section]
            value = row.metrics.get(section.primary, (None, None, None))[0]
            if value is not None:
                down = section.primary in section.lower_is_better
                blocks[row.section, row.encoder][_name(row)] = value if down else -value
    chosen, kept = _complete(blocks)
    tasks = list(dict.fromkeys(section for section, _ in kept))
    if len(tasks) < 2:
        kind = "generated" if phantom else "real"
        return f"A comparison over tasks needs two tasks or more of {kind} cohorts on which the same adapters ran."
    table = np.array([_ranks_of_task(task, chosen, kept, blocks) for task in tasks])
    means = table.mean(axis=0)
    order = np.argsort(means, kind="stable")
    every = dict.fromkeys(name for block in blocks.values() for name in block)
    return MeanRanks(
        tuple(chosen[n] for n in order),
        tuple(float(means[n]) for n in order),
        tuple(sections[task].title for task in tasks),
        critical_difference(len(chosen), len(tasks)),
        _friedman(table),
        tuple(name for name in every if name not in chosen),
    )


def _name(row: Row) -> str:
    return f"{row.adapter} ({row.note})" if row.note else row.adapter


def _complete(blocks: Mapping[Block, Mapping[str, float]]) -> tuple[list[str], list[Block]]:
    """Adapters, and blocks that have them all, so that there are as many ranks as can be over two tasks or more.

    Adapters are taken in the order of how many blocks have them, which finds the largest table where the adapters that
    ran rarely ran where the others did.
    """
    counts: dict[str, int] = defaultdict(int)
    for block in blocks.values():
        for name in block:
            counts[name] += 1
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    best: tuple[int, list[str], list[Block]] = (0, [], [])
    kept = list(blocks)
    for size, name in enumerate(ordered, 1):
        kept = [block for block in kept if name in blocks[block]]
        tasks = {section for section, _ in kept}
        if len(tasks) < 2:
            break
        if size >= 2 and size * len(tasks) >= best[0]:
            best = (size * len(tasks), ordered[:size], list(kept))
    return best[1], best[2]


def _ranks_of_task(
    task: str, names: Sequence[str], kept: Sequence[Block], blocks: Mapping[Block, Mapping[str, float]]
) -> np.ndarray:
    from scipy.stats import rankdata

    here = [rankdata([blocks[block][name] for name in names]) for block in kept if block[0] == task]
    return rankdata([fmean(ranks) for ranks in zip(*here, strict=True)])


def _friedman(table: np.ndarray) -> float | None:
    """P value of Friedman's test of ranks ``[N, k]``; ``None`` for two adapters."""
    from scipy.stats import friedmanchisquare

    if table.shape[1] < 3:
        return None
    p = float(friedmanchisquare(*table.T).pvalue)
    return p if math.isfinite(p) else None
