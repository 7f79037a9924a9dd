"""Metrics on stored predictions: equal to scikit-learn, undefined where they are, intervals by subject."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from judged_numbers import points as numbers_of
from sklearn import metrics as sklearn_metrics

from medgraft.benchmarks.metrics.bootstrap import subject_bootstrap
from medgraft.benchmarks.metrics.classification import best_thresholds
from medgraft.benchmarks.metrics.weighted import weighted_auc, weighted_f1
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.metric import Predictions

EXACT = 1e-12
"""Both sides divide the same small integers; only the order of sums differs."""


def multiclass(seed: int, n: int = 60, classes: int = 3, decimals: int = 1) -> Predictions:
    """Random predictions; one decimal gives many ties."""
    rng = np.random.default_rng(seed)
    targets = np.r_[np.arange(classes), rng.integers(0, classes, n - classes)]
    scores = np.round(rng.random((n, classes)) + 0.6 * np.eye(classes)[targets], decimals)
    return Predictions(scores, targets, np.arange(n) // 2, tuple("abcdefgh"[:classes]))


def multilabel(seed: int, n: int = 60, labels: int = 3) -> Predictions:
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, 2, (n, labels)).astype(np.float32)
    targets[0], targets[1] = 0, 1
    scores = np.round(np.clip(0.3 * targets + 0.7 * rng.random((n, labels)), 0, 1), 1)
    mask = rng.random((n, labels)) < 0.8
    mask[:2] = True
    thresholds = np.array([0.3, 0.5, 0.7])[:labels]
    return Predictions(scores, targets, np.arange(n) // 2, tuple("abc"[:labels]), mask, thresholds)


def repeated(p: Predictions, weights: np.ndarray) -> Predictions:
    """The predictions with row ``i`` written ``weights[i]`` times."""
    rows = np.repeat(np.arange(len(p.targets)), weights)
    mask = None if p.mask is None else p.mask[rows]
    return Predictions(p.scores[rows], p.targets[rows], p.groups[rows], p.classes, mask, p.thresholds)


# --- point values -----------------------------------------------------------------------------------------------------


def test_multiclass_points_equal_sklearn():
    p = multiclass(0)
    points, _ = numbers_of(p)
    guess = p.scores.argmax(axis=1)
    assert points["f1_macro"] == pytest.approx(sklearn_metrics.f1_score(p.targets, guess, average="macro"), abs=EXACT)
    weighted = sklearn_metrics.f1_score(p.targets, guess, average="weighted")
    assert points["f1_weighted"] == pytest.approx(weighted, abs=EXACT)
    for mean in ("macro", "weighted"):
        wanted = sklearn_metrics.precision_score(p.targets, guess, average=mean)
        assert points[f"precision_{mean}"] == pytest.approx(wanted, abs=EXACT)
    recall = sklearn_metrics.recall_score(p.targets, guess, average="weighted")
    assert points["accuracy"] == pytest.approx(recall, abs=EXACT)
    assert points["accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(p.targets, guess), abs=EXACT)
    balanced = sklearn_metrics.balanced_accuracy_score(p.targets, guess)
    assert points["balanced_accuracy"] == pytest.approx(balanced, abs=EXACT)
    for k, name in enumerate(p.classes):
        auc = sklearn_metrics.roc_auc_score(p.targets == k, p.scores[:, k])
        assert points[f"auc_{name}"] == pytest.approx(auc, abs=EXACT)
        f1 = sklearn_metrics.f1_score(p.targets == k, guess == k)
        assert points[f"f1_{name}"] == pytest.approx(f1, abs=EXACT)


def test_multilabel_points_equal_sklearn_on_what_counts():
    p = multilabel(1)
    assert p.mask is not None and p.thresholds is not None
    points, _ = numbers_of(p)
    aucs, f1s, supports = [], [], []
    for k, name in enumerate(p.classes):
        keep = p.mask[:, k]
        actual, scores = p.targets[keep, k], p.scores[keep, k]
        aucs.append(sklearn_metrics.roc_auc_score(actual, scores))
        f1s.append(sklearn_metrics.f1_score(actual, scores >= p.thresholds[k]))
        supports.append(actual.sum())
        assert points[f"auc_{name}"] == pytest.approx(aucs[-1], abs=EXACT)
        assert points[f"f1_{name}"] == pytest.approx(f1s[-1], abs=EXACT)
    assert points["auc_macro"] == pytest.approx(np.mean(aucs), abs=EXACT)
    assert points["f1_macro"] == pytest.approx(np.mean(f1s), abs=EXACT)
    assert points["f1_weighted"] == pytest.approx(np.average(f1s, weights=supports), abs=EXACT)


def test_a_masked_cell_changes_nothing():
    p = multilabel(2)
    assert p.mask is not None
    flipped = np.where(p.mask, p.targets, 1 - p.targets)
    before = numbers_of(p)[0]
    after = numbers_of(Predictions(p.scores, flipped, p.groups, p.classes, p.mask, p.thresholds))[0]
    assert before == after


# --- weighted statistics ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("points", "predictions"), [(numbers_of, multiclass(3)), (numbers_of, multilabel(3))])
def test_unit_weights_give_the_point_values(points, predictions):
    values, weighted = points(predictions)
    ones = np.ones((2, len(predictions.targets)))
    for name, statistic in weighted.items():
        assert statistic(ones) == pytest.approx(values[name], abs=EXACT), name


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), weights=st.lists(st.integers(0, 3), min_size=24, max_size=24))
def test_integer_weights_equal_repeated_rows_multiclass(seed, weights):
    p, counts = multiclass(seed, n=24), np.array(weights)
    again = repeated(p, counts)
    assume(len(np.unique(again.targets)) == 3)
    expected, _ = numbers_of(again)
    _, weighted = numbers_of(p)
    for name, statistic in weighted.items():
        assert statistic(counts[None].astype(float))[0] == pytest.approx(expected[name], abs=1e-9), name


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**16), weights=st.lists(st.integers(0, 3), min_size=24, max_size=24))
def test_integer_weights_equal_repeated_rows_multilabel(seed, weights):
    p, counts = multilabel(seed, n=24), np.array(weights)
    again = repeated(p, counts)
    assert again.mask is not None
    assume(all(len(np.unique(again.targets[again.mask[:, k], k])) == 2 for k in range(3)))
    expected, _ = numbers_of(again)
    _, weighted = numbers_of(p)
    for name, statistic in weighted.items():
        assert statistic(counts[None].astype(float))[0] == pytest.approx(expected[name], abs=1e-9), name


def test_tied_scores_count_half_in_the_auc():
    scores, positive = np.array([0.5, 0.5, 0.5, 0.5]), np.array([1, 0, 1, 0], bool)
    assert weighted_auc(scores, positive)(np.ones((1, 4)))[0] == 0.5


def test_auc_of_a_resample_without_negatives_is_undefined():
    statistic = weighted_auc(np.array([0.1, 0.9, 0.4]), np.array([0, 1, 1], bool))
    assert np.isnan(statistic(np.array([[0.0, 1.0, 2.0]]))[0])


def test_f1_of_a_resample_without_positives_is_undefined():
    statistic = weighted_f1(np.array([True, True]), np.array([True, False]))
    assert np.isnan(statistic(np.array([[0.0, 2.0]]))[0])


# --- undefined labels -------------------------------------------------------------------------------------------------


def test_a_label_without_positives_is_none_and_not_zero():
    p = multilabel(4)
    p.targets[:, 1] = 0
    found = evaluate(p, resamples=20)
    assert found["auc_b"].value is None and found["f1_b"].value is None


def test_means_leave_a_label_without_positives_out():
    p = multilabel(4)
    p.targets[:, 1] = 0
    found = evaluate(p, resamples=20)
    for kind in ("auc", "f1"):
        parts = [found[f"{kind}_{name}"].value for name in "ac"]
        assert found[f"{kind}_macro"].value == pytest.approx(np.mean([v for v in parts if v is not None]), abs=EXACT)


def test_a_class_that_is_absent_from_the_test_set_is_none_and_left_out_of_the_means():
    p = multiclass(5)
    p.targets[p.targets == 2] = 0
    found = evaluate(p, resamples=20)
    guess = p.scores.argmax(axis=1)
    assert found["f1_c"].value is None and found["auc_c"].value is None and found["recall_c"].value is None
    expected = sklearn_metrics.f1_score(p.targets, guess, average="macro", labels=[0, 1])
    assert found["f1_macro"].value == pytest.approx(expected, abs=EXACT)
    assert found["f1_macro"].ci_low is not None


@pytest.mark.parametrize("metric", ["precision", "recall", "f1", "auc"])
def test_no_metric_of_a_class_without_a_test_sample_is_zero(metric):
    p = multiclass(0, classes=4)
    absent = Predictions(p.scores, np.where(p.targets == 3, 0, p.targets), p.groups, p.classes)
    assert (absent.scores.argmax(axis=1) == 3).any()  # it is predicted, so its precision might be taken for 0
    found = evaluate(absent, resamples=100)
    assert found[f"{metric}_d"].value is None and found[f"{metric}_d"].ci_low is None
    values, weighted = numbers_of(absent)
    assert np.isnan(weighted[f"{metric}_d"](np.ones((2, 60)))).all()
    whole = {"precision": "precision_macro", "recall": "balanced_accuracy", "f1": "f1_macro", "auc": "auc_macro"}
    assert values[whole[metric]] == pytest.approx(np.mean([values[f"{metric}_{name}"] for name in "abc"]))


def test_a_class_that_is_there_and_never_predicted_has_precision_zero():
    p = Predictions(np.eye(3)[[0, 0, 0, 1]], np.array([0, 0, 2, 1]), np.arange(4), tuple("abc"))
    assert numbers_of(p)[0]["precision_c"] == 0.0  # as scikit-learn counts it, so that no class is dropped


@pytest.mark.parametrize("metric", ["f1_macro", "precision_macro", "balanced_accuracy", "auc_macro"])
def test_a_resample_without_a_class_is_the_mean_over_the_others(metric):
    p = multiclass(1)
    weights = np.where(p.targets == 2, 0.0, 1.0)[None]
    part = {"f1_macro": "f1", "precision_macro": "precision", "balanced_accuracy": "recall", "auc_macro": "auc"}[metric]
    _, weighted = numbers_of(p)
    expected = np.mean([weighted[f"{part}_{name}"](weights)[0] for name in "ab"])
    assert weighted[metric](weights)[0] == pytest.approx(expected)
    assert evaluate(p, resamples=200)[metric].undefined_share == 0


def test_all_labels_undefined_gives_none_without_an_interval():
    p = multilabel(6)
    p.targets[:] = 0
    found = evaluate(p, resamples=20)
    # How near probabilities are to what happened is defined also where nothing ever does.
    ranked = [m for name, m in found.items() if not name.startswith(("brier", "ece"))]
    assert {(m.value, m.ci_low, m.ci_high) for m in ranked} == {(None, None, None)}
    assert found["brier"].value is not None and found["ece"].value is not None


def test_no_resample_lacks_a_class_and_one_subject_of_it_tells_no_spread():
    p = multilabel(7, n=40)
    p.targets[:, 0] = 0
    p.targets[0, 0] = 1
    found = evaluate(p, resamples=400)
    assert found["auc_a"].undefined_share == 0 and found["auc_a"].value is not None
    assert found["auc_a"].ci_low is None and found["auc_a"].ci_high is None
    assert found["auc_macro"].ci_low is not None
    p.targets[2, 0] = 1  # of another subject
    assert evaluate(p, resamples=400)["auc_a"].ci_low is not None
    p.targets[:, 0] = 0
    assert evaluate(p, resamples=400)["auc_a"].value is None


# --- intervals --------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_intervals():
    p = multiclass(8)
    assert evaluate(p, resamples=50, seed=3) == evaluate(p, resamples=50, seed=3)
    assert evaluate(p, resamples=50, seed=3) != evaluate(p, resamples=50, seed=4)


def test_intervals_enclose_the_point_value():
    for name, metric in evaluate(multiclass(9), resamples=200).items():
        if metric.ci_low is not None and metric.ci_high is not None and metric.value is not None:
            assert metric.ci_low <= metric.value <= metric.ci_high, name


def test_one_subject_gives_values_without_intervals():
    p = multiclass(10)
    found = evaluate(Predictions(p.scores, p.targets, np.zeros_like(p.groups), p.classes))
    assert found["f1_macro"].value is not None and found["f1_macro"].ci_low is None
    assert found["f1_macro"].n_subjects == 1


def test_resampling_subjects_is_wider_than_resampling_their_identical_scans():
    rng = np.random.default_rng(11)
    per, subjects = 6, 40
    correct = np.repeat(rng.random(subjects) < 0.7, per).astype(float)
    statistics = {"accuracy": lambda w: w @ correct / w.sum(axis=1)}
    by_subject = subject_bootstrap(statistics, np.repeat(np.arange(subjects), per), 500)["accuracy"].std()
    by_scan = subject_bootstrap(statistics, np.arange(subjects * per), 500)["accuracy"].std()
    # Six identical scans of a subject count once, so the deviation is sqrt(6) = 2.4 times larger.
    assert 2.0 < by_subject / by_scan < 2.9


def test_the_bootstrap_deviation_is_that_of_a_mean_of_independent_subjects():
    rng = np.random.default_rng(12)
    values = rng.random(200)
    drawn = subject_bootstrap({"mean": lambda w: w @ values / w.sum(axis=1)}, np.arange(200), 2000)["mean"]
    # The deviation of a bootstrap deviation from 2000 draws is 1 / sqrt(2 * 2000) = 1.6%; five of them are allowed.
    assert drawn.std() == pytest.approx(values.std() / np.sqrt(200), rel=0.08)


@pytest.mark.slow
def test_ninety_five_percent_intervals_cover_the_truth_about_as_often():
    hits, rounds = 0, 200
    for seed in range(rounds):
        rng = np.random.default_rng([seed, 13])
        centre = rng.random(60) < 0.6  # 60 subjects with three scans, mostly alike
        actual = np.repeat(centre, 3)
        noisy = np.where(rng.random(180) < 0.2, ~actual, actual)
        correct = noisy.astype(float)
        truth = 0.6 * 0.8 + 0.4 * 0.2
        drawn = subject_bootstrap(
            {"share": lambda w, c=correct: w @ c / w.sum(axis=1)}, np.repeat(np.arange(60), 3), 300, seed
        )["share"]
        low, high = np.quantile(drawn, [0.025, 0.975])
        hits += low <= truth <= high
    # Nominal 95%; percentile intervals of 60 subjects run a little short, and 200 rounds deviate by 1.5 points.
    assert 0.88 <= hits / rounds <= 0.99


# --- thresholds -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**16), n=st.integers(3, 30))
def test_best_thresholds_reach_the_largest_f1(seed, n):
    rng = np.random.default_rng(seed)
    scores, targets = np.round(rng.random((n, 1)), 1), rng.integers(0, 2, (n, 1))
    assume(targets.any())
    chosen = best_thresholds(scores, targets)[0]
    reachable = [sklearn_metrics.f1_score(targets[:, 0], scores[:, 0] >= cut) for cut in np.unique(scores)]
    assert sklearn_metrics.f1_score(targets[:, 0], scores[:, 0] >= chosen) == pytest.approx(max(reachable), abs=EXACT)


def test_a_label_without_validation_positives_keeps_one_half():
    scores, targets = np.array([[0.2, 0.9], [0.8, 0.1]]), np.array([[0, 1], [0, 0]])
    assert best_thresholds(scores, targets).tolist() == [0.5, 0.9]


def test_thresholds_ignore_masked_samples():
    scores, targets = np.array([[0.9], [0.6], [0.1]]), np.array([[0], [1], [0]])
    assert best_thresholds(scores, targets, np.array([[0], [1], [1]], bool)).tolist() == [0.6]
