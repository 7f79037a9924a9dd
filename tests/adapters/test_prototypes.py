"""Prototypes against class means in plain loops, and classes or labels that nobody has."""

from __future__ import annotations

import math

import pytest
import torch
from support_sets import of_classes, of_labels, unit

from medgraft.adapters.prototypes import Prototypes
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")
TARGETS = [0, 2, 2, 0, 0, 2, 2]


def fitted(support, **options) -> Prototypes:
    adapter = build_adapter("prototypes", options)
    assert isinstance(adapter, Prototypes)
    adapter.fit_support(support)
    return adapter


def of_unit_length(row: list[float]) -> list[float]:
    length = math.sqrt(sum(v * v for v in row))
    return [v / length for v in row]


def cosine_with_mean(x: list[float], members: list[list[float]]) -> float:
    if not members:
        return -1.0
    mean = [sum(column) / len(members) for column in zip(*members, strict=True)]
    return sum(a * b for a, b in zip(x, of_unit_length(mean), strict=True))


@pytest.mark.parametrize("centre", [False, True])
@pytest.mark.parametrize("scale", [None, 5.0])
def test_a_class_is_the_mean_of_its_unit_features(centre, scale):
    support, images = of_classes(TARGETS, 3, scale=30.0), unit(4, 6, seed=9)
    rows, mean = support.features.tolist(), [0.0] * 6
    if centre:
        mean = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    moved = [of_unit_length([v - m for v, m in zip(row, mean, strict=True)]) for row in rows]
    got = fitted(support, centre=centre, scale=scale).support_logits(images)
    for row, image in zip(got, images.tolist(), strict=True):
        x = of_unit_length([v - m for v, m in zip(image, mean, strict=True)])
        for k in range(3):
            wanted = (scale or 30.0) * cosine_with_mean(x, [moved[i] for i, t in enumerate(TARGETS) if t == k])
            assert float(row[k]) == pytest.approx(wanted, rel=1e-9, abs=1e-11)


def test_one_shot_is_the_image_itself_and_a_class_without_images_is_never_chosen():
    support = of_classes([2, 0], 3)
    logits = fitted(support).support_logits(support.features)
    assert logits.argmax(dim=1).tolist() == [2, 0]
    assert torch.allclose(logits[:, 1], torch.full((2,), -1 / 0.07, dtype=torch.float64))


def test_a_label_is_the_difference_of_having_it_and_not_where_it_counts():
    labels = [[1, 1], [0, 1], [1, 1], [0, 0], [1, 1]]
    mask = [[1, 1], [1, 1], [0, 1], [1, 0], [1, 1]]
    support, images = of_labels(labels, mask), unit(4, 6, seed=9)
    rows = support.features.tolist()
    got = fitted(support, scale=2.0).support_logits(images)
    for row, image in zip(got, images.tolist(), strict=True):
        for c in range(2):
            sides = [[rows[i] for i in range(5) if mask[i][c] and labels[i][c] == side] for side in (1, 0)]
            wanted = 2 * (cosine_with_mean(image, sides[0]) - cosine_with_mean(image, sides[1]))
            assert float(row[c]) == pytest.approx(wanted, rel=1e-9, abs=1e-11)
