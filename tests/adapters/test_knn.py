"""k nearest neighbours against DINO's weighted vote in plain loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support_sets import of_classes, of_labels, unit

from medgraft.adapters.knn import Knn
from medgraft.checkpoints.opening import load_graft
from medgraft.grafting import graft
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")
TARGETS = [0, 2, 2, 0, 3, 0, 2]


def fitted(support, **options) -> Knn:
    adapter = build_adapter("knn", options)
    assert isinstance(adapter, Knn)
    adapter.fit_support(support)
    return adapter


def share_of_votes(x, keys, votes, k, temperature) -> float:
    """What the ``k`` nearest of some training samples vote for, each 0 or 1."""
    cosines = [float(x @ key) for key in keys]
    nearest = sorted(range(len(keys)), key=lambda i: -cosines[i])[:k]
    weights = {i: math.exp(cosines[i] / temperature) for i in nearest}
    return sum(weights[i] * votes[i] for i in nearest) / sum(weights.values())


@pytest.mark.parametrize("k", [1, 3, 20])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_a_class_has_its_share_of_the_weighted_votes(k, temperature):
    support = of_classes(TARGETS, 4)
    adapter, images = fitted(support, k=k, temperature=temperature), unit(5, 6, seed=9)
    got = torch.softmax(adapter.support_logits(3 * images), dim=1)  # of any length
    for row, image in zip(got, images, strict=True):
        for c in range(4):
            wanted = share_of_votes(image, support.features, [t == c for t in TARGETS], k, temperature)
            assert float(row[c]) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert not got[:, 1].any(), "nobody votes for a class without a sample"


def test_a_tiny_temperature_is_the_nearest_sample():
    support = of_classes(TARGETS, 4)
    got = torch.softmax(fitted(support, temperature=1e-6).support_logits(support.features.float()), dim=1)
    assert got.argmax(dim=1).tolist() == TARGETS and torch.isfinite(got).all()


def test_each_label_is_put_to_the_vote_where_it_counts():
    labels = [[1, 0, 1], [0, 0, 1], [1, 1, 1], [0, 1, 0], [1, 0, 0]]
    mask = [[1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [1, 1, 0]]
    support, images = of_labels(labels, mask), unit(4, 6, seed=9)
    got = torch.sigmoid(fitted(support, k=3).support_logits(images))
    for row, image in zip(got, images, strict=True):
        for c in range(2):
            rows = [i for i in range(5) if mask[i][c]]
            votes = [labels[i][c] for i in rows]
            wanted = share_of_votes(image, support.features[rows], votes, 3, 0.07)
            assert float(row[c]) == pytest.approx(wanted, rel=1e-9, abs=1e-12)
    assert (got[:, 2] == 0.5).all(), "of a label that counts nowhere nothing is known"


@pytest.mark.parametrize("support", [of_classes(TARGETS, 4), of_labels([[1, 0], [0, 1], [1, 1]])])
@pytest.mark.parametrize("name", ["knn", "prototypes"])
def test_what_was_fitted_is_saved_and_a_fresh_graft_makes_room_for_it(name, support, tmp_path):
    grafted = graft("embedded:chest@random", name)
    adapter: Any = grafted.adapters[name]
    adapter.fit_support(support)
    grafted.save(tmp_path)
    again: Any = load_graft(tmp_path, "embedded:chest@random").adapters[name]
    images = unit(3, 6, seed=9).float()
    before, after = (each.support_logits(images).double() for each in (adapter, again))
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-4)
