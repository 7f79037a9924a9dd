"""Metrics of texts: those of the libraries on whole corpora, weights as repetitions, texts as columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU

from medgraft.benchmarks.metrics.texts.agreement import Agreement
from medgraft.benchmarks.metrics.texts.bleu import Bleu
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column, texts_of
from medgraft.benchmarks.metrics.texts.rouge import Rouge
from medgraft.metric import Predictions, value_of

REFERENCES = [
    "The heart is enlarged. Small left pleural effusion.",
    "No acute cardiopulmonary process.",
    "Right lower lobe opacity, 3 cm, may be atelectasis or consolidation.",
    "Lungs are clear.",
]
TEXTS = [
    "The heart is enlarged. Large left effusion and no pleural thickening.",
    "No acute process.",
    "",
    "Lungs are clear.",
]


def predictions(texts: list[str], references: list[str]) -> Predictions:
    n = len(texts)
    columns = {GENERATED: as_column(texts), REFERENCE: as_column(references)}
    return Predictions(np.zeros((n, 1)), np.zeros(n, np.int64), np.arange(n), (), columns=columns)


def whole(metric, texts=TEXTS, references=REFERENCES) -> dict[str, float]:
    statistics = metric.statistics(predictions(texts, references))
    return {name: value_of(statistic, len(texts)) for name, statistic in statistics.items()}


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_of_a_corpus_is_sacrebleus(order):
    expected = BLEU(max_ngram_order=order, smooth_method="none").corpus_score(TEXTS, [REFERENCES]).score / 100
    assert whole(Bleu())[f"bleu_{order}"] == pytest.approx(expected, abs=1e-12)


def test_bleu_by_sample_is_the_mean_of_the_texts_own():
    one = BLEU(max_ngram_order=1, smooth_method="none", effective_order=False)
    each = [
        one.corpus_score([text], [[reference]]).score / 100 for text, reference in zip(TEXTS, REFERENCES, strict=True)
    ]
    assert whole(Bleu())["bleu_1_by_sample"] == pytest.approx(np.mean(each), abs=1e-12)


def test_rouge_is_the_librarys():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    scores = [scorer.score(reference, text) for text, reference in zip(TEXTS, REFERENCES, strict=True)]
    found = whole(Rouge())
    for name, kind in (("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL")):
        assert found[name] == pytest.approx(np.mean([score[kind].fmeasure for score in scores]), abs=1e-12)


def test_agreement_by_hand():
    found = whole(
        Agreement(), ["The left lung.", "yes", "", "small effusion"], ["left lung", "No", "", "a large effusion"]
    )
    assert found == {"exact_match": 0.5, "token_f1": pytest.approx((1 + 0 + 1 + 0.5) / 4)}


@pytest.mark.parametrize("metric", [Bleu(), Rouge(), Agreement()], ids=lambda each: each.title)
def test_a_weight_of_two_is_a_sample_twice(metric):
    weights = np.array([[2.0, 0, 1, 1]])
    twice = whole(metric, [TEXTS[i] for i in (0, 0, 2, 3)], [REFERENCES[i] for i in (0, 0, 2, 3)])
    statistics = metric.statistics(predictions(TEXTS, REFERENCES))
    for name, statistic in statistics.items():
        assert statistic(weights)[0] == pytest.approx(twice[name], abs=1e-12)


@pytest.mark.parametrize("metric", [Bleu(), Rouge(), Agreement()], ids=lambda each: each.title)
def test_the_reference_itself_is_the_best_and_nothing_the_worst(metric):
    long = [text for text in REFERENCES if len(text.split()) > 4]
    assert all(value == pytest.approx(1) for value in whole(metric, long, long).values())
    assert set(whole(metric, [""] * len(long), long).values()) == {0.0}
    assert set(metric.statistics(predictions(long, long))) == set(metric.numbers)


@given(st.lists(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=30), max_size=6))
def test_texts_come_back_from_their_columns(texts):
    assert texts_of(as_column(texts)) == texts


def test_bytes_that_are_no_text_are_shown_as_such():
    assert texts_of(np.array([[97, 255, 98, 0]], np.uint8)) == ["a\ufffdb"]
