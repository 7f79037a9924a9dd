"""How far a statistic would move on other test subjects, and how well few subjects tell that.

Delete-one-subject jackknife, by strata. Leaving out one subject at a time gives each subject's influence on a
statistic; the variance of the statistic is the sum of their squared deviations (Efron and Stein, "The jackknife
estimate of variance", Annals of Statistics 9, 1981). A subject is left out with all its samples, so samples of one
person are never independent facts.

The subjects of a class are a stratum. Three subjects with a finding tell their own spread with two degrees of freedom,
however many subjects have none: the squared influences within each stratum of ``n`` subjects are taken times
``n / (n - 1)``, and the degrees of freedom of the sum are Satterthwaite's (Biometrics Bulletin 2, 1946), as Brunner and
Munzel ("The nonparametric Behrens-Fisher problem", Biometrical Journal 42, 2000) take them for an AUROC. For means over
all samples that makes the variance unbiased. For a mean within a class, as an AUROC is, leaving one out of ``n`` moves
it by ``n / (n - 1)`` of its influence already, so that each of the two terms of DeLong et al. (1988) stands times
``n^2 / (n - 1)^2``: more than unbiased with a handful of subjects, and what makes their intervals hold in simulation
(:mod:`medgraft.benchmarks.audit.interval_coverage`). What classes differ by counts too, since other test subjects would
be of other classes: it is no part of an AUROC, and much of an accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.metric import Array, WeightedStatistic, value_of

BATCH = 250
"""Sets of weights that are evaluated at once."""

EACH = 300
"""Test subjects up to which each is left out by itself."""

RARE = 40
"""Subjects of a stratum up to which each is left out by itself, however many there are of others."""

BLOCKS = 200
"""Blocks of the others, which are left out together: so many tell a variance to a tenth."""


@dataclass(frozen=True)
class Spread:
    """Variance of one statistic over test subjects, or of many: arrays of one shape.

    Attributes:
        variance: With the factor of small strata; ``nan`` where the statistic is undefined without some subject.
        freedom: Degrees of freedom of that variance.
        inflation: ``variance`` over what resampling would find, whose spread of ``n`` subjects is too small by
            ``(n - 1) / n``.
    """

    variance: Array
    freedom: Array
    inflation: Array


class LeftOut:
    """The sets of weights that leave out subjects, for one test split, and the variance that follows.

    Args:
        groups: ``int64 [n]`` subject number of each sample, ``0 .. S - 1``.
        partitions: Each a way to divide the samples into classes, ``int64 [n]``. A subject with samples of several is
            of the rarest. None for statistics without classes.
        seed: Of the blocks in which subjects of common classes are left out, where there are more than :data:`EACH`.
    """

    def __init__(self, groups: Array, partitions: Sequence[Array] = (), seed: int = 0) -> None:
        self.groups, self.n_subjects = groups, int(groups.max()) + 1
        strata = [_of_subjects(groups, each, self.n_subjects) for each in partitions]
        self.block = _blocks(strata, self.n_subjects, seed)
        self.size = np.bincount(self.block).astype(float)
        first = np.full(len(self.size), self.n_subjects)
        np.minimum.at(first, self.block, np.arange(self.n_subjects))
        alone = self.size == 1
        self.members = [
            _indicators(np.where(alone, each[first], -1) if len(self.size) < self.n_subjects else each[first])
            for each in strata
        ] or [np.ones((len(self.size), 1))]
        self.rarest = min((int(np.bincount(each).min()) for each in strata if len(each)), default=self.n_subjects)
        self._strata = strata

    def influences(self, statistics: Mapping[str, WeightedStatistic]) -> dict[str, Array]:
        """Influence of each of ``D`` blocks of subjects on each statistic, ``[D]``.

        They add up to about 0, and are ``nan`` where the statistic is undefined without the block.
        """
        D, block = len(self.size), self.block[self.groups]
        without: dict[str, list[Array]] = {name: [] for name in statistics}
        for start in range(0, D, BATCH):
            weights = (block[None] != np.arange(start, min(start + BATCH, D))[:, None]).astype(np.float64)
            for name, statistic in statistics.items():
                without[name].append(statistic(weights))
        left = (self.n_subjects - self.size) / self.n_subjects
        values = {name: value_of(statistic, len(block)) for name, statistic in statistics.items()}
        return {name: (values[name] - np.concatenate(each)) * left for name, each in without.items()}

    def spread(self, influences: Array) -> Spread:
        """Variance and degrees of freedom, in the division into strata that gives the widest interval.

        Args:
            influences: ``[..., D]``.

        Returns:
            Arrays ``[...]``.
        """
        total = influences.sum(axis=-1, keepdims=True)
        centred = influences - self.size * total / self.n_subjects
        found = [self._within(centred, members) for members in self.members]
        width = np.stack([half_width(each.variance, each.freedom) for each in found])
        widest = np.argmax(np.where(np.isnan(width), -1.0, width), axis=0)[None]
        variance, freedom, inflation = (
            np.take_along_axis(np.stack([getattr(each, name) for each in found]), widest, axis=0)[0]
            for name in ("variance", "freedom", "inflation")
        )
        return Spread(variance, freedom, inflation)

    def _within(self, centred: Array, members: Array) -> Spread:
        """In one division into strata, ``members`` ``[D, H]``."""
        blocks, subjects = members.sum(axis=0), self.size @ members
        mean = centred @ members / subjects
        squares = (
            centred**2 @ members - 2 * mean * ((centred * self.size) @ members) + mean**2 * (self.size**2 @ members)
        )
        found = np.maximum(squares, 0.0)
        within = found * blocks / np.maximum(blocks - 1, 1)
        last = len(self.size) - 1
        between = (subjects * mean**2).sum(axis=-1) * (last + 1) / max(last, 1)
        variance = within.sum(axis=-1) + between
        doubt = (within**2 / np.maximum(blocks - 1, 1)).sum(axis=-1) + between**2 / max(last, 1)
        freedom = np.divide(variance**2, doubt, out=np.full(np.shape(variance), float(max(last, 1))), where=doubt > 0)
        seen = found.sum(axis=-1) + (subjects * mean**2).sum(axis=-1)
        inflation = np.divide(variance, seen, out=np.ones(np.shape(variance)), where=seen > 0)
        return Spread(variance, freedom, inflation)

    def fewest(self, statistic: WeightedStatistic) -> int | None:
        """Subjects of the rarest class without which a statistic is undefined; ``None`` where it needs no class."""
        needed = [
            int(members.sum())
            for strata in self._strata
            for members in (strata == stratum for stratum in np.unique(strata))
            if not members.all() and np.isnan(statistic((~members)[self.groups][None].astype(np.float64))[0])
        ]
        return min(needed, default=None)


def half_width(variance: Array, freedom: Array, level: float = 0.95) -> Array:
    """Half of Student's interval, of variances and degrees of freedom ``[K]``."""
    from scipy.special import stdtrit

    return stdtrit(freedom, (1 + level) / 2) * np.sqrt(variance)


