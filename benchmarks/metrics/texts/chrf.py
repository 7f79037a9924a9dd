"""chrF and chrF++ of generated texts: F-scores of n-grams of characters, and of words beside them.

Popović, "chrF: character n-gram F-score for automatic MT evaluation", WMT 2015, and "chrF++: words helping character
n-grams", WMT 2017: characters up to 6, words up to 0 or 2, recall twice as heavy. Counts are sacrebleu's; as there, the
score is made of the mean precision and the mean recall over orders that both sides have.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.benchmarks.metrics.texts.columns import pairs_of
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

KINDS = {"chrf": 0, "chrf_plus_plus": 2}
"""Number -> order of words beside characters."""
BETA = 2


class Chrf(Metric):
    """``chrf`` and ``chrf_plus_plus`` of the corpus, and means of the texts' own with ``_by_sample``, from 0 to 1."""

    title = "chrF"
    numbers = (*KINDS, *(f"{name}_by_sample" for name in KINDS))

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        pairs = pairs_of(p)
        corpus: dict[str, WeightedStatistic] = {}
        alone: dict[str, WeightedStatistic] = {}
        for name, words in KINDS.items():
            counts = counts_of(pairs, words)
            corpus[name] = lambda weights, counts=counts: chrf(weights @ counts)
            alone[f"{name}_by_sample"] = weighted_mean(chrf(counts))
        return corpus | alone


def counts_of(pairs: list[tuple[str, str]], words: int) -> Array:
    """Of each pair and order, n-grams of the text, of the reference, and in both, ``[n, 3 * orders]``."""
    from sacrebleu.metrics.chrf import CHRF

    library = CHRF(word_order=words)
    texts, references = [text for text, _ in pairs], [reference for _, reference in pairs]
    return np.array(library._extract_corpus_statistics(texts, [references]), float)


def chrf(sums: Array) -> Array:
    """Scores ``[R]`` of corpora from sums of counts ``[R, 3 * orders]``; 0 where no order has n-grams on both sides."""
    said, meant, both = sums[:, 0::3], sums[:, 1::3], sums[:, 2::3]
    counts = (said > 0) & (meant > 0)
    orders = np.maximum(counts.sum(axis=1), 1)
    precision = np.divide(both, said, out=np.zeros_like(both), where=counts).sum(axis=1) / orders
    recall = np.divide(both, meant, out=np.zeros_like(both), where=counts).sum(axis=1) / orders
    total = BETA**2 * precision + recall
    return np.divide((1 + BETA**2) * precision * recall, total, out=np.zeros(len(sums)), where=total > 0)
