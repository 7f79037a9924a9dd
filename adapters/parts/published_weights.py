"""Finding one module's weights in a published checkpoint, under whatever prefix they were saved with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from medgraft.errors import CheckpointError


def part_of(state: Mapping[str, Any], anchor: str, prefix: str | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """The keys of one module in the checkpoint of a larger model, whatever is written before them.

    Args:
        state: Name -> tensor of any shape; a ``model_state_dict``, ``state_dict`` or ``model`` wrapper is opened.
        anchor: A key that the module has exactly once, such as ``"latents"``.
        prefix: Which of several modules to take, by the end of what precedes the anchor
            (``"gated_cross_attn_layers.3"``); ``None`` where there is one.

    Returns:
        The module's tensors without the prefix, and the keys that belong to other modules.

    Raises:
        CheckpointError: No key, or more than one, ends in the anchor; or the table holds more than tensors.
    """
    for wrapper in ("model_state_dict", "state_dict", "model"):
        if isinstance(state.get(wrapper), Mapping):
            state = state[wrapper]
    if strange := [key for key, value in state.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"the state dict holds more than tensors, for example {strange[0]!r}")
    prefixes = [key.removesuffix(anchor) for key in state if key == anchor or key.endswith(f".{anchor}")]
    if prefix is not None:
        path = prefix.rstrip(".")
        prefixes = [each for each in prefixes if each.rstrip(".") == path or (path and each.endswith(f".{path}."))]
    where = "" if prefix is None else f" under {prefix!r}"
    if not prefixes:
        sample = ", ".join(list(state)[:4]) or "nothing"
        raise CheckpointError(f"the state dict has no key that ends in {anchor!r}{where}; it holds {sample}")
    if len(prefixes) > 1:
        raise CheckpointError(
            f"the state dict has {len(prefixes)} modules with {anchor!r}{where}: {', '.join(map(repr, prefixes[:6]))}; "
            "choose one with prefix="
        )
    inner = {key.removeprefix(prefixes[0]): value for key, value in state.items() if key.startswith(prefixes[0])}
    return inner, [key for key in state if not key.startswith(prefixes[0])]


def join_key_value(state: Mapping[str, Tensor], k: str, v: str, joined: str) -> dict[str, Tensor]:
    """Packs separate key and value weights into the rows ``[k | v]`` of one weight.

    Args:
        state: Weights ``[rows, C]``, whose keys end in ``k`` and ``v``, and others of any shape.
        k: End of a key weight's name.
        v: End of a value weight's name.
        joined: What replaces it.
    """
    packed = dict(state)
    for key in state:
        partner = key.removesuffix(k) + v
        if key.endswith(k) and partner in state:
            packed[key.removesuffix(k) + joined] = torch.cat([packed.pop(key), packed.pop(partner)])
    return packed
