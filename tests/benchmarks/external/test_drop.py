"""Numbers at home and away, and the interval of their difference."""

from __future__ import annotations

import numpy as np
import pytest

from medgraft.benchmarks.external.comparison import compare, drop_over_seeds
from medgraft.benchmarks.metrics.bootstrap import estimates
from medgraft.metric import Predictions
from medgraft.metric.judging import judged, values


def predictions(seed: int, n: int, skill: float, objective: str = "multiclass") -> Predictions:
    """Two classes, told apart by a normal score whose means differ by ``skill``; two samples of a person."""
    rng = np.random.default_rng(seed)
    targets = np.arange(n) % 2
    p = 1 / (1 + np.exp(-(rng.normal(size=n) + skill * (targets - 0.5))))
    return Predictions(np.stack([1 - p, p], 1), targets, np.arange(n) // 2, ("a", "b"), objective=objective)


def ages(seed: int, n: int, error: float) -> Predictions:
    rng = np.random.default_rng(seed)
    targets = rng.uniform(55, 90, n)
    return Predictions((targets + rng.normal(0, error, n))[:, None], targets, np.arange(n), (), objective="regression")


def test_the_same_predictions_drop_by_nothing():
    p = predictions(0, 60, 1.0)
    result = compare(p, p)
    assert all(each.value == 0 for each in result.drop.values())
    drop = result.drop["auc_macro"]
    assert drop.ci_low is not None and drop.ci_high is not None and drop.ci_low < 0 < drop.ci_high


def test_both_sides_are_what_they_are_alone_and_the_drop_is_their_difference():
    home, away = predictions(0, 60, 2.0), predictions(1, 40, 0.5)
    result = compare(home, away)
    for name, value in values(home).items():
        assert result.home[name].value == pytest.approx(value, abs=1e-12)
        assert result.away[name].value == pytest.approx(values(away)[name], abs=1e-12)
        sign = 1 if judged(home).metrics[name].higher_is_better else -1  # more error there is a drop as well
        assert result.drop[name].value == pytest.approx(sign * (value - values(away)[name]), abs=1e-12)
    assert result.drop["auc_macro"].n_subjects == 20
    for side, p in ((result.home, home), (result.away, away)):
        assert side == estimates(judged(p).statistics, p, metrics=judged(p).metrics)  # as a cell's own result has them


def test_more_error_is_a_drop_too():
    result = compare(ages(0, 80, 3.0), ages(1, 80, 9.0))
    assert result.drop["mae"].value is not None and result.drop["mae"].value > 3
    assert result.drop["pearson"].value is not None and result.drop["pearson"].value > 0


def test_a_label_without_positives_is_undefined_on_that_side_only():
    home = predictions(0, 40, 1.0)
    away = Predictions(home.scores, np.zeros(40, np.int64), home.groups, home.classes, objective="multiclass")
    result = compare(home, away)
    assert result.home["auc_macro"].value is not None
    assert result.away["auc_macro"].value is None and result.drop["auc_macro"].value is None


def test_the_interval_holds_the_true_drop_about_as_often_as_it_says():
    """Accuracies of 200 pairs of cohorts, persons with two samples each; 95% within 4 standard errors of 1.5%."""
    true = 0.0
    for skill, sign in ((2.0, 1), (0.8, -1)):
        from scipy.stats import norm

        true += sign * float(norm.cdf(skill / 2))
    held = 0
    for k in range(200):
        drop = compare(predictions(2 * k, 120, 2.0), predictions(2 * k + 1, 80, 0.8)).drop["accuracy"]
        assert drop.ci_low is not None and drop.ci_high is not None
        held += drop.ci_low <= true <= drop.ci_high
    assert 0.89 <= held / 200 <= 1


def test_seeds_widen_it_and_one_alone_is_as_compared():
    seeds = [(predictions(k, 60, 1.0 + 0.5 * k), predictions(9 + k, 40, 0.5)) for k in range(3)]
    ends = drop_over_seeds(seeds, "accuracy")
    single = compare(*seeds[1]).drop["accuracy"]
    low, high = ends[2]
    assert low is not None and high is not None and single.ci_low is not None and single.ci_high is not None
    assert low < np.mean([values(h)["accuracy"] - values(a)["accuracy"] for h, a in seeds]) < high
    one = drop_over_seeds(seeds[1:2], "accuracy")
    assert one[2] == pytest.approx((single.ci_low, single.ci_high), abs=1e-12)


def test_numbers_at_their_bound_at_home_and_away_may_still_differ():
    sure = np.arange(24) % 2
    p = Predictions(np.eye(2)[sure], sure, np.arange(24), ("a", "b"))
    drop = compare(p, p).drop["auc_macro"]
    assert drop.value == 0 and drop.ci_low is not None and drop.ci_high is not None
    assert drop.ci_low < -0.1 and drop.ci_high > 0.1
