"""The statistics that published code calls AUC, against scikit-learn on tables written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from medgraft.benchmarks.metrics.published import AucFlattened, AucRescaled
from medgraft.errors import UnknownNameError
from medgraft.metric import Predictions, value_of
from medgraft.metric.judging import values

CLASSES = ("a", "b", "c")


def exclusive(seed: int, n: int = 24) -> Predictions:
    rng = np.random.default_rng(seed)
    return Predictions(rng.dirichlet(np.ones(3), n), np.arange(n) % 3, np.arange(n), CLASSES)


def labels(seed: int, n: int = 24, *, mask: bool = False) -> Predictions:
    rng = np.random.default_rng(seed)
    targets = (rng.random((n, 3)) < 0.4).astype(np.float32)
    targets[:2] = [[0, 1, 0], [1, 0, 1]]
    kept = rng.random((n, 3)) < 0.8 if mask else None
    if kept is not None:
        kept[:2] = True
    return Predictions(rng.random((n, 3)), targets, np.arange(n), CLASSES, kept)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_flattened_auc_is_that_of_all_cells_against_the_one_hot_table(seed):
    p = exclusive(seed)
    statistic = AucFlattened().statistics(p)["auc_flattened"]
    value = value_of(statistic, 24)
    assert value == pytest.approx(roc_auc_score(np.eye(3)[p.targets].ravel(), p.scores.ravel()))
    weights = np.random.default_rng(seed).integers(0, 3, (2, 24)).astype(float)
    for row, got in zip(weights, statistic(weights), strict=True):
        each = np.repeat(row, 3)
        wanted = roc_auc_score(np.eye(3)[p.targets].ravel(), p.scores.ravel(), sample_weight=each)
        assert got == pytest.approx(wanted)


def test_of_two_classes_it_is_not_the_auc_of_the_positive_class():
    p = Predictions(
        np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]), np.array([0, 1, 0, 1]), np.arange(4), ("a", "b")
    )
    assert (
        roc_auc_score(p.targets, p.scores[:, 1])
        == pytest.approx(0.75)
        != values(replace(p, variants=("auc_flattened",)))["auc_flattened"]
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.booleans())
def test_the_rescaled_auc_stretches_each_image_to_0_and_1_first(seed, masked):
    p = labels(seed, mask=masked)
    wanted = []
    for k in range(3):
        keep = np.ones(24, bool) if p.mask is None else p.mask[:, k]
        column = []
        for row in p.scores:
            raised = [np.exp(2 * score - 1) for score in row]
            column.append((raised[k] - min(raised)) / (max(raised) - min(raised)))
        wanted.append(roc_auc_score(p.targets[keep, k], np.array(column)[keep]))
    statistic = AucRescaled().statistics(p)["auc_rescaled"]
    assert value_of(statistic, 24) == pytest.approx(np.mean(wanted))
    assert statistic(np.full((2, 24), 2.0)) == pytest.approx(np.mean(wanted))


def test_a_variant_that_does_not_exist_is_named():
    p = exclusive(0)
    unknown = Predictions(p.scores, p.targets, p.groups, CLASSES, variants=("auc_flat",))
    with pytest.raises(UnknownNameError, match="auc_flat"):
        values(unknown)
