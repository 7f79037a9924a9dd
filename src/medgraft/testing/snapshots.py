"""What an encoder is at one moment, to be compared with what it is later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import Encoder
from medgraft.encoder.stored import stored_parts
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.typed.pytorch import named_modules, own_buffers, own_modules, own_parameters
from medgraft.typed.values import is_a

Tree = dict[str, dict[str, Any]]


def tree_of(encoder: nn.Module) -> Tree:
    """By module path: identity, class, children, hooks, instance attributes, mode and which parameters are frozen."""
    return {
        name: {
            "module": id(module),
            "class": type(module).__qualname__,
            "attributes": sorted(module.__dict__),
            "children": list(own_modules(module)),
            "hooks": {k: len(v) for k, v in module.__dict__.items() if k.endswith("_hooks") and is_a(v, dict)},
            "training": module.training,
            "parameters": [(k, id(p), p.requires_grad) for k, p in own_parameters(module).items() if p is not None],
            "buffers": [(k, id(b)) for k, b in own_buffers(module).items() if b is not None],
        }
        for name, module in named_modules(encoder)
    }


def tree_difference(before: Tree, after: Tree) -> str:
    """The first things that differ, in words; empty if nothing does."""
    differences = [f"module {name!r} is gone" for name in before.keys() - after.keys()]
    differences += [f"module {name!r} is new" for name in after.keys() - before.keys()]
    for name in before.keys() & after.keys():
        changed = [fact for fact in before[name] if before[name][fact] != after[name][fact]]
        if changed:
            differences.append(f"{name or 'the encoder itself'} has other {', '.join(changed)}")
    return "; ".join(sorted(differences)[:4])


def weights_of(encoder: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers ``[...]`` by name, the live tensors; of a packed one, what it is stored as."""
    named = [*encoder.named_parameters(), *encoder.named_buffers()]
    parts = {name: list(stored_parts(tensor)) for name, tensor in named}
    return {
        name if len(stored) == 1 else f"{name}/{place}": part
        for name, stored in parts.items()
        for place, part in enumerate(stored)
    }


def copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Detached copies of tensors of any shape."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def tensors_of(outputs: Mapping[str, Features]) -> dict[str, Tensor]:
    """Tokens ``[B, N, C]``, pooled and embedding ``[B, C]`` of each tower, as ``tower.part``."""
    return {
        f"{name}.{part}": value.detach()
        for name, features in outputs.items()
        for part in ("tokens", "pooled", "embedding")
        if (value := getattr(features, part)) is not None
    }


@torch.no_grad()
def outputs_of(model: Encoder | Grafted, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What each tower gives in evaluation mode, ``[B, ...]`` as ``tower.part``."""
    model.eval()
    if isinstance(model, Grafted):  # one call, since an adapter may read one tower in another
        return tensors_of(model.encode(inputs))
    return tensors_of({name: tower(inputs[name]) for name, tower in model.towers().items() if name in inputs})


def difference(expected: Mapping[str, Tensor], got: Mapping[str, Tensor], atol: float = 0.0, rtol: float = 0.0) -> str:
    """The first pair of tensors that differs in shape, or by more than the tolerances, in words; empty if none does.

    Tensors may have any shape. Tolerances are relative to the largest value of the wanted tensor, so that a value near
    zero is not held to its own size. Two values that are not finite count as equal if they are the same.
    """
    if expected.keys() != got.keys():
        return f"it gives {sorted(got)}, before {sorted(expected)}"
    for name, value in expected.items():
        other = got[name]
        if other.shape != value.shape:
            return f"{name} has shape {list(other.shape)}, before {list(value.shape)}"
        if torch.equal(other, value) or value.numel() == 0:
            continue
        gap = (other.to(torch.float64) - value.to(torch.float64)).abs().nan_to_num(torch.inf).max().item()
        allowed = atol + rtol * value.to(torch.float64).abs().max().item()
        if not gap <= allowed:
            return f"{name} differs by up to {gap:.3g} where {allowed:.3g} is allowed"
    return ""
