"""Errors and correlations against scikit-learn and SciPy, in resamples too: a weight counts as so many copies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from judged_numbers import points
from scipy import stats
from sklearn.metrics import mean_absolute_error, root_mean_squared_error

from medgraft.benchmarks.metrics.regression import weighted_ranks
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.metric import Predictions

ORACLES = {
    "mae": mean_absolute_error,
    "rmse": root_mean_squared_error,
    "pearson": lambda y, x: stats.pearsonr(y, x).statistic,
    "spearman": lambda y, x: stats.spearmanr(y, x).statistic,
}


def numbers(seed: int, n: int = 30) -> Predictions:
    rng = np.random.default_rng(seed)
    y = rng.integers(50, 60, n).astype(float)  # with ties
    x = y + rng.normal(0, 4, n).round()
    return Predictions(x[:, None], y, np.arange(n), (), objective="regression")


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_values_are_those_of_the_libraries(seed):
    p = numbers(seed)
    values, _ = points(p)
    assert values == pytest.approx({name: oracle(p.targets, p.scores[:, 0]) for name, oracle in ORACLES.items()})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_a_weight_counts_as_so_many_copies(seed):
    p = numbers(seed)
    weights = np.random.default_rng(seed).integers(0, 4, (3, 30)).astype(float)
    _, statistics = points(p)
    for row, w in enumerate(weights):
        copies = np.repeat(np.arange(30), w.astype(int))
        for name, oracle in ORACLES.items():
            wanted = oracle(p.targets[copies], p.scores[copies, 0])
            assert statistics[name](weights)[row] == pytest.approx(wanted), name


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-3, 3), min_size=1, max_size=12))
def test_ranks_are_scipys(values):
    given_values = np.array(values, float)
    assert weighted_ranks(given_values)(np.ones((1, len(values))))[0] == pytest.approx(stats.rankdata(given_values))


def test_a_prediction_that_never_varies_has_no_correlation_and_an_error():
    p = numbers(0)
    flat = Predictions(np.full((30, 1), 55.3), p.targets, p.groups, (), objective="regression")
    found = evaluate(flat, resamples=50)
    assert found["pearson"].value is None and found["spearman"].value is None
    assert found["mae"].value is not None and found["mae"].ci_high is not None


def test_an_error_may_be_larger_than_one_and_so_may_its_interval():
    found = evaluate(numbers(1), resamples=200)["mae"]
    assert found.value is not None and found.ci_low is not None and found.ci_high is not None
    assert 1 < found.ci_low < found.value < found.ci_high
