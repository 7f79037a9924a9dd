"""Multiple choice by what is said and by likelihood."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medgraft.benchmarks.metrics.texts.choices import Choices, chosen_by_words, misfit
from medgraft.benchmarks.metrics.texts.columns import as_column
from medgraft.benchmarks.objectives.choices import Options
from medgraft.errors import DataError
from medgraft.metric import Predictions, value_of
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

SIDES = json.dumps(["left", "right"])
ROWS = (  # kind, options, right letter, reference, generated, scores, right by words, right by likelihood
    ("closed:side", SIDES, "B", "B. right", "B. right", [-2.0, -1.0], 1, 1),
    ("closed:side", SIDES, "B", "B. right", "A. left or B. right", [-1.0, -2.0], 1, 0),
    ("closed:side", SIDES, "A", "A. left", "left", [-1.0, -1.0], 0, 1),
    ("closed:there", json.dumps(["Yes.", "No."]), "B", "No.", "No, there is not. Yes", [-3.0, -4.0], 1, 0),
    ("closed:there", json.dumps(["Yes.", "No."]), "A", "Yes.", "A. perhaps", [-3.0, np.nan], 0, 1),
    ("open:side", "", "", "left lung", "left lung", [np.nan, np.nan], None, None),
)


def predictions(rows=ROWS) -> Predictions:
    kinds, options, letters, references, texts = ([row[i] for row in rows] for i in range(5))
    columns: dict[str, Any] = {
        "kind": as_column(kinds),
        "choices": as_column(options),
        "answer": as_column(letters),
        "reference": as_column(references),
        "generated": as_column(texts),
        "option_scores": np.array([row[5] for row in rows]),
    }
    n = len(rows)
    return Predictions(np.zeros((n, 1)), np.zeros(n, np.int64), np.arange(n), (), columns=columns)


def test_both_ways_of_judging_and_each_kind_by_itself():
    numbers = {name: value_of(each, len(ROWS)) for name, each in Choices().statistics(predictions()).items()}
    assert numbers["choice_accuracy"] == pytest.approx(3 / 5, abs=1e-12)
    assert numbers["choice_likelihood_accuracy"] == pytest.approx(3 / 5, abs=1e-12)
    assert numbers["choice_accuracy_of_closed_side"] == pytest.approx(2 / 3, abs=1e-12)
    assert numbers["choice_likelihood_accuracy_of_closed_there"] == pytest.approx(1 / 2, abs=1e-12)
    assert not [name for name in numbers if "open" in name]


def test_weights_count_samples_so_often():
    p, weights = predictions(), np.array([[2.0, 0, 1, 0, 3, 5], [0, 0, 0, 0, 0, 1]])
    for name, column in (("choice_accuracy", 6), ("choice_likelihood_accuracy", 7)):
        values = Choices().statistics(p)[name](weights)
        right = np.array([row[column] or 0 for row in ROWS], float)
        assert values[0] == pytest.approx((weights[0, :5] * right[:5]).sum() / 6, abs=1e-12)
        assert np.isnan(values[1]), "only an open question was drawn"


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("Both sides are", 2),
        ("the left side", 0),
        ("a left lung", 1),
        ("nothing", -1),
        ("", -1),
        ("LEFT, then both", 0),
    ],
)
def test_the_option_that_is_named_first_counts_and_of_two_the_longer(text, chosen):
    assert chosen_by_words(text, ["left", "left lung", "both"]) == chosen


@pytest.mark.parametrize(
    ("column", "values", "why"),
    [
        ("answer", as_column(["C1"] * 6), "no letter"),
        ("choices", as_column(["{"] * 6), "no letter"),
        ("choices", np.zeros(6), "no column 'choices'"),
        ("option_scores", np.zeros((6, 2), np.int64), "no log-likelihoods"),
    ],
)
def test_stored_columns_that_are_no_questions_are_named(column, values, why):
    p = predictions()
    assert not misfit(p)
    assert why in misfit(replace(p, columns={**p.columns, column: values}))


def test_an_option_is_scored_by_the_mean_log_likelihood_of_its_tokens():
    model = LANGUAGE_ENCODERS["language-2d"]().towers()["text"].eval()
    columns = {
        "choices": np.array([SIDES, "", json.dumps(["Yes.", "No.", "Perhaps not."])], object),
        "answer": np.array(["B", "", "A"], object),
        "reference": np.array(["B. right", "left lung", "Yes."], object),
    }
    options, asked = Options(columns), ["which side", "where is it then", "is there one"]
    options.score(model, model.prompts(asked), np.arange(3))
    scores = options.column(np.arange(3))
    said = (["A. left", "B. right"], [], ["Yes.", "No.", "Perhaps not."])
    assert scores.shape == (3, 3)
    for row, (prompt, texts) in enumerate(zip(asked, said, strict=True)):
        for k in range(3):
            if k >= len(texts):
                assert np.isnan(scores[row, k])
                continue
            prompts, (ids, _) = model.prompts([prompt]), model.answers([texts[k]])
            with torch.no_grad():
                logits = model.logits(prompts, model.answers([texts[k]]))[0, prompts.length - 1 : -1]
            likely = torch.log_softmax(logits, dim=-1).gather(1, ids[0, :, None]).mean()
            assert scores[row, k] == pytest.approx(float(likely), abs=1e-5)  # float32, batched and alone


@pytest.mark.parametrize(("choices", "answer"), [('["a", "b"]', "C"), ('["a", "b"]', ""), ("a, b", "A"), ('"ab"', "A")])
def test_options_that_are_none_are_refused(choices, answer):
    with pytest.raises(DataError, match="choices"):
        Options({"choices": np.array([choices]), "answer": np.array([answer]), "reference": np.array(["A. a"])})


def test_data_without_options_have_nothing_to_score():
    assert not Options({"reference": np.array(["a"])})
    assert not Options({"choices": np.array([""]), "answer": np.array([""]), "reference": np.array(["a"])})
