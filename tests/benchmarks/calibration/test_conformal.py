"""Conformal sets: MAPIE's own, the closed form of the threshold, and the coverage that is promised."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from sklearn.base import BaseEstimator, ClassifierMixin

from medgraft.benchmarks.calibration.conformal import (
    ABSENT,
    PRESENT,
    calibrate,
    members,
    set_metrics,
    set_statistics,
    sets,
    strangeness,
    threshold,
)
from medgraft.benchmarks.metrics.bootstrap import estimates
from medgraft.metric import Predictions, value_of


class Given(ClassifierMixin, BaseEstimator):
    """A fitted classifier whose samples are their own probabilities."""

    def __init__(self, classes: int = 3):
        self.classes, self.classes_ = classes, np.arange(classes)

    def fit(self, X, y):
        return self

    def predict_proba(self, X):
        return np.asarray(X)

    def predict(self, X):
        return np.asarray(X).argmax(axis=1)


def drawn(n: int, seed: int, K: int = 4, skill: float = 1.0) -> Predictions:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.full(K, 0.6), n)
    targets = (p.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    said = p**skill / (p**skill).sum(axis=1, keepdims=True)
    return Predictions(said, targets, np.arange(n), tuple(f"c{k}" for k in range(K)))


def of_labels(n: int, seed: int) -> Predictions:
    random = np.random.default_rng(seed)
    p = random.beta(0.5, 2.0, (n, 2))
    targets = (random.random((n, 2)) < p).astype(float)
    return Predictions(p, targets, np.arange(n), ("x", "y"), thresholds=np.full(2, 0.5))


@pytest.mark.parametrize("method", ["lac", "aps"])
@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_the_sets_are_those_of_mapie(method, coverage):
    val, test = drawn(211, 1), drawn(150, 2)
    mapie = SplitConformalClassifier(
        Given(4), confidence_level=coverage, conformity_score=method, prefit=True, random_state=0
    )
    expected = mapie.conformalize(val.scores, val.targets).predict_set(test.scores)[1][..., 0]
    rule = calibrate(val, method, coverage)
    assert np.array_equal(sets(rule, test.scores, labels=False), expected)
    assert strangeness(val.scores, val.targets, method) == pytest.approx(np.ravel(mapie.conformity_scores), abs=0)


def test_the_threshold_of_lac_is_the_closed_form():
    val = drawn(137, 3)
    scores = np.sort(1 - val.scores[np.arange(137), val.targets])
    assert calibrate(val).thresholds == (scores[math.ceil(138 * 0.9) - 1],) * 4


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 400), per_cent=st.integers(1, 99))
def test_the_rank_is_that_of_whole_numbers(n, per_cent):
    scores = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    rank = -(-(n + 1) * per_cent // 100)
    assert threshold(scores, per_cent / 100) == (float(rank) if rank <= n else None)


def test_too_few_samples_exclude_nothing():
    rule = calibrate(drawn(8, 4))
    assert rule.thresholds == (None,) * 4 and sets(rule, drawn(20, 5).scores, labels=False).all()
    assert calibrate(drawn(9, 4)).thresholds[0] is not None
    empty = Predictions(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, int), ("x", "y"))
    assert calibrate(empty).thresholds == (None,) * 4


def numbers(rule, p):
    return {name: value_of(each, len(p.targets)) for name, each in set_statistics(rule, p).items()}


@pytest.mark.parametrize("method", ["lac", "aps"])
@pytest.mark.parametrize("by_class", [False, True])
def test_coverage_is_at_least_what_was_promised(method, by_class):
    """Over 400 draws of 60 validation and 100 test samples, whether or not the predictions are any good."""
    nominal, found = 0.9, {}
    for seed in range(400):
        val, test = drawn(60, seed, skill=4.0), drawn(100, 10_000 + seed, skill=4.0)
        for name, value in numbers(calibrate(val, method, nominal, by_class=by_class), test).items():
            found.setdefault(name, []).append(value)
    means = {name: np.nanmean(each) for name, each in found.items()}
    errors = {name: np.nanstd(each) / math.sqrt(len(each)) for name, each in found.items()}
    assert means["coverage"] >= nominal - 3 * errors["coverage"]
    if by_class:
        for k in range(4):
            assert means[f"coverage_c{k}"] >= nominal - 3 * errors[f"coverage_c{k}"]
    if method == "lac" and not by_class:  # and no more than 1 / (n + 1) above it
        assert means["coverage"] <= nominal + 1 / 61 + 3 * errors["coverage"]
        assert means["set_size"] < 4


@pytest.mark.parametrize("by_class", [False, True])
def test_coverage_of_labels(by_class):
    found: dict[str, list[float]] = {}
    for seed in range(300):
        rule = calibrate(of_labels(120, seed), by_class=by_class)
        for name, value in numbers(rule, of_labels(150, 10_000 + seed)).items():
            found.setdefault(name, []).append(value)
    mean = {name: np.nanmean(each) for name, each in found.items()}
    assert mean["coverage"] >= 0.9 - 0.01  # 300 * 150 * 2 answers: a standard error of .002 with validation's part
    if by_class:
        assert min(mean["coverage_present"], mean["coverage_absent"], mean["coverage_x_present"]) >= 0.89
    else:  # rare labels are where coverage of all together is bought
        assert mean["coverage_present"] < 0.8 < 0.93 < mean["coverage_absent"]


def test_aps_has_no_empty_set_and_takes_the_likeliest_first():
    p = np.array([[0.98, 0.015, 0.005], [0.5, 0.3, 0.2]])
    inside = members(p, (0.6,) * 3, "aps")
    assert inside.tolist() == [[True, False, False], [True, True, False]]
    assert members(p, (0.01,) * 3, "lac").tolist() == [[False] * 3, [False] * 3]


def test_the_numbers_of_sets_are_counts():
    p = Predictions(
        np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8], [0.95, 0.05]]), np.array([0, 1, 1, 1]), np.arange(4), ("a", "b")
    )
    rule = calibrate(drawn(50, 0, K=2)).model_copy(update={"thresholds": (0.5, 0.7)})
    found = numbers(rule, p)  # sets {a}, {a, b}, {b}, {a}
    assert found["set_size"] == 1.25 and found["set_single"] == 0.75 and found["set_empty"] == 0
    assert found["coverage"] == 0.75 and found["coverage_a"] == 1 and found["coverage_b"] == pytest.approx(2 / 3)


def test_a_mean_size_is_no_share_and_its_interval_does_not_end_at_one():
    p = drawn(60, 3, K=3)
    alone = calibrate(p).model_copy(update={"thresholds": (0.5,) * 3, "method": "lac"})
    several = calibrate(p).model_copy(update={"thresholds": (0.9,) * 3, "method": "lac"})
    for rule in (alone, several):
        statistics = set_statistics(rule, p)
        size = estimates(statistics, p, resamples=200, metrics=set_metrics(statistics))["set_size"]
        assert size.ci_low < size.value < size.ci_high
    sure = Predictions(np.eye(3)[p.targets], p.targets, p.groups, p.classes)
    statistics = set_statistics(alone, sure)
    found = estimates(statistics, sure, resamples=200, metrics=set_metrics(statistics))
    assert (found["set_size"].ci_low, found["set_size"].ci_high) == pytest.approx((1, 1))
    assert found["coverage"].ci_low < 1


def test_a_label_is_two_answers():
    p = of_labels(80, 7)
    rule = calibrate(p, by_class=True)
    inside = sets(rule, p.scores, labels=True)
    assert inside.shape == (80, 2, 2)
    absent, present = rule.thresholds[:2]
    assert np.array_equal(inside[:, 0, ABSENT], p.scores[:, 0] <= absent)
    assert np.array_equal(inside[:, 0, PRESENT], 1 - p.scores[:, 0] <= present)
    assert rule.samples[:2] == (int((p.targets[:, 0] == 0).sum()), int((p.targets[:, 0] == 1).sum()))
