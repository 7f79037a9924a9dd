"""Reliability curves: their bins, their intervals, and what chance makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from medgraft.benchmarks.calibration.reliability import chance_error, curve, reliability, wilson
from medgraft.metric import Predictions
from medgraft.metric.judging import values


def drawn(n: int, seed: int = 0, each: int = 1) -> Predictions:
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(3), n)
    targets = (p.cumsum(axis=1) > random.random((n, 1))).argmax(axis=1)
    return Predictions(p, targets, np.arange(n) // each, ("a", "b", "c"))


def test_the_calibration_error_is_the_distance_of_the_curve_from_the_diagonal():
    p = drawn(200)
    found, numbers = reliability(p), values(p)
    for name, each in {"ece": found.likeliest, "ece_b": found.classes["b"]}.items():
        distance = np.abs(np.array(each.observed) - each.confidence) @ np.array(each.samples) / sum(each.samples)
        assert distance == pytest.approx(numbers[name], abs=2e-6)  # six digits are stored
    assert sum(found.likeliest.samples) == 200 and len(found.likeliest.samples) == 15


def test_a_curve_rises_in_confidence_and_lies_in_its_interval():
    each = reliability(drawn(500)).likeliest
    assert list(each.confidence) == sorted(each.confidence)
    assert all(low <= y <= high for low, y, high in zip(each.ci_low, each.observed, each.ci_high, strict=True))


@pytest.mark.parametrize(("hits", "n"), [(0, 10), (10, 10), (3, 17), (500, 1000)])
def test_the_interval_is_wilsons(hits, n):
    expected = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    low, high = wilson(np.array([hits / n]), np.array([n]))
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_several_samples_of_a_subject_count_once_for_the_interval():
    one, five = reliability(drawn(300)).likeliest, reliability(drawn(300, each=5)).likeliest
    assert one.observed == five.observed and sum(five.subjects) >= 60
    assert all(a >= b for a, b in zip(one.subjects, five.subjects, strict=True)) and one.subjects != five.subjects
    assert five.ci_high[3] - five.ci_low[3] > one.ci_high[3] - one.ci_low[3]


def test_labels_have_a_curve_each_and_none_where_nothing_counts():
    random = np.random.default_rng(0)
    scores, mask = random.random((100, 2)), np.ones((100, 2), bool)
    mask[:, 1] = False
    p = Predictions(scores, (random.random((100, 2)) < scores) * 1.0, np.arange(100), ("x", "y"), mask)
    found = reliability(p)
    assert found.likeliest is None and list(found.classes) == ["x"]


def test_chance_alone_makes_the_error_of_predictions_that_mean_what_they_say():
    """Over 60 test sets whose classes were drawn with the predicted probabilities."""
    pairs = []
    for seed in range(60):
        p = drawn(150, seed)
        mean, high = chance_error([p.scores.max(axis=1)])
        error = values(p)["ece"]
        pairs.append((error - mean, error > high))
    differences, above = map(np.array, zip(*pairs, strict=True))
    assert abs(differences.mean()) < 3 * differences.std() / np.sqrt(60)
    assert above.mean() < 0.15  # one in twenty; 60 sets have a standard error of .028
    assert chance_error([]) is None


def test_one_sample_has_a_curve():
    each = curve(np.array([0.7]), np.array([1.0]), np.array([0]))
    assert each.confidence == (0.7,) and each.observed == (1.0,) and each.samples == (1,)
