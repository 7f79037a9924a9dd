"""The temperature minimises the log-loss of validation samples, leaves decisions alone, and is left out without one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from medgraft.benchmarks.calibration.temperature import (
    class_logits,
    fit_class_temperature,
    fit_label_temperature,
    label_logits,
    mean_loss,
    scaled,
    temperatures_of,
)


def classes(seed: int, n: int = 300, K: int = 4) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, K)) * 2
    return logits, np.array([random.choice(K, p=row) for row in softmax(logits, axis=1)])


def loss(logits: np.ndarray, targets: np.ndarray, temperature: float) -> float:
    return float(-log_softmax(logits / temperature, axis=1)[np.arange(len(targets)), targets].mean())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), factor=st.sampled_from([0.1, 0.5, 1.0, 3.0, 20.0]))
def test_it_minimises_the_loss_as_scipy_finds_it(seed, factor):
    logits, targets = classes(seed)
    logits = logits * factor
    found = fit_class_temperature(logits, targets)
    best = minimize_scalar(lambda x: loss(logits, targets, np.exp(x)), bounds=(-5, 5), method="bounded")
    assert np.log(found) == pytest.approx(best.x, abs=1e-4)
    assert loss(logits, targets, found) <= loss(logits, targets, 1.0) + 1e-12
    assert all(loss(logits, targets, found) <= loss(logits, targets, found * each) for each in (0.99, 1.01))
    # The derivative by the inverse temperature is 0 there.
    p = softmax(logits / found, axis=1)
    assert ((p * logits).sum(axis=1) - logits[np.arange(len(targets)), targets]).mean() == pytest.approx(0, abs=1e-9)


def test_logits_that_are_too_large_by_a_factor_get_it_back():
    logits, targets = classes(1, n=20_000)
    one = fit_class_temperature(logits, targets)
    assert one == pytest.approx(1.0, abs=0.05)  # classes were drawn with these probabilities
    assert fit_class_temperature(7 * logits, targets) == pytest.approx(7 * one, rel=1e-9)
    assert fit_class_temperature(logits + 100.0, targets) == pytest.approx(one, rel=1e-6)


def test_a_label_has_the_slope_of_a_logistic_regression_without_offset():
    random = np.random.default_rng(2)
    logits = random.normal(size=400) * 3
    targets = random.random(400) < expit(logits / 2)
    slope = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10).fit(logits[:, None], targets).coef_[0, 0]
    assert 1 / fit_label_temperature(logits, targets) == pytest.approx(slope, rel=1e-4)


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        ([[2.0, 0], [0, 1]], [0, 1]),  # no error: sharper is always better
        ([[2.0, 0], [0, 1]], [1, 0]),  # all wrong: flatter is always better
        ([[2.0, 0], [3, 0]], [0, 0]),  # one class
        (np.zeros((4, 2)), [0, 1, 0, 1]),  # nothing to scale
    ],
)
def test_no_temperature_where_none_is_best(logits, targets):
    logits, targets = np.array(logits), np.array(targets)
    assert fit_class_temperature(logits, targets) is None
    assert fit_label_temperature(logits[:, 1] - logits[:, 0], targets) is None


def test_without_samples_there_is_none():
    assert temperatures_of(np.zeros((0, 2)), np.zeros(0, int)) == (None,)
    assert temperatures_of(np.zeros((0, 2)), np.zeros((0, 2))) == (None, None)


def test_scaled_classes_keep_their_order_in_each_sample_and_sum_to_one():
    logits, _ = classes(3)
    p = softmax(logits, axis=1)
    after = scaled(p, (2.5,), labels=False)
    assert after == pytest.approx(softmax(logits / 2.5, axis=1), abs=1e-12)
    assert np.array_equal(after.argsort(axis=1), p.argsort(axis=1)) and after.sum(axis=1) == pytest.approx(1)


def test_scaled_labels_and_thresholds_decide_the_same():
    random = np.random.default_rng(4)
    p = random.random((500, 3)).astype(np.float32).astype(float)
    thresholds, temperatures = p[[5, 77, 300], [0, 1, 2]], (0.4, None, 6.0)
    after, moved = scaled(p, temperatures, labels=True), scaled(thresholds, temperatures, labels=True)
    assert np.array_equal(after >= moved, p >= thresholds)
    assert np.array_equal(after[:, 1], p[:, 1]) and after[:, 0] == pytest.approx(expit(label_logits(p[:, 0]) / 0.4))


def test_scores_of_exactly_zero_and_one_stay_finite():
    ends = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert np.isfinite(scaled(ends, (3.0,), labels=False)).all() and np.isfinite(class_logits(ends)).all()
    assert np.isfinite(scaled(ends, (3.0, 3.0), labels=True)).all()
    assert np.isfinite(mean_loss(ends, np.array([0, 1])))


def test_labels_count_where_they_count():
    random = np.random.default_rng(5)
    logits = random.normal(size=(400, 2)) * 3
    targets, mask = (random.random((400, 2)) < expit(logits / 2)).astype(float), random.random((400, 2)) < 0.7
    spoilt = np.where(mask, targets, 1 - targets)
    found = temperatures_of(expit(logits), spoilt, mask)
    assert found[0] == pytest.approx(fit_label_temperature(logits[mask[:, 0], 0], targets[mask[:, 0], 0]), rel=1e-6)
    assert mean_loss(expit(logits), spoilt, mask) == mean_loss(expit(logits), targets, mask)
    assert np.isnan(mean_loss(expit(logits), targets, np.zeros((400, 2), bool)))
