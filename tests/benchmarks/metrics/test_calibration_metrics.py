"""Brier score and calibration error: scikit-learn's numbers, the formula in a loop, and what must hold of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from medgraft.benchmarks.metrics.calibration import adaptive_bins, bins_for, weighted_ece
from medgraft.benchmarks.metrics.resampling import centre
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.metric import Predictions, value_of
from medgraft.metric.judging import judged, values


def drawn(n: int, K: int, seed: int = 0, sharper: float = 1.0) -> Predictions:
    """Classes drawn with their probabilities; what is predicted is sharper or flatter than these."""
    random = np.random.default_rng(seed)
    p = random.dirichlet(np.ones(K), n)
    targets = np.array([random.choice(K, p=row) for row in p])
    said = p**sharper / (p**sharper).sum(axis=1, keepdims=True)
    return Predictions(said, targets, np.arange(n), tuple(f"c{k}" for k in range(K)))


def of_labels(n: int, K: int, seed: int = 0) -> Predictions:
    random = np.random.default_rng(seed)
    p = random.random((n, K))
    targets = (random.random((n, K)) < p).astype(float)
    names = tuple(f"l{k}" for k in range(K))
    return Predictions(p, targets, np.arange(n), names, random.random((n, K)) < 0.8, np.full(K, 0.5))


@pytest.mark.parametrize("K", [2, 3, 7])
def test_the_brier_score_of_classes_is_that_of_scikit_learn(K):
    p = drawn(150, K)
    found = values(p)
    assert found["brier"] == pytest.approx(brier_score_loss(p.targets, p.scores, labels=range(K)), abs=1e-12)
    for k in range(K):
        assert found[f"brier_c{k}"] == pytest.approx(brier_score_loss(p.targets == k, p.scores[:, k]), abs=1e-12)


def test_the_brier_score_of_labels_is_their_mean_over_samples_that_count():
    p = of_labels(90, 4)
    each = [brier_score_loss(p.targets[p.mask[:, k], k], p.scores[p.mask[:, k], k]) for k in range(4)]
    found = values(p)
    assert [found[f"brier_l{k}"] for k in range(4)] == pytest.approx(each, abs=1e-12)
    assert found["brier"] == pytest.approx(np.mean(each), abs=1e-12)


def plain_ece(confidence: np.ndarray, outcome: np.ndarray) -> float:
    """The formula sample by sample: bins by rank, equal confidences together."""
    n = len(confidence)
    B = max(1, min(15, n // 10))
    total = 0.0
    bins: dict[int, list[int]] = {}
    for i in range(n):
        below = sum(confidence[j] < confidence[i] for j in range(n))
        bins.setdefault(B * below // n, []).append(i)
    for members in bins.values():
        total += len(members) / n * abs(np.mean(outcome[members]) - np.mean(confidence[members]))
    return total


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 170), ties=st.booleans())
def test_the_calibration_error_is_its_formula(seed, n, ties):
    random = np.random.default_rng(seed)
    confidence = random.integers(0, 9, n) / 8 if ties else random.random(n)
    outcome = random.integers(0, 2, n)
    assert value_of(weighted_ece(confidence, outcome), n) == pytest.approx(plain_ece(confidence, outcome), abs=1e-12)


def test_classes_have_the_error_of_the_likeliest_one_and_of_each():
    p = drawn(120, 3)
    found = values(p)
    assert found["ece"] == pytest.approx(plain_ece(p.scores.max(1), p.scores.argmax(1) == p.targets), abs=1e-12)
    each = [plain_ece(p.scores[:, k], p.targets == k) for k in range(3)]
    assert [found[f"ece_c{k}"] for k in range(3)] == pytest.approx(each, abs=1e-12)
    assert found["ece_macro"] == pytest.approx(np.mean(each), abs=1e-12)


def test_labels_have_the_mean_of_theirs():
    p = of_labels(150, 3)
    each = [plain_ece(p.scores[p.mask[:, k], k], p.targets[p.mask[:, k], k]) for k in range(3)]
    found = values(p)
    assert found["ece"] == pytest.approx(np.mean(each), abs=1e-12) and "ece_macro" not in found


def test_predictions_that_mean_what_they_say_have_nearly_no_error():
    # A bin of 2,000 samples is off by about sqrt(p (1 - p) / 2000), at most .011, and by less on average.
    assert values(drawn(30_000, 3))["ece"] < 0.011 < 0.08 < values(drawn(30_000, 3, sharper=3.0))["ece"]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000), ties=st.booleans())
def test_the_order_of_samples_does_not_matter(seed, ties):
    random = np.random.default_rng(seed)
    confidence = random.integers(0, 20, 60) / 19 if ties else random.random(60)
    outcome, order = random.integers(0, 2, 60), random.permutation(60)
    first = value_of(weighted_ece(confidence, outcome), 60)
    assert value_of(weighted_ece(confidence[order], outcome[order]), 60) == pytest.approx(first, abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 1000))
def test_weights_are_repeated_samples(seed):
    random = np.random.default_rng(seed)
    confidence, outcome = random.integers(0, 40, 90) / 39, random.integers(0, 2, 90)
    weights = random.integers(0, 4, 90)
    repeated = np.repeat(np.arange(90), weights)
    expected = value_of(weighted_ece(confidence[repeated], outcome[repeated]), len(repeated))
    both = weighted_ece(confidence, outcome)(np.stack([weights, np.ones(90)]).astype(float))
    assert both[0] == pytest.approx(expected, abs=1e-12)
    assert both[1] == pytest.approx(value_of(weighted_ece(confidence, outcome), 90), abs=1e-12)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 400), bins=st.integers(1, 15))
def test_bins_hold_equally_many(n, bins):
    counts = np.bincount(adaptive_bins(np.random.default_rng(n).random(n), min(bins, n)), minlength=min(bins, n))
    assert counts.max() - counts.min() <= 1 and counts.sum() == n


def test_a_label_that_never_counts_is_undefined():
    p = of_labels(60, 2)
    p.mask[:, 1] = False
    found = evaluate(p, resamples=50)
    assert found["brier_l1"].value is None and found["ece_l1"].value is None
    assert found["brier"].value == found["brier_l0"].value and found["ece"].value == found["ece_l0"].value


def test_nothing_drawn_is_undefined():
    assert np.isnan(weighted_ece(np.array([0.2, 0.4]), np.array([0, 1]))(np.zeros((1, 2)))).all()
    assert np.isnan(weighted_ece(np.zeros(0), np.zeros(0))(np.zeros((3, 0)))).all()
    assert bins_for(0) == 1


@pytest.mark.parametrize("n", [40, 200])
def test_the_interval_holds_the_value_though_resampling_adds_noise(n):
    found = evaluate(drawn(n, 3), resamples=300)
    for name in ("ece", "ece_macro", "ece_c0", "brier"):
        assert 0 <= found[name].ci_low <= found[name].value <= found[name].ci_high <= 2, name


def test_a_centred_distribution_has_the_value_as_its_mean():
    assert centre(np.array([0.4, 0.6, np.nan]), 0.3, (0.0, 1.0))[:2] == pytest.approx([0.2, 0.4])
    assert centre(np.array([0.4, 0.6]), 0.05, (0.0, 1.0)).tolist() == pytest.approx([0.0, 0.15])
    assert np.isnan(centre(np.array([np.nan]), 0.3, (0.0, 1.0))).all()


def test_cosines_are_not_judged_as_probabilities():
    p = of_labels(50, 2)
    cosines = Predictions(p.scores, p.targets, p.groups, p.classes, p.mask, p.thresholds, "contrastive")
    assert not any(name.startswith(("brier", "ece")) for name in judged(cosines).statistics)
    assert {"brier", "ece"} <= set(judged(p).statistics)
