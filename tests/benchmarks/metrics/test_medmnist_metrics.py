"""AUC and ACC of MedMNIST are those of its package, to the last digits, and undefined where it has none."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, roc_auc_score

from medgraft.benchmarks.metrics.bootstrap import estimates
from medgraft.benchmarks.metrics.medmnist import MedMnistAcc, MedMnistAuc
from medgraft.metric import Predictions, value_of
from medgraft.metric.judging import judged, values

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    evaluator = pytest.importorskip("medmnist.evaluator")

TASKS = {"multi-class": 5, "ordinal-regression": 3, "binary-class": 2, "multi-label, binary-class": 4}
VARIANTS = ("medmnist_auc", "medmnist_acc")


def predictions(task: str, seed: int, n: int = 40) -> Predictions:
    """Scores with ties, and some at 0.5 itself."""
    random, K = np.random.default_rng(seed), TASKS[task]
    names = tuple("abcde"[:K])
    if "multi-label" in task:
        targets = (random.random((n, K)) < 0.4).astype(np.float32)
        targets[:2] = [[0] * K, [1] * K]
        scores = random.integers(0, 9, (n, K)) / 8
        chosen = np.full(K, 0.2)  # of validation, which the Evaluator does not know
        return Predictions(scores, targets, np.arange(n), names, thresholds=chosen, variants=VARIANTS)
    targets = np.r_[np.arange(K), random.integers(0, K, n - K)]
    scores = random.integers(1, 5, (n, K)).astype(float)
    if K == 2:
        scores[3] = 1.0  # one half each
    return Predictions(scores / scores.sum(1, keepdims=True), targets, np.arange(n), names, variants=VARIANTS)


def ours(p: Predictions) -> tuple[float, float]:
    found = values(p)
    return found["medmnist_auc"], found["medmnist_acc"]


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_they_are_those_of_the_package(task, seed):
    p = predictions(task, seed)
    labels = p.targets if p.targets.ndim == 2 else p.targets[:, None]
    for scores in (p.scores, p.scores[:, -1]) if task == "binary-class" else (p.scores,):
        wanted = evaluator.getAUC(labels, scores, task), evaluator.getACC(labels, scores, task)
        assert ours(p) == pytest.approx(wanted, abs=1e-12)


def test_a_score_of_one_half_is_no():
    scores = np.array([[0.5, 0.5], [0.4, 0.6], [0.5, 0.5]])
    p = Predictions(scores, np.array([0, 1, 1]), np.arange(3), ("no", "yes"), variants=VARIANTS)
    assert ours(p) == (roc_auc_score(p.targets, scores[:, 1]), pytest.approx(2 / 3))
    labels = Predictions(scores, np.array([[0, 0], [1, 1], [0, 1]], float), np.arange(3), ("a", "b"), variants=VARIANTS)
    wanted = np.mean([accuracy_score(labels.targets[:, k], scores[:, k] > 0.5) for k in range(2)])
    assert ours(labels)[1] == pytest.approx(wanted, abs=1e-12)


def test_a_class_without_a_sample_leaves_the_mean_undefined():
    p = predictions("multi-class", 0)
    few = Predictions(p.scores, p.targets % 4, p.groups, p.classes, variants=VARIANTS)
    auc, acc = ours(few)
    assert np.isnan(auc) and 0 <= acc <= 1 and np.isfinite(values(few)["auc_macro"])


def test_labels_that_do_not_count_are_left_out():
    p = predictions("multi-label, binary-class", 1)
    mask = np.random.default_rng(2).random(p.targets.shape) < 0.7
    mask[:2] = True
    counted = Predictions(p.scores, p.targets, p.groups, p.classes, mask)
    areas, shares = [], []
    for k, m in enumerate(mask.T):
        areas.append(roc_auc_score(p.targets[m, k], p.scores[m, k]))
        shares.append(accuracy_score(p.targets[m, k], p.scores[m, k] > 0.5))
    for metric, name, wanted in ((MedMnistAuc(), "medmnist_auc", areas), (MedMnistAcc(), "medmnist_acc", shares)):
        assert value_of(metric.statistics(counted)[name], len(mask)) == pytest.approx(np.mean(wanted), abs=1e-12)


@pytest.mark.parametrize("task", TASKS)
def test_weights_count_samples_as_often(task):
    """Whole weights are copies of the samples, so that an interval is one of the same number."""
    p, random = predictions(task, 3), np.random.default_rng(0)
    times = random.integers(1, 4, len(p.targets))
    again = np.repeat(np.arange(len(times)), times)
    copies = Predictions(p.scores[again], p.targets[again], p.groups[again], p.classes, variants=VARIANTS)
    for name in VARIANTS:
        statistic = judged(p).statistics[name]
        assert statistic(np.stack([times, times]).astype(float))[0] == pytest.approx(values(copies)[name], abs=1e-12)
    found = estimates({name: judged(p).statistics[name] for name in VARIANTS}, p, 200, 0)
    assert all(each.ci_low <= each.value <= each.ci_high for each in found.values())
