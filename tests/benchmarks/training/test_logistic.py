"""Exact linear heads: those of a pipeline of scikit-learn, whatever a head is made of and however wide its input is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from medgraft.benchmarks.training.linear_problems import CANDIDATES, COARSE, fit_heads, mean_loss
from medgraft.benchmarks.training.logistic import UNSEEN_LOGIT, Logistic

CLOSE = 2e-4
"""Probabilities of two solutions whose gradients are below 1e-6; the loss is flat where C is large."""


def drawn(n: int, D: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of very different scales that know something of the class."""
    rng = np.random.default_rng(seed)
    y = np.r_[np.arange(classes), rng.integers(0, classes, n - classes)]
    x = rng.normal(size=(n, D)) + rng.normal(size=(classes, D))[y] * 0.5
    return x * np.geomspace(1e-3, 1e3, D) + 5, y


def reference(x: np.ndarray, y: np.ndarray, C: float) -> Pipeline:
    """An independent pipeline, solved by another method."""
    model = LogisticRegression(C=C, tol=1e-8, max_iter=10_000, solver="newton-cg")
    return make_pipeline(StandardScaler(), model).fit(x, y)


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def everyone(y: np.ndarray, outputs: int, name: str = "") -> Logistic:
    return Logistic(name, tuple(range(outputs)), np.ones(len(y), bool), y)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize(("n", "D"), [(60, 4), (40, 60), (30, 200)])
def test_a_softmax_is_that_of_an_independent_pipeline(classes, n, D):
    x, y = drawn(n, D, classes)
    heads = fit_heads(x, [everyone(y, classes)])
    for C, head in zip(CANDIDATES, heads, strict=True):
        assert head.weight.shape == (classes, D)
        assert np.abs(softmax(head(x)) - reference(x, y, C).predict_proba(x)).max() < CLOSE


def test_labels_are_a_sigmoid_each_on_the_samples_that_count():
    x, _ = drawn(80, 6, 2)
    rng = np.random.default_rng(1)
    y, mask = rng.integers(0, 2, (80, 3)), rng.random((80, 3)) < 0.7
    (head,) = fit_heads(x, [Logistic(str(k), (k,), mask[:, k], y[:, k]) for k in range(3)], [0.1])
    for k in range(3):
        expected = reference(x[mask[:, k]], y[mask[:, k], k], 0.1).predict_proba(x)[:, 1]
        assert np.abs(1 / (1 + np.exp(-head(x)[:, k])) - expected).max() < CLOSE


def test_a_label_that_is_left_out_does_not_touch_the_others():
    x, y = drawn(60, 5, 2)
    other = np.roll(y, 7)
    both = [everyone(y, 1), Logistic("b", (1,), np.ones(60, bool), other)]
    hidden = [both[0], Logistic("b", (1,), np.arange(60) < 30, np.where(np.arange(60) < 30, other, 77))]
    (first,), (second,) = fit_heads(x, both, [1.0]), fit_heads(x, hidden, [1.0])
    assert np.array_equal(first.weight[0], second.weight[0])


@pytest.mark.parametrize(("present", "expected"), [([1] * 10, 11 / 12), ([0] * 3, 1 / 5), ([], 1 / 2)])
def test_a_label_of_one_class_gets_the_share_of_its_positives_and_no_weight(present, expected):
    x, _ = drawn(10, 3, 2)
    y, rows = np.zeros(10, int), np.arange(10) < len(present)
    y[: len(present)] = present
    for head in fit_heads(x, [Logistic("a", (0,), rows, y)]):
        assert not head.weight.any() and 1 / (1 + np.exp(-head.bias[0])) == pytest.approx(expected)


def test_a_class_without_a_training_sample_is_as_good_as_impossible():
    x, y = drawn(50, 4, 3)
    (head,) = fit_heads(x, [everyone(np.where(y == 2, 3, y), 4)], [0.1])
    assert softmax(head(x))[:, 2].max() < 1e-6
    (two,) = fit_heads(x, [everyone(np.where(y > 0, 3, 0), 4)], [0.1])
    assert softmax(two(x))[:, 1:3].max() < 1e-6 and softmax(two(x))[:, 3].max() > 0.5
    (one,) = fit_heads(x, [everyone(np.full(50, 1), 3)], [0.1])
    assert one.bias.tolist() == [UNSEEN_LOGIT, 0.0, UNSEEN_LOGIT] and not one.weight.any()


def test_a_column_that_never_changes_weighs_nothing():
    x, y = drawn(40, 4, 2)
    x[:, 2] = 0.1
    (head,) = fit_heads(x, [everyone(y, 2)], [10.0])
    assert np.isfinite(head.weight).all() and np.abs(head.weight[:, 2]).max() < 1e-12


def test_weights_of_samples_are_repetitions():
    x, y = drawn(40, 4, 3)
    times = np.random.default_rng(2).integers(1, 4, 40)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)  # the scaler does not weigh
    model = LogisticRegression(C=0.1, tol=1e-8, max_iter=10_000).fit(np.repeat(scaled, times, 0), np.repeat(y, times))
    (head,) = fit_heads(x, [everyone(y, 3)], [0.1], times.astype(float))
    assert np.abs(softmax(head(x)) - model.predict_proba(scaled)).max() < CLOSE


def test_one_view_twice_at_half_weight_is_the_samples_themselves():
    x, y = drawn(40, 4, 3)
    (once,) = fit_heads(x, [everyone(y, 3)], [0.1])
    (twice,) = fit_heads(np.r_[x, x], [everyone(np.r_[y, y], 3)], [0.1], np.full(80, 0.5))
    assert np.abs(once(x) - twice(x)).max() < CLOSE


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4))
def test_losses_are_those_of_scikit_learn(seed, classes):
    rng = np.random.default_rng(seed)
    logits, y = rng.normal(size=(30, classes)), np.r_[np.arange(classes), rng.integers(0, classes, 30 - classes)]
    assert mean_loss([everyone(y, classes)], logits) == pytest.approx(log_loss(y, softmax(logits)))
    positive = 1 / (1 + np.exp(-logits[:, 0]))
    assert mean_loss([everyone(np.minimum(y, 1), 1)], logits[:, :1]) == pytest.approx(
        log_loss(np.minimum(y, 1), positive)
    )


def test_the_loss_of_nothing_is_undefined():
    assert np.isnan(mean_loss([Logistic("", (0,), np.zeros(3, bool), np.zeros(3, int))], np.zeros((3, 1))))


def test_the_same_data_give_the_same_bits_and_a_coarse_fit_the_same_choice():
    x, y = drawn(60, 20, 3)
    first, second, coarse = (fit_heads(x, [everyone(y, 3)], tolerance=t) for t in (1e-6, 1e-6, COARSE))
    assert all(np.array_equal(a.weight, b.weight) for a, b in zip(first, second, strict=True))
    exact, quick = ([mean_loss([everyone(y, 3)], head(x)) for head in heads] for heads in (first, coarse))
    assert np.allclose(exact, quick, atol=5e-3)
