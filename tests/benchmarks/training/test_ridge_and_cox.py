"""Heads of numbers and of risks: the optimum of what they say they minimise, whatever the start and the scale."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from medgraft.benchmarks.training.cox import Cox, partial_likelihood
from medgraft.benchmarks.training.linear_problems import CANDIDATES, fit_heads, mean_loss
from medgraft.benchmarks.training.ridge import Ridge


def numbers(seed: int = 0, n: int = 60) -> tuple[np.ndarray, Ridge]:
    rng = np.random.default_rng(seed)
    x = rng.normal(3, [1, 10, 0.1], (n, 3))
    return x, Ridge("", (0,), np.ones(n, bool), x @ [0.5, 0.02, -3] + rng.normal(0, 0.3, n))


def risks(seed: int = 0, n: int = 80) -> tuple[np.ndarray, Cox]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 3))
    time, left = rng.exponential(np.exp(-(x @ [1.0, -0.5, 0]))), rng.exponential(2, n)
    values = np.stack([np.minimum(time, left).round(1) + 0.1, (time <= left).astype(float)], axis=1)
    return x, Cox("", (0,), np.ones(n, bool), values)


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_ridge_is_the_optimum_on_standardised_columns(C):
    x, problem = numbers()
    (head,) = fit_heads(x, [problem], [C])
    z = (x - x.mean(axis=0)) / x.std(axis=0)

    def loss(w: np.ndarray) -> float:
        return 0.5 * C * np.square(z @ w[:3] + w[3] - problem.values).sum() + 0.5 * w[:3] @ w[:3]

    best = minimize(loss, np.zeros(4), tol=1e-12).x
    assert head(x)[:, 0] == pytest.approx(z @ best[:3] + best[3], abs=1e-4)


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_cox_is_the_optimum_on_standardised_columns(C):
    x, problem = risks()
    (head,) = fit_heads(x, [problem], [C])
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    time, event = problem.values.T

    def loss(w: np.ndarray) -> float:
        risk = z @ w
        each = [
            np.log(np.exp(risk[time >= t]).sum()) - r for t, r in zip(time[event > 0], risk[event > 0], strict=True)
        ]
        return C * np.sum(each) + 0.5 * w @ w

    best = minimize(loss, np.zeros(3), tol=1e-12).x
    assert head(x)[:, 0] - head(x).mean() == pytest.approx(z @ best - (z @ best).mean(), abs=1e-4)


def test_the_gradient_of_the_partial_likelihood_is_that_of_its_sum():
    x, problem = risks(1)
    time, event = problem.values.T
    weights = np.random.default_rng(1).uniform(0.5, 2, len(x))
    at, step = x @ [0.3, 0.1, -0.2], 1e-5
    told = partial_likelihood(at, time, event, weights)[1]
    ends = [
        [partial_likelihood(at + side * each, time, event, weights)[0].sum() for side in (1, -1)]
        for each in step * np.eye(len(at))
    ]
    slopes = [(above - below) / (2 * step) for above, below in ends]
    assert told == pytest.approx(slopes, abs=1e-7)  # central differences are off by the square of the step


def test_a_weight_of_two_is_a_second_copy_at_the_same_time():
    x, problem = risks(2, 20)
    time, event = problem.values.T
    risk = x[:, 0]
    twice, weights = np.r_[np.arange(20), 4], np.ones(20)
    weights[4] = 2
    copies = partial_likelihood(risk[twice], time[twice], event[twice])[0].sum()
    assert partial_likelihood(risk, time, event, weights)[0].sum() == pytest.approx(copies)


def test_large_risks_do_not_overflow():
    losses, slope = partial_likelihood(np.array([900.0, -900, 0]), np.array([1.0, 2, 3]), np.ones(3))
    assert np.isfinite(losses).all() and np.isfinite(slope).all()


def test_a_risk_finds_the_order_that_made_the_times():
    x, problem = risks(3, 400)
    (head,) = fit_heads(x, [problem], [10.0])
    assert head.weight[0] == pytest.approx([1, -0.5, 0], abs=0.25)


@pytest.mark.parametrize("values", [[[1, 0], [2, 0]], [[2, 1], [2, 1]], [[1, 0], [2, 1]]])
def test_without_an_event_before_someone_left_at_risk_nothing_is_fitted(values):
    problem = Cox("", (0,), np.ones(2, bool), np.array(values, float))
    assert not problem.trainable
    (head,) = fit_heads(np.eye(2), [problem], [1.0])
    assert not head.weight.any() and not head.bias.any()


@pytest.mark.parametrize("make", [numbers, risks])
def test_stronger_l2_holds_the_weights_back(make):
    x, problem = make()
    sizes = [float(np.abs(head.weight).sum()) for head in fit_heads(x, [problem])]
    assert len(sizes) == len(CANDIDATES) and sizes == sorted(sizes)
    losses = [mean_loss([problem], head(x)) for head in fit_heads(x, [problem])]
    assert losses == sorted(losses, reverse=True)
