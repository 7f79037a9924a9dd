"""chrF, METEOR without synonyms, CIDEr: those of the libraries, weights as repetitions, best and worst."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from nltk.translate.meteor_score import single_meteor_score
from sacrebleu.metrics.chrf import CHRF
from test_text_metrics import REFERENCES, TEXTS

from medgraft.benchmarks.metrics.bootstrap import estimates
from medgraft.benchmarks.metrics.texts.chrf import Chrf
from medgraft.benchmarks.metrics.texts.cider import Cider, CiderD, cider, cider_d, words
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.metrics.texts.meteor import Meteor, NoSynonyms, words_of
from medgraft.metric import Predictions, value_of

CIDER_OF_PYCOCOEVALCAP = [3.3866932789669404, 3.141744464868091, 0.0, 7.5]
"""Of these pairs, words as :func:`words` gives them, by ``pycocoevalcap`` 1.2 (which calls CIDEr-D CIDEr)."""


def predictions(texts: list[str], references: list[str], groups: np.ndarray | None = None) -> Predictions:
    n = len(texts)
    columns = {GENERATED: as_column(texts), REFERENCE: as_column(references)}
    groups = np.arange(n) if groups is None else groups
    return Predictions(np.zeros((n, 1)), np.zeros(n, np.int64), groups, (), columns=columns)


def whole(metric, texts=TEXTS, references=REFERENCES) -> dict[str, float]:
    statistics = metric.statistics(predictions(texts, references))
    return {name: value_of(statistic, len(texts)) for name, statistic in statistics.items()}


@pytest.mark.parametrize(("name", "order"), [("chrf", 0), ("chrf_plus_plus", 2)])
def test_chrf_is_sacrebleus_of_the_corpus_and_of_each_text(name, order):
    library = CHRF(word_order=order)
    found = whole(Chrf())
    assert found[name] == pytest.approx(library.corpus_score(TEXTS, [REFERENCES]).score / 100, abs=1e-12)
    each = [library.sentence_score(text, [meant]).score / 100 for text, meant in zip(TEXTS, REFERENCES, strict=True)]
    assert found[f"{name}_by_sample"] == pytest.approx(np.mean(each), abs=1e-12)


def test_meteor_without_synonyms_is_nltks_with_a_wordnet_that_knows_no_word():
    wordnet: Any = NoSynonyms()
    each = [
        single_meteor_score(words_of(meant), words_of(text), wordnet=wordnet) if text else 0.0
        for text, meant in zip(TEXTS, REFERENCES, strict=True)
    ]
    assert whole(Meteor())["meteor_without_synonyms"] == pytest.approx(np.mean(each), abs=1e-12)


def test_meteor_by_hand():
    """Banerjee and Lavie's formula: two of three words match in one chunk, one of them by its stem."""
    mean = 10 * (2 / 3) * (2 / 3) / (2 / 3 + 9 * (2 / 3))
    expected = mean * (1 - 0.5 * (1 / 2) ** 3)
    found = whole(Meteor(), ["left effusions there"], ["left effusion here"])
    assert found["meteor_without_synonyms"] == pytest.approx(expected, abs=1e-12)


def test_cider_d_is_pycocoevalcaps():
    pairs = [(words(text), words(meant)) for text, meant in zip(TEXTS, REFERENCES, strict=True)]
    assert cider_d(pairs) == pytest.approx(np.array(CIDER_OF_PYCOCOEVALCAP), abs=1e-9)
    assert whole(CiderD())["cider_d"] == pytest.approx(np.mean(CIDER_OF_PYCOCOEVALCAP), abs=1e-9)


def test_cider_by_hand():
    """Equations 1 to 3 with two references: a word that both have weighs nothing, one that one has weighs log 2."""
    pairs = [(["a", "b", "b"], ["a", "b", "c"]), (["x"], ["a", "d"])]
    log2 = np.log(2)
    unigrams = (2 * log2 * log2) / (np.sqrt((2 * log2) ** 2) * np.sqrt(2 * log2**2))
    bigrams = (1 * 1) / (np.sqrt(2) * np.sqrt(2))  # ab and bb against ab and bc
    assert cider(pairs) == pytest.approx([(unigrams + bigrams) / 4, 0], abs=1e-12)


def test_cider_rewards_no_repetition_when_clipped():
    references = [["small", "left", "effusion"], ["clear", "lungs", "today"]]
    once, twice = (cider_d([(["left"] * times, references[0]), (references[1], references[1])]) for times in (1, 4))
    assert twice[0] < once[0]


@pytest.mark.parametrize("metric", [Chrf(), Meteor()], ids=lambda each: each.title)
def test_a_weight_of_two_is_a_sample_twice(metric):
    twice = whole(metric, [TEXTS[i] for i in (0, 0, 2, 3)], [REFERENCES[i] for i in (0, 0, 2, 3)])
    for name, statistic in metric.statistics(predictions(TEXTS, REFERENCES)).items():
        assert statistic(np.array([[2.0, 0, 1, 1]]))[0] == pytest.approx(twice[name], abs=1e-12)


@pytest.mark.parametrize("metric", [Chrf(), Meteor(), Cider(), CiderD()], ids=lambda each: each.title)
def test_the_reference_itself_is_the_best_and_nothing_the_worst(metric):
    long = [text for text in REFERENCES if len(text.split()) > 3]
    best, low = whole(metric, long, long), whole(metric, [""] * len(long), long)
    assert set(best) == set(metric.numbers)
    for name, value in best.items():
        # METEOR takes a little off for the one chunk that all words make.
        assert value == pytest.approx(metric.bounds[1], rel=0.01 if name.startswith("meteor") else 1e-9)
    assert set(low.values()) == {0.0}


def test_a_hundred_and_fifty_reports_have_intervals_in_a_second():
    rng = np.random.default_rng(0)
    bank = sorted({word for text in REFERENCES for word in text.split()})
    texts = [" ".join(rng.choice(bank, 40)) for _ in range(150)]
    p = predictions(texts, [" ".join(rng.choice(bank, 40)) for _ in range(150)], np.arange(150) // 2)
    started = time.process_time()
    for metric in (Chrf(), Meteor(), CiderD()):
        statistics = metric.statistics(p)
        found = estimates(statistics, p, 1000, 0, dict.fromkeys(statistics, metric))
        for each in found.values():
            assert each.ci_low is not None and each.value is not None and each.ci_high is not None
            assert each.ci_low < each.value < each.ci_high and each.n_subjects == 75
    assert time.process_time() - started < 4  # a sixth of them; 0.6 s when alone
