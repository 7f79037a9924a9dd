"""What tests of adapters share: a graft with a head, a loss and a few steps."""

from __future__ import annotations

from collections.abc import Mapping

import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import Encoder
from medgraft.errors import IncompatibleError
from medgraft.features import Features
from medgraft.grafting import Grafted, graft
from medgraft.losses import label_guided_info_nce


def grafted_with_head(encoder: Encoder, adapter: str, seed: int = 0) -> Grafted:
    """A graft whose head reads ``pooled`` of every tower."""
    torch.manual_seed(seed)
    trial = graft(encoder, adapter).eval()
    with torch.no_grad():
        width = sum(each.pooled.shape[1] for each in trial.encode(tiny.batch(encoder)).values())
    trial.ungraft()
    torch.manual_seed(seed)
    return graft(encoder, adapter, head=nn.Linear(width, 3))


def loss(grafted: Grafted, outputs: Mapping[str, Features]) -> Tensor:
    """Cross-entropy of the head, the adapter's own term, and the contrastive loss where its scale is trained."""
    assert grafted.head is not None
    logits = grafted.head(torch.cat([each.pooled for each in outputs.values()], dim=1))
    total = F.cross_entropy(logits, torch.arange(len(logits)) % 3)
    if (extra := grafted.extra_loss(outputs)) is not None:
        total = total + extra
    try:
        scale = grafted.logit_scale()
    except IncompatibleError:
        return total
    if isinstance(scale, Tensor) and len(outputs) == 2:
        first, second = (each.embedding for each in outputs.values())
        assert first is not None and second is not None
        total = total + label_guided_info_nce(first, second, scale)
    return total


def train(grafted: Grafted, inputs: Mapping[str, Tensor], steps: int) -> list[set[str]]:
    """AdamW steps; which parameters had a gradient other than zero in each."""
    grafted.train()
    named = {id(p): name for name, p in grafted.named_parameters(remove_duplicate=False)}
    parameters = grafted.trainable_parameters()
    optimizer = torch.optim.AdamW(parameters, lr=1e-2) if parameters else None
    alive = []
    for _ in range(steps):
        value = loss(grafted, grafted.encode(inputs))
        grafted.zero_grad()
        value.backward()
        alive.append({named[id(p)] for p in parameters if p.grad is not None and bool(p.grad.any())})
        if optimizer is not None:
            optimizer.step()
    return alive


@torch.no_grad()
def outputs_of(model: Encoder | Grafted, inputs: Mapping[str, Tensor]) -> dict[str, Features]:
    """Features of every tower in evaluation mode."""
    model.eval()
    if isinstance(model, Grafted):  # one call, since an adapter may read one tower in another
        return model.encode(inputs)
    return {name: tower(inputs[name]) for name, tower in model.towers().items() if name in inputs}


def tensors(outputs: Mapping[str, Features]) -> dict[str, Tensor]:
    """Tokens, pooled and embedding by tower."""
    return {
        f"{name}.{part}": value
        for name, features in outputs.items()
        for part in ("tokens", "pooled", "embedding")
        if (value := getattr(features, part)) is not None
    }
