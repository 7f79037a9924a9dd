"""Generated answers against the right ones: the same text, and the same words, as for SQuAD.

Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", EMNLP 2016: small letters, without
articles and punctuation.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.benchmarks.metrics.texts.columns import pairs_of
from medgraft.metric import Metric, Predictions, WeightedStatistic

ARTICLES = re.compile(r"\b(a|an|the)\b")
SIGNS = str.maketrans("", "", string.punctuation)


class Agreement(Metric):
    """``exact_match`` and ``token_f1``, means over samples from 0 to 1."""

    title = "agreement of answers"
    numbers = ("exact_match", "token_f1")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        words = [(plain_words(text), plain_words(reference)) for text, reference in pairs_of(p)]
        exact = np.array([float(said == meant) for said, meant in words])
        overlap = np.array([token_f1(said, meant) for said, meant in words])
        return {"exact_match": weighted_mean(exact), "token_f1": weighted_mean(overlap)}


def plain_words(text: str) -> list[str]:
    """Words without case, articles and punctuation.

    Example:
        >>> plain_words("The left lung, an effusion.")
        ['left', 'lung', 'effusion']
    """
    return ARTICLES.sub(" ", text.lower().translate(SIGNS)).split()


def token_f1(said: list[str], meant: list[str]) -> float:
    """F1 of words; 1 where both are empty, 0 where one is.

    Example:
        >>> token_f1(["left", "effusion"], ["small", "left", "effusion"])
        0.8
    """
    if not said or not meant:
        return float(said == meant)
    common = sum((Counter(said) & Counter(meant)).values())
    return 2 * common / (len(said) + len(meant))
