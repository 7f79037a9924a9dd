"""What one run of a tower on a blank sample tells: how its tokens lie, and which parameters its features depend on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import Encoder
from medgraft.features import Features
from medgraft.modality import find_modality


def blank_batch(tower: Encoder) -> Tensor:
    """One prepared sample without content: zeros ``[1, channels, *size]``, or ids ``[1, L]`` that end in padding."""
    return find_modality(tower.spec.modality).blank_batch(tower)


def trace_features(tower: Encoder) -> Features:
    """Features of a blank sample, for their shapes; one run without a graph."""
    with torch.no_grad():
        return tower.encode(blank_batch(tower))


def used_parameters(tower: Encoder) -> set[nn.Parameter]:
    """Parameters, of any shape, that a tower's tokens or pooled embedding depend on; see :func:`used_parts`."""
    return used_parts(tower)[0]


def used_parts(tower: Encoder) -> tuple[set[nn.Parameter], set[nn.Module]]:
    """Parameters of a tower that its tokens or its pooled embedding depend on, and the modules that it calls.

    Parameters may have any shape. Left out are parts that only another call reads, such as the projection into a space
    shared with text, and parts that no call reads, such as the mask token of a pre-training. A module whose weight the
    library gives to a function itself is not called, though its weight is used. Runs the tower once on a blank sample;
    no backward pass, and neither gradients nor ``requires_grad`` are changed.
    """
    frozen = [parameter for parameter in tower.parameters() if not parameter.requires_grad]
    parameters = set(tower.parameters())
    called: set[nn.Module] = set()
    hooks = [module.register_forward_pre_hook(lambda m, args: called.add(m)) for module in tower.modules()]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        with torch.enable_grad():
            features = tower.encode(blank_batch(tower))
    finally:
        for hook in hooks:
            hook.remove()
        for parameter in frozen:
            parameter.requires_grad_(False)
    return parameters & graph_of(features.tokens, features.pooled)[1], called


def graph_of(*outputs: Tensor) -> tuple[set[Any], set[Any]]:
    """Nodes of the graphs of some tensors of any shape, and their leaves: what a backward pass gives a gradient."""
    waiting: list[Any] = [output.grad_fn for output in outputs]
    seen: set[Any] = set()
    leaves: set[Any] = set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.add(leaf)
        waiting += [following for following, _ in node.next_functions]
    return seen, leaves


def leaves(*outputs: Tensor) -> set[Any]:
    """Leaves of the graphs of some tensors of any shape: what a backward pass would give a gradient."""
    return graph_of(*outputs)[1]
