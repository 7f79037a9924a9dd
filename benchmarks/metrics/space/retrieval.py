"""Whether a person's scan of one kind finds that person's scan of another kind among those of others.

``p.scores`` are the embeddings of ``M`` modalities side by side, ``[n, M * K]``, of which the first columns each are
compared, as many as the column ``common`` says. Further columns: ``present_<modality>`` ``bool [n]``, the anchor first;
and, where confounds are known, ``matched_<modality>`` ``[n, F]``, what each modality says of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np

from medgraft.benchmarks.metrics.weighted import mean_of, share
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

RANKS = (1, 5)
KINDS = ("anchor", "emergent")
RIVALS = ("", "_chance", "_confounds")


class Retrieval(Metric):
    """``r1_anchor`` and so on: share of scans whose partner is among the first 1 or 5, by cosine of the common parts.

    ``anchor`` is the mean over the pairs of the first modality with each other one, which were trained together,
    ``emergent`` that over all other pairs, which were not. Both directions count alike. The gallery of a query holds
    its partner and the scans of all other people who have both kinds; it stays as it is where people are resampled for
    an interval. Of scans that are equally near each is first as often as the others.

    ``_chance`` is what guessing reaches with the same galleries, ``_confounds`` matching by age, sex, site and head
    size alone, as far as the features tell them.
    """

    title = "retrieval between modalities"
    numbers = tuple(f"r{k}_{kind}{rival}" for kind in KINDS for k in RANKS for rival in RIVALS)
    over_samples = numbers

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        names = modalities_of(p)
        count = len(names)
        present = np.stack([p.columns[f"present_{name}"].astype(bool) for name in names], axis=1)
        common = int(p.columns["common"][0])
        rows = dict(zip(names, np.split(p.scores, count, axis=1), strict=True))
        common_parts = {name: _unit(part[:, :common]) for name, part in rows.items()}
        told = [p.columns[f"matched_{name}"] for name in names if f"matched_{name}" in p.columns]
        overall: dict[str, list[WeightedStatistic]] = {}
        by_pair: dict[str, WeightedStatistic] = {}
        for a, b in combinations(range(count), 2):
            first, second = names[a], names[b]
            similar = {"": common_parts[first] @ common_parts[second].T}
            if len(told) == count:
                similar["_confounds"] = -_distances(told[a], told[b])
            kind = KINDS[a > 0]
            for rival, matrix in similar.items():
                for number, statistic in _pair(matrix, present[:, a] & present[:, b], p.groups).items():
                    level, _, guessed = number.partition("_")
                    if guessed and rival:
                        continue
                    overall.setdefault(f"{level}_{kind}{rival or (guessed and '_chance')}", []).append(statistic)
                    if not guessed:
                        by_pair[f"{level}_{first}_{second}{rival}"] = statistic
        means = {name: mean_of(overall[name]) for name in self.numbers if name in overall}
        return {**means, **by_pair}


def modalities_of(p: Predictions) -> list[str]:
    """Names of the modalities in some predictions, the anchor first."""
    return [name.removeprefix("present_") for name in p.columns if name.startswith("present_")]


def _unit(rows: Array) -> Array:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _distances(first: Array, second: Array) -> Array:
    return np.sqrt(((first[:, None] - second[None]) ** 2).sum(axis=-1))


def _pair(similar: Array, both: Array, groups: Array) -> dict[str, WeightedStatistic]:
    """``r1``, ``r5`` and what guessing reaches, ``r1_chance``, of two modalities; both directions count alike.

    Args:
        similar: Of each sample's first to each sample's second scan, ``[n, n]``.
        both: Samples with both, ``bool [n]``.
        groups: Subject of each sample, ``int64 [n]``.
    """
    forth, back = (hit_shares(matrix, both, groups) for matrix in (similar, similar.T))
    asked = both.astype(float)
    found: dict[str, WeightedStatistic] = {}
    for k in RANKS:
        found[f"r{k}"] = share((forth[k] + back[k]) / 2 * asked, asked)
        found[f"r{k}_chance"] = share(np.minimum(1, k / np.maximum(forth[0], 1)) * asked, asked)
    return found


def hit_shares(similar: Array, both: Array, groups: Array) -> dict[int, Array]:
    """How often each sample's partner is among the first, and how many scans a gallery holds.

    Args:
        similar: ``[n, n]``, of each query to each scan of the gallery; the diagonal are the partners.
        both: Samples that take part, ``bool [n]``.
        groups: Subject of each sample; other visits of a query's subject are no part of its gallery.

    Returns:
        Rank -> probability ``float64 [n]`` that the partner is within it, ties broken at random; 0 -> size of the
        gallery. Samples that take no part have 0.

    Example:
        >>> close = np.array([[0.9, 0.1, 0.5], [0.2, 0.2, 0.1], [0.3, 0.4, 0.2]])
        >>> hit_shares(close, np.ones(3, bool), np.arange(3))[1].tolist()
        [1.0, 0.5, 0.0]
    """
    others = both[None] & (groups[:, None] != groups[None])
    partner = np.diagonal(similar)[:, None]
    better = (others & (similar > partner)).sum(axis=1)
    tied = 1 + (others & (similar == partner)).sum(axis=1)
    hits = {k: np.where(both, np.clip((k - better) / tied, 0.0, 1.0), 0.0) for k in RANKS}
    return {0: np.where(both, 1 + others.sum(axis=1), 0), **hits}
