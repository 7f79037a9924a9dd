"""METEOR without its stage of synonyms, which needs WordNet: equal words, then equal stems.

Banerjee and Lavie, "METEOR: An Automatic Metric for MT Evaluation with Improved Correlation with Human Judgments", ACL
workshop 2005, by nltk with its weights (alpha 0.9, beta 3, gamma 0.5) and Porter's stems. Values lie at or below those
of the whole METEOR, so the name says what is left out. Words are nltk's, sentence by sentence.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.benchmarks.metrics.texts.columns import pairs_of
from medgraft.metric import Metric, Predictions, WeightedStatistic

NAME = "meteor_without_synonyms"
_END = re.compile(r"(?<=[.!?])\s+")


class Meteor(Metric):
    """``meteor_without_synonyms``, the mean over samples, from 0 to 1."""

    title = "METEOR without synonyms"
    numbers = (NAME,)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        return {NAME: weighted_mean(np.array([meteor(text, reference) for text, reference in pairs_of(p)]))}


class NoSynonyms:
    """In the place of WordNet: no word means what another does."""

    def synsets(self, word: str) -> list[Any]:
        """Meanings of a word: none."""
        return []


@functools.lru_cache(maxsize=65536)
def meteor(text: str, reference: str) -> float:
    """METEOR of one text without synonyms; 0 where either is empty.

    Example:
        >>> round(meteor("the heart is enlarged", "the heart was enlarged"), 4)
        0.6389
    """
    from nltk.translate.meteor_score import single_meteor_score

    meant, said = words_of(reference), words_of(text)
    if not meant or not said:
        return 0.0
    wordnet: Any = NoSynonyms()
    return float(single_meteor_score(meant, said, stemmer=_stemmer(), wordnet=wordnet))


def words_of(text: str) -> list[str]:
    """Words and signs of a text, as nltk's ``word_tokenize`` tells them apart behind full stops."""
    from nltk.tokenize import NLTKWordTokenizer

    tokenizer = NLTKWordTokenizer()
    return [word for part in _END.split(text.strip()) for word in tokenizer.tokenize(part)]


@functools.cache
def _stemmer() -> Any:
    from nltk.stem.porter import PorterStemmer

    class Remembered(PorterStemmer):
        @functools.lru_cache(maxsize=65536)  # noqa: B019 - one object for the life of the process
        def stem(self, word: str, to_lowercase: bool = True) -> str:
            return super().stem(word, to_lowercase)

    return Remembered()
