"""Linear maps on a CPU, in the form that is fastest there.

PyTorch sends fp32 products to MKL, which keeps its widest instructions for one maker's processors; oneDNN, which
PyTorch ships too and uses for convolutions and bf16, writes its own code for what the processor has. On an AMD Zen 5
its fp32 product takes half the time, on another AMD EPYC a seventh less, and it is as exact: both accumulate in fp32,
in another order. Which one a machine gets is measured, see :mod:`medgraft.fast.fp32_product`. Products in bf16 go to
oneDNN in any case, but only its own linear map adds a bias while it writes the result; PyTorch's copies the bias to
every row first, a tenth of a wide map's time.
"""

from __future__ import annotations

import os
import platform
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from medgraft.errors import ConfigError
from medgraft.fast.fp32_product import VARIABLE, Choice, kept, measured
from medgraft.fast.switch import is_plain
from medgraft.files.cache_folder import cache_root

SMALLEST = 1 << 23
"""Products of fewer multiplications than this are not worth another way."""


@cache
def has_onednn() -> bool:
    """Whether this PyTorch can be asked for oneDNN's fp32 product, on the processors it was measured on (x86-64)."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def fp32_choice() -> Choice:
    """What multiplies fp32 matrices here: MKL under ``MEDGRAFT_PLAIN=1``, else :func:`fast_choice`."""
    return Choice("mkl") if is_plain() else fast_choice()


@cache
def fast_choice() -> Choice:
    """The faster product, decided once per process: by the variable, stored, or measured in 0.1 s.

    Raises:
        ConfigError: ``MEDGRAFT_FP32_PRODUCT`` is neither ``mkl`` nor ``onednn``.
    """
    requested = os.environ.get(VARIABLE, "").strip().lower()
    if requested not in ("", "mkl", "onednn"):
        raise ConfigError(f"{VARIABLE} is {requested!r}; set it to mkl or onednn, or leave it out for a measurement")
    if requested == "mkl" or not has_onednn():
        return Choice("mkl")
    if requested == "onednn":
        return Choice("onednn")
    return kept(cache_root(), lambda: measured(F.linear, onednn_linear))


@cache
def has_onednn_bf16() -> bool:
    """Whether its bf16 product runs on this processor."""
    return has_onednn() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def takes_onednn(*tensors: Tensor) -> bool:
    """Whether a product of these, of any shape, goes to oneDNN: float32 on the CPU, not empty, where it is faster."""
    fit = all(t.dtype == torch.float32 and t.device.type == "cpu" and t.numel() > 0 for t in tensors)
    return fit and has_onednn() and bool(torch.backends.mkldnn.enabled) and fp32_choice().product == "onednn"


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear`` by oneDNN, shapes as in :func:`linear`, without a gradient.

    The operator is PyTorch's own, made for its compiler; it may go.
    """
    bias = None if bias is None else bias.contiguous()  # of others it reads the memory behind them
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def takes_onednn_bias(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether a linear map in bf16 goes to oneDNN for the sake of its bias; the gradients' products have none.

    Shapes are as in :func:`linear`.
    """
    if bias is None or not all(t.dtype == torch.bfloat16 and t.device.type == "cpu" for t in (x, weight, bias)):
        return False
    if is_plain():
        return False
    return min(x.numel(), weight.numel()) > 0 and has_onednn_bf16() and bool(torch.backends.mkldnn.enabled)


def _product(a: Tensor, b: Tensor) -> Tensor:
    return torch.mm(a, b) if a.dtype == torch.bfloat16 else onednn_linear(a, b.t().contiguous())


class _Linear(torch.autograd.Function):
    """``x W^T + b`` by oneDNN, and its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight if ctx.needs_input_grad[0] else None)
        return onednn_linear(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (dy,) = gradients
        x, weight = ctx.saved_tensors
        rows = dy.reshape(-1, dy.shape[-1])
        dx = None if weight is None else _product(rows, weight).view(*dy.shape[:-1], -1)
        dw = None if x is None else _product(rows.t().contiguous(), x.reshape(-1, x.shape[-1]))
        return dx, dw, rows.sum(0) if ctx.needs_input_grad[2] else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, on a CPU by oneDNN where the product is large enough to gain by it.

    Args:
        x: ``[..., in]``.
        weight: ``[out, in]``.
        bias: ``[out]``.

    Returns:
        ``[..., out]``; differs from ``F.linear`` by the order of the sums only.
    """
    tensors = [t for t in (x, weight, bias) if t is not None]
    large = weight.dim() == 2 and x.dim() > 1 and x.numel() * weight.shape[0] >= SMALLEST
    cast = torch.is_autocast_enabled("cpu") and x.dtype != torch.get_autocast_dtype("cpu")
    if not large or cast or not (takes_onednn(*tensors) or takes_onednn_bias(x, weight, bias)):
        return F.linear(x, weight, bias)
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        output = _Linear.apply(x, weight, bias)
        assert isinstance(output, Tensor)
        return output
    return onednn_linear(x, weight, bias)
