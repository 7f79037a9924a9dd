"""Rows of generated texts are compared although their longest texts differ in length."""

from __future__ import annotations

import numpy as np

from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, as_column
from medgraft.benchmarks.statistics.permutation import permutation_p
from medgraft.metric import Predictions


def predictions(texts: list[str]) -> Predictions:
    n = len(texts)
    columns = {GENERATED: as_column(texts), REFERENCE: as_column(["left effusion"] * n)}
    arrays = np.zeros((n, 1)), np.zeros(n, np.int64), np.arange(n)
    return Predictions(*arrays, (), objective="generation", columns=columns)


def test_texts_of_other_lengths_are_exchanged():
    right, wrong = predictions(["left effusion"] * 10), predictions(["right pneumothorax and a nodule"] * 10)
    p = permutation_p([right], [wrong], "exact_match")
    assert p is not None and p < 0.01
    assert permutation_p([right], [right], "exact_match") == 1
