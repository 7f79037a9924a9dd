"""A metric by groups is the metric of the group's samples; small groups are joined or left out by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medgraft.benchmarks.metrics.bootstrap import estimates
from medgraft.benchmarks.metrics.groups import FEWEST, OTHERS, Groups, metrics_by_groups, words_of
from medgraft.benchmarks.metrics.student import independent_difference, level_of_pairs, range_interval
from medgraft.metric import Metric, Predictions
from medgraft.metric.judging import judged, objective_of, values


def predictions(n: int, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    targets = random.integers(0, 2, n)
    scores = np.clip(random.normal(0.4 + 0.2 * targets, 0.2), 0.01, 0.99)
    return Predictions(np.stack([1 - scores, scores], 1), targets, np.arange(n), ("a", "b"))


class Reversed(Metric):
    higher_is_better = False


def by_groups(p: Predictions, words, metrics: dict[str, Metric], resamples: int = 200) -> Groups | None:
    def strata(rows):
        return objective_of(p).strata(p.of(rows))

    of_rows = lambda rows: judged(p.of(rows)).statistics  # noqa: E731
    return metrics_by_groups(of_rows, metrics, p.groups, np.array(words), strata=strata, resamples=resamples)


def grouped(p: Predictions, words, metric: Metric | None = None) -> Groups | None:
    return by_groups(p, words, {"auc_macro": metric or judged(p).metrics["auc_macro"]})


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


numbers = st.tuples(st.floats(0, 0.2), st.floats(0.3, 0.7), st.floats(0.8, 1))


@settings(max_examples=100, deadline=None)
@given(several=st.lists(numbers, min_size=2, max_size=5), data=st.data())
def test_the_interval_of_a_gap_is_that_of_its_pairs(several, data):
    values = [value for _, value, _ in several]
    each = [(low, high) for low, _, high in several]
    low, high = range_interval(values, each, each, 1.0)
    assert low is not None and high is not None and 0 <= low <= np.ptp(values) <= high <= 1
    order = data.draw(st.permutations(range(len(several))))
    again = range_interval([values[i] for i in order], [each[i] for i in order], [each[i] for i in order], 1.0)
    assert again == (low, high)
    first, second = independent_difference((values[0], values[1]), (each[0], each[1]), (-1.0, 1.0), 0.0)
    assert first is not None and second is not None
    assert low >= max(first, -second, 0.0) and high >= max(second, -first)  # a pair more makes neither end smaller
    if len(several) == 2:
        assert (low, high) == pytest.approx((max(first, -second, 0.0), max(second, -first)))
    assert range_interval(values, [*each[:-1], (None, None)], each, 1.0) == (None, None)


def test_groups_that_do_not_differ_have_a_gap_that_may_be_nothing():
    p = predictions(200, 2)
    result = grouped(p, ["x", "y"] * 100)
    assert result.gap.ci_low == 0.0 < result.gap.value <= result.gap.ci_high
    p.scores[::2] = p.scores[::2, ::-1]  # the group x is told wrongly throughout
    apart = grouped(p, ["x", "y"] * 100)
    assert 0 < apart.gap.ci_low < apart.gap.value < apart.gap.ci_high


def test_more_groups_take_a_wider_lower_end():
    assert [level_of_pairs(G) for G in (2, 3, 5)] == pytest.approx([0.95, 1 - 0.05 / 3, 0.995])


def test_less_is_worse_or_better():
    p = predictions(100)
    words = ["x", "y"] * 50
    up, down = grouped(p, words), grouped(p, words, Reversed())
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


def all_metrics(p: Predictions, words) -> Groups | None:
    return by_groups(p, words, {name: each for name, each in judged(p).metrics.items() if name in each.numbers})


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000))
def test_every_overall_metric_is_that_of_the_groups_samples(seed):
    p = predictions(150, seed)
    p.groups[:] = np.arange(150) // 2
    words = np.where(np.random.default_rng(seed).random(75) < 0.5, "x", "y")[p.groups]
    found = all_metrics(p, words)
    assert found.metric == "f1_macro"
    overall = {name for name, each in judged(p).metrics.items() if name in each.numbers}
    assert {"brier", "ece", "auc_macro", "accuracy"} <= overall == {found.metric, *found.further}
    for name in overall:
        each = found.of(name)
        expected = {word: values(p.of(np.flatnonzero(words == word)))[name] for word in "xy"}
        assert {word: each.groups[word].value for word in "xy"} == pytest.approx(expected, abs=1e-6)
        lower = name in ("brier", "ece", "ece_macro")
        assert each.worst == (max if lower else min)(expected, key=expected.get)
        assert each.gap.value == pytest.approx(abs(expected["x"] - expected["y"]), abs=2e-6)
        assert all(number.ci_low - 1e-6 <= number.value <= number.ci_high + 1e-6 for number in each.groups.values())


def test_one_metric_alone_is_the_same_as_among_all():
    p, words = predictions(160, 3), np.array(["x", "y"] * 80)
    together = all_metrics(p, words).of("auc_macro")
    alone = grouped(p, words)
    for word in "xy":
        for name in ("value", "ci_low", "ci_high"):
            one, other = getattr(together.groups[word], name), getattr(alone.groups[word], name)
            assert one == pytest.approx(other, abs=1e-6)
    assert together.worst == alone.worst and together.gap.value == pytest.approx(alone.gap.value, abs=1e-6)


def test_a_metric_that_cannot_be_had_of_a_group_is_undefined_there():
    p, words = predictions(100), np.array(["x"] * 50 + ["y"] * 50)

    def picky(rows):
        if 0 in rows:
            raise ValueError("too few of something")
        return {"one": lambda weights: weights.sum(axis=1) / len(rows)}

    found = metrics_by_groups(picky, {"one": Metric()}, p.groups, words, resamples=50)
    assert found.groups["x"].value is None and found.groups["y"].value == 1.0 and found.gap.value is None


def test_further_metrics_survive_the_file_and_unknown_ones_are_none():
    found = all_metrics(predictions(120), ["x", "y"] * 60)
    assert Groups.model_validate_json(found.model_dump_json()) == found
    assert found.of("nothing") is None and found.of(found.metric) is found
    old = {name: value for name, value in found.model_dump().items() if name != "further"}
    assert Groups.model_validate(old).of("brier") is None


def test_a_group_has_the_interval_of_a_test_set_of_its_samples():
    p = predictions(160, 5)
    words = np.where(np.arange(160) < 40, "x", "y")
    found = by_groups(p, words, {"auc_macro": judged(p).metrics["auc_macro"]}, resamples=2000)
    for word in "xy":
        alone = p.of(np.flatnonzero(words == word))
        alone.groups[:] = np.arange(len(alone.groups))
        whole = estimates(judged(alone).statistics, alone, resamples=2000)["auc_macro"]
        # two sets of 2,000 resamples: their deviations differ by two in a hundred, of a half width of about .1
        assert found.groups[word].ci_low == pytest.approx(whole.ci_low, abs=0.01)
        assert found.groups[word].ci_high == pytest.approx(whole.ci_high, abs=0.01)


@pytest.mark.slow
def test_intervals_of_small_groups_hold_what_they_should():
    """Groups of 25 subjects, of whom five have the finding: cautious, as the intervals of so small a test set are.

    Percentiles of the resamples hold in 83% of them.
    """
    large = predictions_of(200_000, 99)
    truth, held, defined = values(large)["auc_macro"], 0, 0
    for seed in range(150):
        p = predictions_of(50, seed)
        found = by_groups(p, ["x", "y"] * 25, {"auc_macro": judged(p).metrics["auc_macro"]}, resamples=100)
        for each in found.groups.values():
            if each.ci_low is not None:
                defined += 1
                held += each.ci_low <= truth <= each.ci_high
    # In some groups a single subject has the finding, and then there is no interval.
    assert defined > 270 and held / defined >= 0.94


def predictions_of(n: int, seed: int) -> Predictions:
    random = np.random.default_rng([seed, 7])
    targets = (random.random(n) < 0.2).astype(np.int64)
    odds = np.exp(random.normal(1.5 * targets - 1.0, 1.0))
    scores = odds / (1 + odds)
    return Predictions(np.stack([1 - scores, scores], 1), targets, np.arange(n), ("a", "b"))
