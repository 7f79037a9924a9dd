"""Intervals over seeds, and classes of few subjects: equal seeds change nothing, others widen, and coverage holds."""

from __future__ import annotations

import numpy as np
import pytest

from medgraft.benchmarks.audit.interval_coverage import of_differences, of_gaps, of_seeds, of_subjects
from medgraft.benchmarks.metrics.bootstrap import left_out_of
from medgraft.benchmarks.metrics.intervals import FEW, few_subjects, joined_interval, pooled_intervals, seed_interval
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.metric import Predictions
from medgraft.metric.judging import judged, objective_of


def predictions(seed: int, n: int = 60, *, strength: float = 1.0) -> Predictions:
    """One test split, scores of a seed."""
    rng = np.random.default_rng(0)
    y, common = rng.integers(0, 3, n), rng.normal(size=(n, 3))
    logits = common + 0.3 * np.random.default_rng(seed).normal(size=(n, 3)) + strength * np.eye(3)[y]
    return Predictions(np.exp(logits), y, np.arange(n) // 2, tuple("abc"))


def pooled(each: list[Predictions], name: str) -> tuple[float | None, float | None]:
    seen = [judged(p) for p in each]
    metrics = {name: seen[0].metrics[name]}
    return pooled_intervals([one.statistics for one in seen], left_out_of(each[0]), metrics)[name]


def counted(p: Predictions) -> dict[str, int]:
    return objective_of(p).subjects_by_class(p)


def test_seeds_that_agree_have_the_interval_of_one():
    one = evaluate(predictions(0))["f1_macro"]
    low, high = pooled([predictions(0)] * 3, "f1_macro")
    assert (low, high) == pytest.approx((one.ci_low, one.ci_high))


def test_seeds_that_differ_widen_the_interval():
    def width(strengths: tuple[float, ...]) -> float:
        each = [predictions(1, strength=strength) for strength in strengths]
        low, high = pooled(each, "auc_macro")
        assert low is not None and high is not None
        return high - low

    assert width((1.0, 1.0, 1.0)) < width((0.7, 1.0, 1.3)) < width((0.2, 1.0, 1.8))


def test_spread_of_seeds_alone_gives_students_interval():
    # No subject matters, so what is left are three numbers: their interval is that of a t-test.
    values = np.array([0.5, 0.52, 0.54])
    low, high = seed_interval(np.repeat(values[:, None], 20_000, axis=1), values)
    assert low is not None and high is not None
    half = 4.302653 * values.std(ddof=1) / np.sqrt(3)
    assert (high - low) / 2 == pytest.approx(half, rel=0.25)  # quantiles of five possible means
    assert (low + high) / 2 == pytest.approx(0.52, abs=1e-3)


def test_ends_stay_where_a_metric_can_be():
    values = np.array([0.05, 0.5, 0.99])
    low, high = seed_interval(np.repeat(values[:, None], 500, axis=1), values)
    assert (low, high) == (0.0, 1.0)
    low, high = seed_interval(np.repeat(values[:, None] - 0.6, 500, axis=1), values - 0.6, (-1, 1))  # a difference
    assert low == -1.0


def test_undefined_resamples_are_left_out_and_undefined_seeds_leave_no_interval():
    by_seed = np.random.default_rng(0).uniform(0.4, 0.6, (3, 400))
    by_seed[:, :100] = np.nan
    low, high = seed_interval(by_seed, by_seed[:, 100:].mean(axis=1))
    assert low is not None and high is not None and 0.4 < low < high < 0.6
    assert seed_interval(by_seed, np.array([0.5, np.nan, 0.5])) == (None, None)
    assert seed_interval(np.full((3, 10), np.nan), np.full(3, 0.5)) == (None, None)


def test_a_single_seed_is_resampled_by_subject_alone():
    by_seed = np.random.default_rng(0).uniform(0.4, 0.6, (1, 400))
    assert seed_interval(by_seed, np.array([0.5])) == pytest.approx(tuple(np.quantile(by_seed, [0.025, 0.975])))


def test_ends_of_seeds_and_their_spread_add_up_in_quadrature():
    assert joined_interval([0.5], [0.4], [0.7]) == pytest.approx((0.4, 0.7))
    low, high = joined_interval([0.5, 0.5], [0.4, 0.4], [0.7, 0.7])
    assert (low, high) == pytest.approx((0.4, 0.7))
    low, high = joined_interval([0.49, 0.51], [0.4, 0.4], [0.6, 0.6])
    half = np.hypot(0.1, 12.7062 * 0.01)
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half))


# --- classes of few subjects ------------------------------------------------------------------------------------------


def test_subjects_and_not_samples_are_counted():
    groups = np.repeat(np.arange(30), 4)
    y = np.where(groups < 20, 0, np.where(groups < 29, 1, 2))
    assert few_subjects(counted(Predictions(np.zeros((120, 4)), y, groups, tuple("abcd")))) == {"b": 9, "c": 1, "d": 0}
    assert FEW == 10


