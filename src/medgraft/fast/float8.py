"""Frozen linear maps in eight bits, for GPUs whose tensor cores multiply them.

torchao quantises the weights once, one scale a row, and the activations of each product as it comes (format e4m3:
arXiv:2209.05433). Its product has no gradient, so the gradient of the activations is taken in bf16, from the weight as
it was rounded; that of a frozen weight is not needed.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import Encoder
from medgraft.encoder.stored import is_packed
from medgraft.errors import ConfigError

EVEN = 16
"""Rows and columns of a weight must be multiples of it, which the product asks for."""

OLDEST = (8, 9)
"""Compute capability from which a GPU multiplies in eight bits (Ada, Hopper)."""

REMEDY = "use --precision bf16_frozen"


def float8_obstacle(device: str) -> str | None:
    """Why nothing is multiplied in eight bits on a device, with a remedy, or ``None``.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1`` and so on.
    """
    if find_spec("torchao") is None:
        return f"fp8 needs torchao, which is not installed; pip install 'medgraft[quantised]', or {REMEDY}"
    if not device.startswith("cuda") or not torch.cuda.is_available():
        return f"fp8 needs a GPU of compute capability 8.9 or newer, and this is {device}; {REMEDY}"
    if torch.version.hip is not None:
        return f"fp8 was written for NVIDIA's GPUs, and this is one of AMD's; {REMEDY}"
    if (capability := torch.cuda.get_device_capability(device)) < OLDEST:
        told = f"{capability[0]}.{capability[1]}"
        return f"fp8 needs a GPU of compute capability 8.9 or newer, and this one has {told}; {REMEDY}"
    return None


def check_float8(device: str) -> None:
    """Raises :class:`ConfigError` where nothing is multiplied in eight bits on a device, such as ``cuda``."""
    if (obstacle := float8_obstacle(device)) is not None:
        raise ConfigError(obstacle)


class Float8Linear(nn.Linear):
    """A frozen linear map, ``[..., C] -> [..., D]``, whose weight torchao holds in eight bits."""

    def forward(self, input: Tensor) -> Tensor:
        """As ``nn.Linear``, ``[..., C] -> [..., D]``, in bf16 outside and eight bits inside."""
        result: Any = _Product.apply(input, self.weight, self.bias)
        return result


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # pyright: ignore
        ctx.weight, ctx.dtype = weight, x.dtype
        return F.linear(x.to(weight.dtype), weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore
        weight = ctx.weight.dequantize()
        return (grad.to(weight.dtype) @ weight).to(ctx.dtype), None, None


def takes_float8(module: nn.Module) -> bool:
    """Whether a module is a plain, frozen linear map of a size that the product takes."""
    if type(module) is not nn.Linear or "forward" in vars(module):
        return False
    weight = module.weight
    return not weight.requires_grad and not is_packed(weight) and all(length % EVEN == 0 for length in weight.shape)


def hold_in_float8(encoder: Encoder, config: Any = None) -> int:
    """Keeps the frozen linear maps of an encoder in eight bits and the rest of it in bf16; adapters stay as they are.

    Args:
        encoder: On its device.
        config: Of ``torchao.quantization``; by default weights and activations in eight bits, one scale a row.

    Returns:
        How many linear maps.

    Raises:
        ConfigError: It has none of a fitting size.
    """
    from torchao.quantization import Float8DynamicActivationFloat8WeightConfig, PerRow, quantize_  # pyright: ignore

    encoder.hold_in_bf16()
    trained = {id(part) for each in encoder.carried() if each.adapter is not None for part in each.adapter.modules()}
    chosen = [module for module in encoder.modules() if takes_float8(module) and id(module) not in trained]
    if not chosen:
        raise ConfigError(
            f"encoder {encoder.spec.name} has no linear map whose sides are multiples of {EVEN}; {REMEDY}"
        )
    if config is None:
        config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    for module in chosen:
        quantize_(module, config)
        module.__class__ = Float8Linear
    return len(chosen)


def hold_frozen(encoder: Encoder, precision: str, device: str) -> None:
    """Keeps an encoder's weights as a precision of ``medgraft run`` says.

    Args:
        encoder: On its device; with its adapters, which stay as they are.
        precision: ``bf16_frozen`` or ``fp8``; any other leaves it as it is.
        device: Where it is.

    Raises:
        ConfigError: The device does not multiply in eight bits, or no linear map has a fitting size.
    """
    if precision == "bf16_frozen":
        encoder.hold_in_bf16()
    elif precision == "fp8":
        check_float8(device)
        hold_in_float8(encoder)