def _of_subjects(groups: Array, classes: Array, n_subjects: int) -> Array:
    """Stratum of each subject, ``int64 [S]`` from 0: the rarest of its classes. One subject alone is no stratum."""
    _, classes = np.unique(classes, return_inverse=True)
    pairs = np.unique(np.stack([groups, classes]), axis=1)
    counts = np.bincount(pairs[1])
    rarest = np.full(n_subjects, -1)
    for k in np.argsort(-counts, kind="stable"):
        rarest[pairs[0, pairs[1] == k]] = k
    while True:
        names, strata, counts = np.unique(rarest, return_inverse=True, return_counts=True)
        if len(names) == 1 or counts.min() > 1:
            return strata
        smallest, next_smallest = names[np.argsort(counts, kind="stable")[:2]]
        rarest[rarest == smallest] = next_smallest  # collapsed, as in surveys with one sampled unit in a stratum


def _blocks(strata: Sequence[Array], n_subjects: int, seed: int) -> Array:
    """Block of each subject, ``int64 [S]`` from 0."""
    if n_subjects <= EACH:
        return np.arange(n_subjects)
    alone = np.zeros(n_subjects, bool)
    for each in strata:
        alone |= np.bincount(each)[each] <= RARE
    block, others = np.full(n_subjects, -1), np.flatnonzero(~alone)
    block[np.random.default_rng([seed, 43]).permutation(others)] = np.arange(len(others)) % min(
        BLOCKS, len(others) or 1
    )
    block[alone] = np.arange(alone.sum()) + block.max() + 1
    return block


def _indicators(strata: Array) -> Array:
    """Strata ``[D]`` -> ``float64 [D, H]``, 1 where a block is of the stratum."""
    names, counts = np.unique(strata, return_counts=True)
    kept = np.where(np.isin(strata, names[counts > 1]), strata, -1)
    names, counts = np.unique(kept, return_counts=True)
    if len(names) > 1 and counts.min() == 1:  # what is left of a stratum whose others are in blocks
        kept[kept == names[counts.argmin()]] = names[counts.argmax()]
        names = np.unique(kept)
    return (kept[:, None] == names).astype(np.float64)
