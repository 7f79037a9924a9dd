"""Contrast of views and of the windows of a subject, against plain loops in double precision."""

from __future__ import annotations

import math

import pytest
import torch

from medgraft.errors import ConfigError
from medgraft.losses import local_contrast, nt_xent

EXACT = {"rel": 1e-9, "abs": 1e-9}


def views(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def by_hand(first, second, temperature):
    rows = [*first.tolist(), *second.tolist()]
    half, total = len(rows) // 2, 0.0
    for i, anchor in enumerate(rows):
        partner = math.exp(cosine(anchor, rows[(i + half) % len(rows)]) / temperature)
        every = sum(math.exp(cosine(anchor, row) / temperature) for j, row in enumerate(rows) if j != i)
        total -= math.log(partner / every)
    return total / len(rows)


@pytest.mark.parametrize(("count", "width"), [(1, 4), (2, 3), (5, 8)])
@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_the_formula(count, width, temperature):
    first, second = views(count, width), views(count, width, seed=1)
    expected = by_hand(first, second, temperature)
    assert nt_xent(first, second, temperature).item() == pytest.approx(expected, **EXACT)
    assert nt_xent(second, first, temperature).item() == pytest.approx(expected, **EXACT)
    assert nt_xent(3.7 * first, second, temperature).item() == pytest.approx(expected, **EXACT)


@pytest.mark.parametrize(("subjects", "windows"), [(1, 2), (4, 2), (3, 3)])
def test_local_contrast_is_summed_over_subjects(subjects, windows):
    first, second = views(subjects, windows, 6), views(subjects, windows, 6, seed=1)
    expected = sum(by_hand(a, b, 0.1) for a, b in zip(first, second, strict=True))
    assert local_contrast(first, second).item() == pytest.approx(expected, **EXACT)


def test_other_subjects_are_no_negatives_of_local_contrast():
    first, second = views(2, 2, 5), views(2, 2, 5, seed=1)
    alone = local_contrast(first[:1], second[:1])
    second[1] = first[0]  # a subject whose windows are those of the other
    both = local_contrast(first, second) - local_contrast(first[1:], second[1:])
    assert both.item() == pytest.approx(alone.item(), **EXACT)


def test_alike_views_of_different_things_are_best():
    apart = torch.eye(4, dtype=torch.float64)
    assert nt_xent(apart, apart) < nt_xent(apart, apart.roll(1, dims=0))
    assert nt_xent(apart[:1], apart[1:2]).item() == 0  # one pair alone has no negatives


def test_gradients_are_those_of_the_formula():
    first = views(3, 4).requires_grad_(True)
    second = views(3, 4, seed=1).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, 0.5), (first, second))


def test_views_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="of one shape"):
        nt_xent(views(3, 4), views(2, 4))
    with pytest.raises(ConfigError, match="temperature"):
        nt_xent(views(3, 4), views(3, 4), 0.0)
