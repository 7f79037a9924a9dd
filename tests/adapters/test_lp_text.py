"""LP++ against its equations in plain loops: starts, step sizes, and the gradient of alpha that is never cleared."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support_sets import of_classes, unit

from medgraft.adapters.lp_text import LpText, lp_text_fit, lp_text_rates, lp_text_start
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")
UNEVEN = [0, 0, 0, 0, 2, 2, 1]


def dot(a, b) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def by_hand(x, labels, t, steps, start):
    """Published training, sample by sample and class by class."""
    N, C, K = len(x), len(x[0]), len(t)
    W, own = [], []
    for k in range(K):
        mine = [x[i] for i in range(N) if labels[i] == k]
        share = 1 / max(len(mine), 1) if start == "means" else 1
        W.append([share * sum(row[c] for row in mine) for c in range(C)])
        own.append(sum(dot(t[k], row) for row in mine) / max(len(mine), 1))
    b, alpha = [0.0] * K, [250 * sum(own) / K] * K
    rate = 4 * N / np.linalg.eigvalsh(np.array(x).T @ np.array(x)).max()
    alpha_rate = N / (4 * max(sum(dot(t[k], row) ** 2 for row in x) for k in range(K)))
    speed_W, speed_b, total = [[0.0] * C for _ in range(K)], [0.0] * K, [0.0] * K
    for step in range(1, steps + 1):
        grad_W, grad_b = [[0.0] * C for _ in range(K)], [0.0] * K
        for i in range(N):
            z = [dot(W[k], x[i]) + b[k] + alpha[k] * dot(t[k], x[i]) for k in range(K)]
            powers = [math.exp(v - max(z)) for v in z]
            for k in range(K):
                d = (powers[k] / sum(powers) - (labels[i] == k)) / N
                grad_b[k] += d
                total[k] += d * dot(t[k], x[i])
                grad_W[k] = [g + d * v for g, v in zip(grad_W[k], x[i], strict=True)]
        for k in range(K):
            speed_b[k] = 0.9 * speed_b[k] + grad_b[k]
            speed_W[k] = [0.9 * v + g for v, g in zip(speed_W[k], grad_W[k], strict=True)]
            b[k] -= rate * speed_b[k]
            W[k] = [w - rate * v for w, v in zip(W[k], speed_W[k], strict=True)]
            if step % 10 == 0:
                alpha[k] -= alpha_rate * total[k]
    return W, b, alpha


@pytest.mark.parametrize("start", ["means", "sums"])
@pytest.mark.parametrize("steps", [9, 10, 35])
@pytest.mark.parametrize("labels", [UNEVEN, [0, 1, 2], [0, 2]])
def test_it_is_trained_as_published(labels, steps, start):
    x, t = unit(len(labels), 6), unit(3, 6, seed=1)
    got = lp_text_fit(x, torch.tensor(labels), t, steps, start)
    wanted = by_hand(x.tolist(), labels, t.tolist(), steps, start)
    for mine, other in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, torch.tensor(other, dtype=torch.float64), rtol=1e-8, atol=1e-9)


def test_a_class_without_images_starts_from_zeros_and_counts_in_the_mean():
    x, t = unit(2, 6), unit(4, 6, seed=1)
    start = lp_text_start(x, torch.tensor([3, 1]), t)
    assert not start.weight[[0, 2]].any() and not start.bias.any()
    wanted = 250 * (dot(x[0].tolist(), t[3].tolist()) + dot(x[1].tolist(), t[1].tolist())) / 4
    assert start.alpha.tolist() == pytest.approx([wanted] * 4)


def test_the_steps_are_as_long_as_the_data_allow():
    x, t = torch.eye(4, dtype=torch.float64)[[0, 0, 0, 1]], torch.eye(4, dtype=torch.float64)[:2]
    assert lp_text_rates(x, t) == pytest.approx((4 * 4 / 3, 4 / (4 * 3)))


def test_the_adapter_blends_the_two_similarities():
    adapter, support, x = build_adapter("lp_text", {"steps": 20}), of_classes(UNEVEN, 3, scale=20.0), unit(4, 6, seed=3)
    assert isinstance(adapter, LpText) and support.text is not None
    adapter.fit_support(support)
    W, b, alpha = by_hand(support.features.tolist(), UNEVEN, support.text.tolist(), 20, "means")
    for row, image in zip(adapter.support_logits(x).tolist(), x.tolist(), strict=True):
        wanted = [dot(W[k], image) + b[k] + alpha[k] * dot(support.text[k].tolist(), image) for k in range(3)]
        assert row == pytest.approx(wanted, rel=1e-9)
    assert sum(p.numel() for p in adapter.parameters()) == 3 * 6 + 3 + 3
