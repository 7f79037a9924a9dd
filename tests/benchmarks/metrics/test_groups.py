"""A metric by groups is the metric of the group's samples; small groups are joined or left out by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medgraft.benchmarks.metrics.groups import FEWEST, OTHERS, by_groups, words_of
from medgraft.judging import judged
from medgraft.metric import Predictions


def predictions(n: int, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    targets = random.integers(0, 2, n)
    scores = np.clip(random.normal(0.4 + 0.2 * targets, 0.2), 0.01, 0.99)
    return Predictions(np.stack([1 - scores, scores], 1), targets, np.arange(n), ("a", "b"))


def grouped(p: Predictions, words, **options):
    statistic = judged(p).statistics["auc_macro"]
    return by_groups("auc_macro", statistic, p.groups, np.array(words), resamples=200, **options)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), share=st.floats(0.3, 0.7))
def test_a_group_has_the_metric_of_its_samples(seed, share):
    p = predictions(120, seed)
    words = np.where(np.random.default_rng(seed + 1).random(120) < share, "x", "y")
    result = grouped(p, words)
    expected = {w: roc_auc_score(p.targets[words == w], p.scores[words == w, 1]) for w in "xy"}
    for word, each in result.groups.items():
        assert each.value == pytest.approx(expected[word], abs=1e-9) and each.n == (words == word).sum()
        assert each.ci_low <= each.value <= each.ci_high
    assert result.worst == min(expected, key=expected.get)
    assert result.gap.value == pytest.approx(abs(expected["x"] - expected["y"]), abs=1e-9)
    assert 0 <= result.gap.ci_low <= result.gap.ci_high


def test_less_is_worse_or_better():
    p = predictions(100)
    words = ["x", "y"] * 50
    up, down = grouped(p, words), grouped(p, words, higher_is_better=False)
    assert {up.worst, down.worst} == {"x", "y"} and up.gap.value == down.gap.value


def test_subjects_count_and_not_samples():
    p = predictions(200)
    p.groups[:] = np.arange(200) // 10  # twenty subjects of ten samples
    words = np.where(p.groups < 10, "x", "y")
    assert grouped(p, words) is None  # ten subjects each


def test_small_groups_are_joined_where_together_they_are_enough():
    p = predictions(120)
    words = ["x"] * 60 + ["y"] * 30 + ["p"] * 12 + ["q"] * 11 + ["r"] * 7
    result = grouped(p, words)
    assert set(result.groups) == {"x", "y", OTHERS} and result.joined == {"p": 12, "q": 11, "r": 7}
    assert result.groups[OTHERS].n_subjects == 30 >= FEWEST and result.left_out == {}
    few = grouped(predictions(100), ["x"] * 50 + ["y"] * 44 + ["p"] * 6)
    assert set(few.groups) == {"x", "y"} and few.left_out == {"p": 6} and few.joined == {}
    assert grouped(predictions(80), ["x"] * 74 + ["p"] * 6) is None


def test_a_group_of_one_class_is_undefined_and_never_the_worst():
    p = predictions(100)
    words = np.where(np.arange(100) < 30, "one", np.where(np.arange(100) < 65, "x", "y"))
    p.targets[words == "one"] = 1
    result = grouped(p, words)
    assert result.groups["one"].value is None and result.worst in ("x", "y") and result.gap.value is not None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (["F", "M", None, " f "], ["F", "M", "unknown", "f"]),
        ([1.0, 2.0, float("nan"), 1.0], ["1", "2", "unknown", "1"]),
        (["1.5", "3.0", "", "1.5"], ["1.5", "3.0", "unknown", "1.5"]),
        (["a", "a", "a", None], None),
        ([None] * 4, None),
        ([True, False, True, False], ["True", "False", "True", "False"]),
    ],
)
def test_words(values, words):
    result = words_of(values, np.array([0, 1]))
    assert (None if result is None else result.tolist()) == words


def test_numbers_become_bands_by_the_quarters_of_training():
    ages = np.concatenate([np.arange(20, 60), [5.0, 99.0, np.nan]])
    words = words_of(ages, np.arange(40))
    assert words[0] == "below 29.75" and words[15] == "29.75 to 39.5" and words[39] == "from 49.25"
    assert words[40:].tolist() == ["below 29.75", "from 49.25", "unknown"]
    assert [int((words[:40] == w).sum()) for w in dict.fromkeys(words[:40].tolist())] == [10, 10, 10, 10]


def test_free_text_is_no_attribute():
    assert words_of([f"note {k}" for k in range(200)], np.arange(100)) is None
