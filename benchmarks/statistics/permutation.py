"""Paired permutation test: if two rows are equal, swapping their predictions of a subject changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np

from medgraft.metric import Array, Predictions, WeightedStatistic, value_of
from medgraft.metric.judging import judged

PERMUTATIONS = 2000
BATCH = 250
ROUNDING = 1e-12
"""Differences of sums in another order; a permutation so near to what was seen counts as being as far."""


def permutation_p(
    first: Sequence[Predictions],
    second: Sequence[Predictions],
    number: str,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float | None:
    """Two-sided p-value of no difference in one number, of any metric.

    All samples of a subject are swapped together, and in all seeds: the test is about the trained seeds as they are on
    other subjects, and says nothing of other seeds. Where the metric reads no more of the scores than their order,
    ranks are swapped, so that rows whose scores are on different scales can be (Bandos, Rockette and Gur, Statistics in
    Medicine 24, 2005). With few subjects all ``2^S`` ways are taken and the p-value is exact; else random ones, and
    what was seen counts as one of them (Phipson and Smyth, Statistical Applications in Genetics and Molecular Biology
    9, 2010).

    Args:
        first: Predictions of each seed of one row.
        second: Of each seed of the other, on the same samples. Where there are fewer seeds on one side, they are taken
            again in turn.
        number: Name of the number.
        permutations: Random ones.
        seed: Of these.

    Returns:
        ``None`` where the predictions cannot be exchanged: they are of different shapes, or the number is undefined.
    """
    seeds = max(len(first), len(second))
    if seeds % len(first) or seeds % len(second):
        seeds = len(first) * len(second)
    pairs = [(first[s % len(first)], second[s % len(second)]) for s in range(seeds)]
    both = [_exchangeable(one, other, number) for one, other in pairs]
    groups = first[0].groups
    if any(each is None for each in both):
        return None

    def difference(swapped: Array) -> Array:
        taken = np.where(swapped[:, groups], 0.0, 1.0)
        mine, theirs = np.hstack([taken, 1 - taken]), np.hstack([1 - taken, taken])
        return np.mean([each(mine) - each(theirs) for each in both if each is not None], axis=0)

    S = int(groups.max()) + 1
    seen = abs(float(difference(np.zeros((1, S), bool))[0]))
    if np.isnan(seen):
        return None
    exact = S < 31 and permutations >= 2**S
    drawn = np.concatenate([np.abs(difference(swaps)) for swaps in _swaps(S, permutations, seed, exact=exact)])
    drawn = drawn[~np.isnan(drawn)]
    as_far = int((drawn >= seen - ROUNDING).sum())
    return as_far / len(drawn) if exact else (1 + as_far) / (1 + len(drawn))


def _swaps(S: int, permutations: int, seed: int, *, exact: bool) -> Iterator[Array]:
    """Which subjects are swapped, ``bool [<= BATCH, S]`` at a time."""
    rng, total = np.random.default_rng([seed, 47]), 2**S if exact else permutations
    for start in range(0, total, BATCH):
        count = min(BATCH, total - start)
        if exact:
            yield (np.arange(start, start + count)[:, None] >> np.arange(S)) % 2 == 1
        else:
            yield rng.random((count, S)) < 0.5


def _exchangeable(first: Predictions, second: Predictions, number: str) -> WeightedStatistic | None:
    """The number as a function of weights ``[R, 2n]`` of the samples of both rows."""
    if first.scores.shape[1:] != second.scores.shape[1:] or set(first.columns) != set(second.columns):
        return None
    values = [_probed(each, number) for each in (first, second)]
    for change in (_ranked, _with_one_threshold, _as_they_are):
        changed = [change(each) for each in (first, second)]
        if np.allclose([_probed(each, number) for each in changed], values, rtol=0, atol=1e-9):
            return judged(_joined(*changed)).statistics.get(number)
    return None


def _probed(p: Predictions, number: str) -> Array:
    """The number of the samples themselves and under three sets of weights, which chance does not make equal."""
    statistic = judged(p).statistics.get(number)
    if statistic is None:
        return np.full(4, np.nan)
    weights = np.random.default_rng(53).standard_exponential((3, len(p.targets)))
    return np.concatenate([[value_of(statistic, len(p.targets))], statistic(weights)])


def _as_they_are(p: Predictions) -> Predictions:
    return replace(p, thresholds=None) if p.thresholds is not None and p.scores.ndim == 2 else p


def _ranked(p: Predictions) -> Predictions:
    """Scores by their rank in their column, from 0 to 1; of samples that count, where some do not."""
    from scipy.stats import rankdata

    if p.scores.ndim != 2 or (p.mask is not None and not p.mask.all()):
        return _as_they_are(p)
    return replace(p, scores=(rankdata(p.scores, axis=0) - 0.5) / len(p.scores), thresholds=None)


def _with_one_threshold(p: Predictions) -> Predictions:
    """Scores of labels moved so that every threshold is 0.5, the one of scores without any."""
    if p.thresholds is None or p.scores.ndim != 2:
        return p
    moved = p.scores - p.thresholds[None]
    return replace(p, scores=np.where(moved >= 0, 0.5 + np.abs(moved), 0.5 - np.abs(moved)), thresholds=None)


def _joined(first: Predictions, second: Predictions) -> Predictions:
    """Samples of both, one after the other."""

    def both(pick: Callable[[Predictions], Array]) -> Array:
        return np.concatenate([pick(first), pick(second)])

    return replace(
        first,
        scores=both(lambda p: p.scores),
        targets=both(lambda p: p.targets),
        groups=both(lambda p: p.groups),
        mask=None if first.mask is None or second.mask is None else np.concatenate([first.mask, second.mask]),
        asked=None if first.asked is None or second.asked is None else np.concatenate([first.asked, second.asked]),
        columns={name: _one_column(column, second.columns[name]) for name, column in first.columns.items()},
    )


def _one_column(first: Array, second: Array) -> Array:
    """One column ``[n, ...]`` behind the other; texts are as wide as the longest of theirs, with zeros behind them."""
    if first.ndim == second.ndim == 2 and first.shape[1] != second.shape[1]:
        width = max(first.shape[1], second.shape[1])
        first, second = (np.pad(each, ((0, 0), (0, width - each.shape[1]))) for each in (first, second))
    return np.concatenate([first, second])
