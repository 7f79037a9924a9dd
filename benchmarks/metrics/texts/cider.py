"""CIDEr and CIDEr-D of generated texts: n-grams weighted by how rare they are among the references.

Vedantam et al., "CIDEr: Consensus-based Image Description Evaluation", CVPR 2015, of orders 1 to 4 with equal weights:

- ``cider`` (equations 1 to 3): cosine of tf-idf vectors of stemmed words, from 0 to 1;
- ``cider_d`` (equation 4): of words as they are, counts clipped to the reference's, times
  ``exp(-(difference of lengths)^2 / (2 * 6^2))`` and 10. What ``pycocoevalcap`` calls CIDEr is this one.

How many references have an n-gram is counted in the references of the test split at hand, as the paper does, and is not
resampled: intervals are of the mean over samples. Words are small letters by sacrebleu's ``13a`` without signs.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.benchmarks.metrics.texts.bleu import tokenized
from medgraft.benchmarks.metrics.texts.columns import pairs_of
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

ORDERS, SIGMA, SCALE = 4, 6.0, 10.0
Gram = tuple[str, ...]
_WORD = re.compile(r"\w")


class Cider(Metric):
    """``cider``, the mean over samples of the cosine of tf-idf vectors, from 0 to 1."""

    title = "CIDEr"
    numbers = ("cider",)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        pairs = [(_stems(words(text)), _stems(words(reference))) for text, reference in pairs_of(p)]
        return {"cider": weighted_mean(cider(pairs))}


class CiderD(Metric):
    """``cider_d``, the mean over samples, from 0 to 10."""

    title = "CIDEr-D"
    numbers = ("cider_d",)
    bounds = (0.0, SCALE)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        pairs = [(words(text), words(reference)) for text, reference in pairs_of(p)]
        return {"cider_d": weighted_mean(cider_d(pairs))}


def words(text: str) -> list[str]:
    """Words of a text in small letters, without signs.

    Example:
        >>> words("A 3.5 cm mass, left.")
        ['a', '3.5', 'cm', 'mass', 'left']
    """
    return [token for token in tokenized(text.lower()) if _WORD.search(token)]


def cider(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Array:
    """CIDEr of each text, ``[n]`` from 0 to 1; the references of all say how rare an n-gram is.

    Args:
        pairs: Words of each text and of its reference.
    """
    counted, rarity = _counted(pairs)
    return np.array(
        [np.mean([_cosine(said[k], meant[k], rarity, clipped=False) for k in range(ORDERS)]) for said, meant in counted]
    )


def cider_d(pairs: Sequence[tuple[Sequence[str], Sequence[str]]]) -> Array:
    """CIDEr-D of each text, ``[n]`` from 0 to 10.

    Args:
        pairs: Words of each text and of its reference.
    """
    counted, rarity = _counted(pairs)
    scores = []
    for (said, meant), (text, reference) in zip(counted, pairs, strict=True):
        cosines = [_cosine(said[k], meant[k], rarity, clipped=True) for k in range(ORDERS)]
        penalty = math.exp(-((len(text) - len(reference)) ** 2) / (2 * SIGMA**2))
        scores.append(SCALE * penalty * float(np.mean(cosines)))
    return np.array(scores)


def _counted(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]],
) -> tuple[list[tuple[list[Counter[Gram]], list[Counter[Gram]]]], Mapping[Gram, float]]:
    """N-grams of texts and references by order, and the logarithm of (references / those with it), by n-gram."""
    counted = [(_grams(text), _grams(reference)) for text, reference in pairs]
    having: Counter[Gram] = Counter()
    for _, meant in counted:
        having.update(gram for order in meant for gram in order)
    everywhere = math.log(len(pairs)) if pairs else 0.0
    return counted, _Rarity({gram: everywhere - math.log(count) for gram, count in having.items()}, everywhere)


class _Rarity(dict[Gram, float]):
    """Weight of each n-gram; of one that no reference has, that of one which a single reference has."""

    def __init__(self, weights: Mapping[Gram, float], unknown: float) -> None:
        super().__init__(weights)
        self.unknown = unknown

    def __missing__(self, gram: Gram) -> float:
        return self.unknown


def _grams(tokens: Sequence[str]) -> list[Counter[Gram]]:
    return [Counter(zip(*(tokens[i:] for i in range(order)), strict=False)) for order in range(1, ORDERS + 1)]


def _cosine(said: Counter[Gram], meant: Counter[Gram], rarity: Mapping[Gram, float], *, clipped: bool) -> float:
    norms = math.sqrt(_squares(said, rarity) * _squares(meant, rarity))
    if not norms:
        return 0.0
    shared = said.keys() & meant.keys()
    return (
        sum(
            (min(said[gram], meant[gram]) if clipped else said[gram]) * meant[gram] * rarity[gram] ** 2
            for gram in shared
        )
        / norms
    )


def _squares(counts: Counter[Gram], rarity: Mapping[Gram, float]) -> float:
    return sum((count * rarity[gram]) ** 2 for gram, count in counts.items())


def _stems(tokens: Sequence[str]) -> list[str]:
    return [_stem(token) for token in tokens]


@functools.lru_cache(maxsize=65536)
def _stem(word: str) -> str:
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer().stem(word)