def test_of_a_label_the_rarer_side_counts_where_it_is_known():
    y = np.zeros((40, 3), int)
    y[:12, 0], y[:35, 1], y[:20, 2] = 1, 1, 1
    mask = np.ones((40, 3), bool)
    p = Predictions(np.zeros((40, 3)), y, np.arange(40), ("a", "b", "c"), mask)
    assert few_subjects(counted(p)) == {"b": 5}
    mask[:8, 0] = False
    assert few_subjects(counted(p)) == {"a": 4, "b": 5}


@pytest.mark.parametrize("objective", ["segmentation", "detection"])
def test_masks_and_boxes_count_who_has_any(objective):
    has = np.arange(40) < 7
    if objective == "segmentation":
        p = Predictions(np.zeros((40, 3)), has.astype(int), np.arange(40), ("air",), objective=objective)
    else:
        boxes = np.where(has[:, None, None], 0.5, -1.0) * np.ones((40, 2, 4))
        p = Predictions(np.zeros((40, 1, 5)), boxes, np.arange(40), ("air",), objective=objective)
    assert few_subjects(counted(p)) == {"air": 7}


# --- coverage ---------------------------------------------------------------------------------------------------------


SMOOTH = ("auc_macro", "f1_macro", "accuracy", "brier")


def test_coverage_of_few_clustered_subjects():
    # Nominal 95% in 100 test sets: the binomial deviation is 2.2 points, and four of them are allowed. Percentiles of
    # resamples held 71% of these AUCs.
    for prevalence in (0.1, 0.5):
        for name, found in of_subjects(30, prevalence, 100, SMOOTH).items():
            assert found.share > 0.95 - 4 * 0.022, (prevalence, name)
    assert of_subjects(30, 0.1, 20, ("auc_macro",))["auc_macro"].without < 0.6  # one subject of a class or none


@pytest.mark.slow
@pytest.mark.parametrize("subjects", [30, 100, 300])
@pytest.mark.parametrize("prevalence", [0.1, 0.5])
def test_coverage_of_clustered_subjects(subjects, prevalence):
    # 93% to 97%, with three binomial deviations of .95 in 150 test sets, 1.8 points each, on either side.
    for name, found in of_subjects(subjects, prevalence, 150).items():
        if (subjects, prevalence, name) == (30, 0.1, "balanced_accuracy"):
            continue  # three subjects of a class, often two: no method was found that holds, and the row says so
        assert 0.93 - 3 * 0.018 <= found.share <= 1.0, name


def test_coverage_of_paired_differences():
    # Four binomial deviations of .95 in 80 test sets, 2.4 points each. Percentiles of resamples held 88% of the AUCs.
    for name, found in of_differences(30, 1, 0.0, 80, ("auc_macro", "accuracy")).items():
        assert found.without == 0 and found.share > 0.95 - 4 * 0.024, name


def test_coverage_of_gaps_between_groups():
    # Percentiles of resampled gaps never hold the gap of groups that do not differ.
    for strengths in ((1.0, 1.0), (0.5, 1.0, 1.5)):
        for name, found in of_gaps(strengths, 40, 40).items():
            assert found.without == 0 and found.share > 0.95 - 4 * 0.034, (strengths, name)


@pytest.mark.slow
def test_coverage_of_seeds():
    assert min(of_seeds(100, 3, 2.0, 40).values()) > 0.82  # seeds that differ as much had .73 before


def test_a_metric_at_its_bound_has_an_interval_of_the_subjects_that_it_rests_on():
    groups = np.arange(40)
    y = (groups < 4).astype(int)
    found = evaluate(Predictions(np.eye(2)[y] * 0.8 + 0.1, y, groups, ("no", "yes")), resamples=50)
    assert (found["accuracy"].value, found["accuracy"].ci_high) == (1.0, 1.0)
    assert found["accuracy"].ci_low == pytest.approx(0.025 ** (1 / 40))  # Clopper and Pearson, 40 of 40
    assert found["auc_macro"].ci_low == pytest.approx(0.025 ** (1 / 4))
    assert found["f1_macro"].ci_low == pytest.approx(0.025 ** (1 / 4))


def test_the_variance_of_an_auc_of_single_samples_is_delongs_with_the_factor_of_few_subjects():
    rng = np.random.default_rng(3)
    y = (np.arange(60) < 12).astype(int)
    score = 1 / (1 + np.exp(-(y + rng.normal(size=60))))
    p = Predictions(np.stack([1 - score, score], axis=1), y, np.arange(60), ("no", "yes"))
    left_out = left_out_of(p)
    spread = left_out.spread(left_out.influences({"auc": judged(p).statistics["auc_macro"]})["auc"])
    placed = np.subtract.outer(score[y == 1], score[y == 0]) > 0
    parts = [placed.mean(axis=axis).var(ddof=1) / placed.shape[1 - axis] for axis in (0, 1)]
    # DeLong's two terms, each times n^2 / (n - 1)^2, and Satterthwaite's degrees of freedom of their sum.
    parts = [part * (n / (n - 1) * 59 / 60) ** 2 for part, n in zip(parts, (48, 12), strict=True)]
    assert float(spread.variance) == pytest.approx(sum(parts), rel=1e-9)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / 47 + parts[1] ** 2 / 11)
    assert float(spread.freedom) == pytest.approx(freedom, rel=1e-9)
