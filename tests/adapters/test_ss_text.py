"""SS-Text against its equation in plain loops, and the edges of the authors' code."""

from __future__ import annotations

import math

import pytest
import torch
from support_sets import of_classes, unit
from torch import Tensor

from medgraft.adapters.ss_text import SsText, ss_text_prototypes
from medgraft.errors import ConfigError
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")
UNEVEN = [0, 0, 0, 0, 2, 2, 1]


def zero_shot(x: list[float], text: list[list[float]], scale: float) -> list[float]:
    """Softmax of ``scale`` times the cosine, number by number."""
    cosines = []
    for t in text:
        lengths = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in t))
        cosines.append(sum(a * b for a, b in zip(x, t, strict=True)) / lengths)
    powers = [math.exp(scale * (c - max(cosines))) for c in cosines]
    return [p / sum(powers) for p in powers]


def by_hand(
    features: Tensor, labels: list[int], text: Tensor, scale: float, weighting, repel=False
) -> list[list[float]]:
    x, t = features.tolist(), text.tolist()
    K, C, N = len(t), len(t[0]), len(x)
    strengths: list[float | None] = []
    for k in range(K):
        mine = [i for i in range(N) if labels[i] == k]
        if weighting == "shots":
            strengths.append(1 / len(mine) if mine else math.inf)
        elif weighting == "performance":
            strengths.append(sum(zero_shot(x[i], t, scale)[k] for i in mine) / len(mine) if mine else None)
        else:
            strengths.append(weighting)
    known = [s for s in strengths if s is not None]
    w = []
    for k in range(K):
        given = strengths[k]
        strength = max(sum(known) / len(known) if given is None else given, 1e-3)
        sums = [sum(x[i][c] for i in range(N) if labels[i] == k) for c in range(C)]
        w.append([t[k][c] + (1 / N) * (1 / strength) * sums[c] * scale for c in range(C)])
    if repel:
        centre = [sum(row[c] for row in w) / K for c in range(C)]
        pushed = []
        for row in w:
            delta = [2 * row[c] - centre[c] for c in range(C)]
            length = math.sqrt(sum(d * d for d in delta))
            pushed.append([row[c] - delta[c] / length for c in range(C)])
        w = pushed
    return [[v / math.sqrt(sum(u * u for u in row)) for v in row] for row in w]


@pytest.mark.parametrize("repel", [False, True])
@pytest.mark.parametrize("weighting", ["shots", "performance", 0.1, 1e-5, 3.0])
@pytest.mark.parametrize("labels", [UNEVEN, [0, 1, 2], [1], [0, 0, 2, 2]])
def test_it_is_the_published_closed_form(labels, weighting, repel):
    features, text, scale = unit(len(labels), 6), unit(3, 6, seed=1), 17.0
    got = ss_text_prototypes(features, torch.tensor(labels), text, scale, weighting, repel)
    wanted = torch.tensor(by_hand(features, labels, text, scale, weighting, repel), dtype=torch.float64)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("weighting", ["shots", "performance", 0.1])
def test_a_class_without_images_keeps_its_text(weighting):
    text = unit(3, 6, seed=1)
    got = ss_text_prototypes(unit(2, 6), torch.tensor([0, 2]), text, 100.0, weighting)
    torch.testing.assert_close(got[1], text[1])
    assert torch.isfinite(got).all()


def test_over_a_thousand_images_count_as_a_thousand():
    x, text = unit(1, 6), unit(2, 6, seed=1)
    labels = torch.tensor([0] * 1500 + [1])
    got = ss_text_prototypes(torch.cat([x.expand(1500, -1), unit(1, 6, seed=2)]), labels, text, 10.0)
    wanted = text[0] + x[0] * 1500 * 10 / (1501 * 1e-3)
    torch.testing.assert_close(got[0], wanted / wanted.norm())


def test_no_image_and_an_unknown_weighting_are_refused():
    with pytest.raises(ConfigError, match="0 training images"):
        ss_text_prototypes(torch.zeros(0, 6), torch.zeros(0), unit(2, 6), 1.0)
    with pytest.raises(ConfigError, match="'perf' of SS-Text is unknown; choose 'shots', 'performance' or a number"):
        ss_text_prototypes(unit(1, 6), torch.tensor([0]), unit(2, 6), 1.0, "perf")


@pytest.mark.parametrize(
    ("options", "weighting"),
    [({}, "shots"), ({"weighting": "performance"}, "performance"), ({"weighting": "fixed", "text_weight": 0.3}, 0.3)],
)
def test_the_adapter_predicts_by_the_scaled_cosine(options, weighting):
    adapter = build_adapter("ss_text", options)
    assert isinstance(adapter, SsText)
    support = of_classes(UNEVEN, 3, scale=20.0)
    adapter.fit_support(support)
    assert support.text is not None
    w = by_hand(support.features, UNEVEN, support.text, 20.0, weighting)
    x = unit(4, 6, seed=3)
    torch.testing.assert_close(adapter.support_logits(x), 20.0 * x @ torch.tensor(w, dtype=torch.float64).T)


def test_without_prompts_or_before_it_saw_images_it_says_so():
    adapter = SsText()
    with pytest.raises(ConfigError, match="SsText has seen no training features"):
        adapter.support_logits(unit(1, 6))
    with pytest.raises(ConfigError, match="starts from the prompts of the classes, and the task has none"):
        adapter.fit_support(of_classes(UNEVEN, 3))
