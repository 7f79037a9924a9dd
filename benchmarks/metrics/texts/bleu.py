"""BLEU of generated texts, for the corpus and as the mean over samples.

Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002; tokens, counts and lengths
are those of sacrebleu (Post, "A Call for Clarity in Reporting BLEU Scores", WMT 2018), ``13a``, without smoothing. Two
conventions, which differ by far:

- ``bleu_1`` to ``bleu_4``: n-grams of the whole corpus are counted, then one score is made of them;
- ``bleu_1_by_sample``: the score of unigrams of each text by itself, then the mean, as in M3D (Bai et al., 2024,
  arXiv 2404.00578, whose "BLEU" it is).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.benchmarks.metrics.texts.columns import pairs_of
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

ORDERS = 4


class Bleu(Metric):
    """``bleu_1`` to ``bleu_4`` of the corpus, and ``bleu_1_by_sample``, from 0 to 1."""

    title = "BLEU"
    numbers = ("bleu_4", "bleu_1", "bleu_2", "bleu_3", "bleu_1_by_sample")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        tokens = [(tokenized(text), tokenized(reference)) for text, reference in pairs_of(p)]
        counts = np.array([_counts(text, reference) for text, reference in tokens], float)
        alone = np.array([bleu(row[None], 1)[0] for row in counts])
        named: dict[str, WeightedStatistic] = {
            f"bleu_{order}": lambda weights, order=order: bleu(weights @ counts, order) for order in (4, 1, 2, 3)
        }
        return named | {"bleu_1_by_sample": weighted_mean(alone)}


def tokenized(text: str) -> list[str]:
    """Words and signs of a text as sacrebleu's ``13a`` tells them apart."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return Tokenizer13a()(text.strip()).split()


def _counts(text: list[str], reference: list[str]) -> list[int]:
    """Lengths of text and reference, then matching n-grams and n-grams of the text, of each order."""
    matching: list[int] = []
    total: list[int] = []
    for order in range(1, ORDERS + 1):
        said, meant = _ngrams(text, order), _ngrams(reference, order)
        matching.append(sum(min(count, meant[gram]) for gram, count in said.items()))
        total.append(sum(said.values()))
    return [len(text), len(reference), *matching, *total]


def _ngrams(tokens: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + order]) for i in range(len(tokens) - order + 1))


def bleu(sums: Array, order: int) -> Array:
    """BLEU of corpora from sums of counts, ``[R]``; 0 where an order has no match, undefined without a reference.

    Args:
        sums: ``[R, 2 + 2 * 4]`` as :func:`_counts` orders them.
        order: Largest n-gram.
    """
    said, meant = sums[:, 0], sums[:, 1]
    matching, total = sums[:, 2 : 2 + order], sums[:, 2 + ORDERS : 2 + ORDERS + order]
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(np.where(total > 0, matching / total, 0.0)).mean(axis=1)
        brevity = np.where(said < meant, np.exp(1 - meant / said), 1.0)
        score = np.where(said > 0, brevity * np.exp(logarithms), 0.0)
    return np.where(meant > 0, score, np.nan)
