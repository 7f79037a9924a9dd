"""How the numbers of a frozen module are stored: plainly, packed by a quantising library, or away from its device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def stored_parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors, of any shape, that a tensor is stored as; itself for most.

    A weight packed by torchao is a tensor of its full shape and type, and holds codes and scales inside.
    """
    inside: Any = getattr(tensor, "__tensor_flatten__", None)
    if inside is None:
        yield tensor
        return
    for name in inside()[0]:
        yield from stored_parts(getattr(tensor, name))


def as_bytes(tensor: Tensor) -> Tensor:
    """The bytes of a dense tensor ``[...]``, ``uint8 [n]``, on its device."""
    flat = tensor.detach().contiguous().reshape(-1)
    if flat.numel() == 1:  # of which torch keeps whatever stride it had
        flat = flat.new_empty(1).copy_(flat)
    return flat.view(torch.uint8)


def twin(tensor: Tensor) -> Tensor:
    """A copy of a tensor of any shape, bit for bit, with its graph where it has one.

    A packed weight's own ``clone`` may unpack it and pack it anew, which rounds and fails for small ones.
    """
    inside: Any = getattr(tensor, "__tensor_flatten__", None)
    if inside is None:
        return tensor.clone()
    names, context = inside()
    parts = {name: twin(getattr(tensor, name)) for name in names}
    return type(tensor).__tensor_unflatten__(parts, context, tensor.size(), tensor.stride())  # pyright: ignore


def stored_bytes(module: nn.Module) -> int:
    """Memory of a module's parameters and buffers as they are stored, each counted once.

    Example:
        >>> stored_bytes(nn.Linear(4, 2))
        40
    """
    tensors = {id(each): each for each in (*module.parameters(), *module.buffers())}
    parts = [part for each in tensors.values() for part in (*stored_parts(each), *_beside(each))]
    return sum(part.numel() * part.element_size() for part in parts)


def _beside(tensor: Tensor) -> Iterator[Tensor]:
    """Scales that bitsandbytes keeps beside the codes of a weight, and of those scales."""
    state: Any = getattr(tensor, "quant_state", None)
    while state is not None:
        yield from (each for each in (state.absmax, state.code) if isinstance(each, Tensor))
        state = state.state2


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """Shape of what a layer multiplies by, ``(out, in, *kernel)``, also where the weight itself is packed."""
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    return tuple(weight_of(module).shape)


def weight_of(module: nn.Module) -> Tensor:
    """What a layer multiplies by as it is stored; of an ``nn.MultiheadAttention`` the packed projections.

    Returns:
        ``[out, in, ...]``.
    """
    weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
    assert isinstance(weight, Tensor)
    return weight


def weight_dtype(module: nn.Module) -> torch.dtype:
    """Type that a layer computes in; float32 for codes that are whole numbers."""
    weight = weight_of(module)
    return weight.dtype if weight.is_floating_point() else torch.float32


def weight_bits(module: nn.Module) -> int:
    """Bits that each number of a layer's weight is stored in, scales of blocks left out.

    Example:
        >>> weight_bits(nn.Linear(4, 2))
        32
    """
    numbers = 1
    for length in weight_shape(module):
        numbers *= length
    return round(8 * max(part.numel() * part.element_size() for part in stored_parts(weight_of(module))) / numbers)


def is_packed(tensor: Tensor) -> bool:
    """Whether a weight of any shape is stored in fewer bits than arithmetic takes, so that it cannot be written to."""
    return hasattr(tensor, "__tensor_flatten__") or not (tensor.is_floating_point() or tensor.is_complex())


def home_of(module: nn.Module) -> torch.device:
    """Device that a layer computes on, also where its weight lies elsewhere until it is called (accelerate)."""
    hook: Any = getattr(module, "_hf_hook", None)
    hooks = getattr(hook, "hooks", (hook,))
    device = next(
        (each.execution_device for each in hooks if getattr(each, "execution_device", None) is not None), None
    )
    return weight_of(module).device if device is None else torch.device(device)
