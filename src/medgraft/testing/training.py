"""A loss that reaches everything an adapter may train, and a few steps with it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.encoder import Encoder
from medgraft.errors import IncompatibleError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.losses import label_guided_info_nce
from medgraft.typed.pytorch import back_propagate

CLASSES = 3
LEARNING_RATE = 1e-2


def loss(grafted: Grafted, outputs: Mapping[str, Features]) -> Tensor:
    """A scalar: cross-entropy of the head, the adapter's term, and a contrastive loss where towers share a space."""
    assert grafted.head is not None
    logits = grafted.head(torch.cat([each.pooled for each in outputs.values()], dim=1).to(_kind(grafted)))
    total = F.cross_entropy(logits, torch.arange(len(logits), device=logits.device) % CLASSES)
    if (extra := grafted.extra_loss(outputs)) is not None:
        total = total + extra
    try:
        scale = grafted.logit_scale()
    except IncompatibleError:
        return total
    if len(outputs) != 2:
        return total
    towers = grafted.towers()
    first, second = (_embedding(towers[name], each) for name, each in outputs.items())
    return total + label_guided_info_nce(first, second, scale)


def _kind(grafted: Grafted) -> torch.dtype:
    assert grafted.head is not None
    return next(p.dtype for p in grafted.head.parameters())


def _embedding(tower: Encoder, features: Features) -> Tensor:
    if features.embedding is not None:
        return features.embedding
    return F.normalize(tower.project(features.pooled), dim=-1)


def steps(grafted: Grafted, inputs: Mapping[str, Tensor], n: int = 2) -> dict[str, Tensor]:
    """``n`` steps of AdamW on a batch ``[B, ...]`` for all that is trainable, each followed by ``after_step()``.

    Returns:
        Parameter -> sum of its absolute gradients over the steps, for those that got one; by the names that
        ``grafted.named_parameters()`` gives, the encoder's included.
    """
    grafted.train()
    parameters = grafted.trainable_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE) if parameters else None
    named = list(grafted.named_parameters())
    seen: dict[str, Tensor] = {}
    for _ in range(n):
        grafted.zero_grad()
        back_propagate(loss(grafted, grafted.encode(inputs)))
        for name, parameter in named:
            if parameter.grad is not None:
                seen[name] = seen.get(name, torch.zeros(())) + parameter.grad.abs().sum()
        if optimizer is not None:
            optimizer.step()  # pyright: ignore[reportUnknownMemberType]
        for _, adapter in grafted.named_adapters():
            adapter.after_step()
    return seen
