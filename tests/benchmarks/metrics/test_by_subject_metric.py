"""Metrics of subjects: scikit-learn's numbers on averaged probabilities, for all weights that a bootstrap has."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score

from medgraft.benchmarks.metrics.by_subject import BySubject
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.metric import Predictions, value_of


@pytest.fixture(scope="module")
def predictions() -> Predictions:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), rng.integers(1, 6, 20))
    targets = (np.arange(20) % 3)[groups]
    scores = rng.dirichlet(np.ones(3), len(groups)) + 0.4 * np.eye(3)[targets]
    return Predictions(scores / scores.sum(axis=1, keepdims=True), targets, groups, ("a", "b", "c"))


def by_hand(p: Predictions, subjects) -> dict[str, float]:
    scores = np.stack([p.scores[p.groups == s].mean(axis=0) for s in subjects])
    targets = np.array([p.targets[p.groups == s][0] for s in subjects])
    return {
        "subject_f1_macro": float(f1_score(targets, scores.argmax(axis=1), average="macro")),
        "subject_auc_macro": float(np.mean([roc_auc_score(targets == k, scores[:, k]) for k in range(3)])),
        "subject_balanced_accuracy": float(balanced_accuracy_score(targets, scores.argmax(axis=1))),
    }


def test_the_values_are_those_of_averaged_probabilities(predictions):
    found = BySubject().statistics(predictions)
    assert {name: value_of(each, len(predictions.targets)) for name, each in found.items()} == pytest.approx(
        by_hand(predictions, range(20)), abs=1e-12
    )
    assert tuple(found) == BySubject.numbers


def test_a_resample_of_subjects_is_the_metric_of_those_subjects(predictions):
    drawn = np.random.default_rng(1).integers(0, 20, 20)
    weights = np.bincount(drawn, minlength=20)[predictions.groups][None].astype(float)
    expected = by_hand(predictions, drawn)
    for name, statistic in BySubject().statistics(predictions).items():
        assert statistic(weights)[0] == pytest.approx(expected[name], abs=1e-12)


def test_one_sample_for_each_subject_is_the_plain_metric(predictions):
    alone = predictions.of(np.unique(predictions.groups, return_index=True)[1])
    plain = evaluate(alone, resamples=0)
    for name, statistic in BySubject().statistics(alone).items():
        assert value_of(statistic, 20) == pytest.approx(plain[name.removeprefix("subject_")].value, abs=1e-12)


def test_a_subject_of_two_labels_counts_for_each():
    p = Predictions(
        np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), np.array([0, 0, 1]), np.zeros(3, int), ("normal", "abnormal")
    )
    found = BySubject().statistics(p)
    assert value_of(found["subject_balanced_accuracy"], 3) == 1.0
    labels = Predictions(p.scores, np.eye(2)[p.targets], p.groups, p.classes)
    assert BySubject().statistics(labels) == {}
