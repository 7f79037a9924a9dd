"""CLAP, ZS-LP and TaskRes against their losses, whose gradients are taken by autograd and stepped by PyTorch's SGD."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support_sets import of_classes, unit
from torch import Tensor, nn

from medgraft.adapter.support_set import SupportSet
from medgraft.adapters.parts.unit_prototypes import true_class_probability
from medgraft.errors import ConfigError
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")
UNEVEN = [0, 0, 0, 0, 2, 2, 1]


def logits_of(x: Tensor, w: Tensor, scale: float) -> Tensor:
    return scale * torch.stack([torch.stack([row @ v / row.norm() / v.norm() for v in w]) for row in x])


def published(support: SupportSet, steps: int, strength: list[float] | None, adaptive: bool = False) -> Tensor:
    """The loss as the papers write it, in PyTorch's own optimiser and schedule."""
    assert support.text is not None and support.scale is not None
    w = nn.Parameter(support.text.clone())
    optimizer = torch.optim.SGD([w], lr=0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    multiplier, last = list(strength or []), [0.0] * len(w)
    for _ in range(steps):
        loss = F.cross_entropy(logits_of(support.features, w, support.scale), support.targets)
        for k, value in enumerate(multiplier):
            loss = loss + value * (w[k] - support.text[k]).square().sum() / len(w)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        for k in range(len(multiplier)) if adaptive else ():
            distance = float((w[k].detach() - support.text[k]).square().sum())
            multiplier[k], last[k] = multiplier[k] + last[k] * distance, distance
    return w.detach()


def zero_shot_strength(support: SupportSet) -> list[float]:
    assert support.text is not None and support.scale is not None
    probabilities = logits_of(support.features, support.text, support.scale).softmax(dim=1).tolist()
    by_class = []
    for k in range(support.count):
        own = [row[k] for row, t in zip(probabilities, support.targets.tolist(), strict=True) if t == k]
        by_class.append(sum(own) / len(own) if own else math.nan)
    known = [value for value in by_class if not math.isnan(value)]
    return [sum(known) / len(known) if math.isnan(value) else value for value in by_class]


@pytest.mark.parametrize("labels", [UNEVEN, [0, 1, 2], [2], [0, 0, 2]])
@pytest.mark.parametrize(("name", "adaptive"), [("zslp", False), ("clap", False), ("clap", True)])
def test_prototypes_are_trained_as_published(name, adaptive, labels):
    support = of_classes(labels, 3, scale=8.0)
    options = {"steps": 40} | ({"adaptive": adaptive} if name == "clap" else {})
    adapter: Any = build_adapter(name, options)
    adapter.fit_support(support)
    wanted = published(support, 40, zero_shot_strength(support) if name == "clap" else None, adaptive)
    torch.testing.assert_close(adapter.prototypes.detach(), wanted, rtol=1e-9, atol=1e-10)
    x = unit(4, 6, seed=3)
    torch.testing.assert_close(adapter.support_logits(x), logits_of(x, wanted, 8.0))
    assert [tuple(p.shape) for p in adapter.parameters()] == [(3, 6)]


def test_three_hundred_steps_are_the_default_and_stay_finite_at_the_scale_of_clip():
    for name in ("zslp", "clap"):
        adapter: Any = build_adapter(name)
        assert (adapter.config.steps, adapter.config.rate) == (300, 0.1)
        adapter.fit_support(of_classes(UNEVEN, 3, scale=100.0))
        assert torch.isfinite(adapter.prototypes).all()


def test_a_class_without_images_is_held_by_the_mean_of_the_others():
    support = of_classes([0, 0, 2], 3, scale=8.0)
    assert support.text is not None
    got = true_class_probability(support.features, support.one_hot(), support.text, 8.0)
    assert got.tolist() == pytest.approx(zero_shot_strength(support))
    assert float(got[1]) == pytest.approx((float(got[0]) + float(got[2])) / 2)


# --- TaskRes ----------------------------------------------------------------------------------------------------------


def test_a_fresh_residual_is_zero_shot_prediction():
    adapter: Any = build_adapter("taskres")
    support = of_classes(UNEVEN, 3, scale=8.0)
    adapter.fit_support(support)
    assert support.text is not None and not adapter.residual.any()
    torch.testing.assert_close(adapter.support_logits(support.features), 8.0 * support.features @ support.text.T)


@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_residuals_are_added_to_the_prompts_and_alone_are_trained(alpha):
    adapter: Any = build_adapter("taskres", {"alpha": alpha})
    support, x = of_classes(UNEVEN, 3, scale=8.0), unit(4, 6, seed=3)
    adapter.fit_support(support)
    assert support.text is not None
    with torch.no_grad():
        adapter.residual += unit(3, 6, seed=4)
    wanted = logits_of(x, support.text + alpha * unit(3, 6, seed=4), 8.0)
    torch.testing.assert_close(adapter.support_logits(x), wanted)
    F.cross_entropy(adapter.support_logits(support.features), support.targets).backward()
    assert [name for name, p in adapter.named_parameters() if p.grad is not None] == ["residual"]


@pytest.mark.parametrize("name", ["taskres", "clap", "zslp", "lp_text"])
def test_a_task_without_prompts_is_refused(name):
    adapter: Any = build_adapter(name)
    with pytest.raises(ConfigError, match="starts from the prompts of the classes, and the task has none"):
        adapter.fit_support(of_classes(UNEVEN, 3))
