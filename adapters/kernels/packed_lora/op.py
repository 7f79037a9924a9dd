"""LoRA on a packed projection: one base GEMM, and both gradients from one read of ``x`` and ``dY``.

Hu et al., "LoRA", ICLR 2022, equation 3, for ``P`` row ranges of one frozen weight (q and v of a packed qkv), each with
an ``A_p`` and ``B_p`` of its own: ``Y = x W^T + b``, ``Y[rows_p] += s (x A_p^T) B_p^T``. The base product is the
library's; the update is added in place, so there is no second ``Y`` and no second copy of ``x``. The backward reads
``x`` and ``dY`` once for ``dA_p = s (dY_p B_p)^T x`` and ``dB_p = s dY_p^T (x A_p^T)``; the forward keeps ``x A_p^T``.
The split into a library product and memory-bound kernels follows Zhu et al., "LoRAFusion", 2025 (arXiv 2510.00206).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from medgraft.adapters.kernels.packed_lora.reference import reference
from medgraft.adapters.kernels.packed_lora.triton import VARIANTS as VARIANTS
from medgraft.adapters.kernels.packed_lora.triton import WIDEST_RANK, launch_epilogue, launch_gradients
from medgraft.errors import ConfigError
from medgraft.fast.linear import linear
from medgraft.ops import backends
from medgraft.ops.backends import Backend
from medgraft.ops.products import product
from medgraft.ops.triton_runtime import Tile


def packed_lora(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    starts: Sequence[int],
    scaling: float,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """A frozen linear map with ``P`` low-rank updates of ranges of its rows.

    Args:
        x: ``[..., D]``.
        weight: ``[O, D]``, frozen: it gets no gradient in the fused form.
        bias: ``[O]``, frozen, or ``None``.
        A: ``[P, r, D]``.
        B: ``[P, w, r]``; ranges have one width ``w``.
        starts: First row of each range; ranges do not overlap.
        scaling: Factor on the updates.
        backend: ``eager``, ``compile``, ``fused`` or ``auto``.

    Returns:
        ``[..., O]``.

    Raises:
        ConfigError: The shapes disagree, or ranges overlap or leave the weight.

    Example:
        >>> x, weight, A, B = torch.ones(2, 3, 4), torch.zeros(12, 4), torch.ones(2, 1, 4), torch.ones(2, 4, 1)
        >>> y = packed_lora(x, weight, None, A, B, starts=(0, 8), scaling=0.5)  # q and v of a packed qkv
        >>> y.shape, y[0, 0].tolist()
        (torch.Size([2, 3, 12]), [2.0, 2.0, 2.0, 2.0, 0.0, 0.0, 0.0, 0.0, 2.0, 2.0, 2.0, 2.0])
    """
    _check(x, weight, A, B, starts)
    form = backends.choose("packed_lora", backend, obstacle(x, weight, bias, A, B))
    if form == "fused":
        return lora_forward(x, weight, bias, A, B, list(starts), float(scaling))[0]
    plain = reference if form == "eager" else backends.compiled(reference)
    return plain(x, weight, bias, A, B, tuple(starts), scaling)


def _check(x: Tensor, weight: Tensor, A: Tensor, B: Tensor, starts: Sequence[int]) -> None:
    shapes = f"x {tuple(x.shape)}, weight {tuple(weight.shape)}, A {tuple(A.shape)}, B {tuple(B.shape)}"
    wrong = A.ndim != 3 or B.ndim != 3 or A.shape[:2] != (len(starts), B.shape[2]) or len(B) != len(starts)
    if wrong or not x.shape[-1] == weight.shape[1] == A.shape[2]:
        raise ConfigError(
            f"packed_lora: {shapes} and {len(starts)} starts must be [..., D], [O, D], [P, r, D], [P, w, r]"
        )
    ordered, width = sorted(starts), B.shape[1]
    if ordered[0] < 0 or ordered[-1] + width > len(weight):
        raise ConfigError(
            f"packed_lora: ranges of {width} rows from {ordered} leave the {len(weight)} rows of the weight"
        )
    if any(after - before < width for before, after in pairwise(ordered)):
        raise ConfigError(f"packed_lora: ranges of {width} rows from {ordered} overlap")


def obstacle(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor) -> str | None:
    """Why the fused form cannot take these arguments, as in :func:`packed_lora`, or ``None``."""
    if weight.requires_grad or (bias is not None and bias.requires_grad):
        return "the base weight or bias is trainable; the fused form gives gradients to x, A and B only"
    if torch.is_autocast_enabled(x.device.type):
        return "autocast is on, and would cast inside of the operation; cast x, A and B and switch it off"
    if x.device.type == "cuda" and A.shape[1] > WIDEST_RANK:
        return f"rank {A.shape[1]}; the GPU kernels keep whole ranks in registers and take up to {WIDEST_RANK}"
    return backends.obstacle_of(x, weight, A, B, *([] if bias is None else [bias]))


@torch.library.custom_op("medgraft::packed_lora", mutates_args=(), device_types="cpu")
def lora_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, starts: list[int], scaling: float
) -> tuple[Tensor, Tensor]:
    """The map and what its backward needs; arguments as in :func:`packed_lora`.

    Returns:
        ``[..., O]`` and ``x A^T`` of all ranges side by side, ``[M, P r]`` with ``M`` the rows of ``x``.
    """
    y, hidden = _base(x, weight, bias, A)
    flat = y.view(-1, len(weight))
    for p, start in enumerate(starts):
        part = flat[:, start : start + B.shape[1]]
        part.addmm_(hidden[:, p * A.shape[1] : (p + 1) * A.shape[1]], B[p].T, alpha=scaling)
    return y, hidden


def _base(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor) -> tuple[Tensor, Tensor]:
    flat = x.reshape(-1, x.shape[-1])
    y = linear(flat, weight, bias).view(*x.shape[:-1], len(weight))
    return y, linear(flat, A.reshape(-1, A.shape[-1]))


@torch.library.custom_op("medgraft::packed_lora_backward", mutates_args=(), device_types="cpu")
def lora_backward(
    d_y: Tensor,
    x: Tensor,
    weight: Tensor,
    A: Tensor,
    B: Tensor,
    hidden: Tensor,
    starts: list[int],
    scaling: float,
    need_x: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``x`` (empty unless ``need_x``, as below the first adapted layer), ``A`` and ``B``.

    ``d_y`` is ``[..., O]``, ``hidden`` ``[M, P r]`` the second result of :func:`lora_forward`, the others are as in
    :func:`packed_lora`.
    """
    flat_y, flat_x, r = d_y.reshape(-1, len(weight)), x.reshape(-1, x.shape[-1]), A.shape[1]
    d_hidden = torch.empty_like(hidden)
    d_b = torch.empty_like(B, memory_format=torch.contiguous_format)
    for p, start in enumerate(starts):
        part, columns = flat_y[:, start : start + B.shape[1]], slice(p * r, (p + 1) * r)
        d_hidden[:, columns] = (part @ B[p]).mul_(scaling)
        d_b[p] = (part.T @ hidden[:, columns]).mul_(scaling)
    return _d_x(flat_y, x, weight, A, d_hidden, need_x), (d_hidden.T @ flat_x).view_as(A), d_b


def _d_x(flat_y: Tensor, x: Tensor, weight: Tensor, A: Tensor, d_hidden: Tensor, need_x: bool) -> Tensor:
    if not need_x:
        return x.new_empty(0)
    return product(flat_y, weight).addmm_(d_hidden.to(A.dtype), A.reshape(-1, A.shape[-1])).view(x.shape)


@lora_forward.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, starts: list[int], scaling: float):
    rows = x.numel() // x.shape[-1]
    return x.new_empty(*x.shape[:-1], weight.shape[0]), x.new_empty(rows, A.shape[0] * A.shape[1])


@lora_backward.register_fake
def _(d_y: Tensor, x: Tensor, weight: Tensor, A: Tensor, B: Tensor, hidden: Tensor, starts: list[int],
      scaling: float, need_x: bool):  # fmt: skip
    return x.new_empty(x.shape if need_x else 0), A.new_empty(A.shape), B.new_empty(B.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, A, B, ctx.starts, ctx.scaling = inputs
    ctx.save_for_backward(x, weight, A, B, output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, d_y: Tensor, _: Tensor) -> tuple[Any, ...]:
    x, weight, A, B, hidden = ctx.saved_tensors
    need_x = ctx.needs_input_grad[0]
    d_x, d_a, d_b = lora_backward(d_y, x, weight, A, B, hidden, ctx.starts, ctx.scaling, need_x)
    return (d_x if need_x else None), None, None, d_a, d_b, None, None


lora_forward.register_autograd(_backward, setup_context=_save)
lora_backward.register_vmap(backends.loop_over_batch(lora_backward))


@lora_forward.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
    """``K`` adapters over one ``x``: one base product for all of them."""
    if any(in_dims[i] is not None for i in range(3)):
        return backends.loop_over_batch(lora_forward)(info, in_dims, *inputs)
    x, weight, bias, A, B, starts, scaling = inputs
    A, B = (
        part.expand(info.batch_size, *part.shape) if dim is None else part.movedim(dim, 0)
        for part, dim in zip((A, B), in_dims[3:5], strict=True)
    )
    base, hidden = _base(x, weight, bias, A)
    hidden = hidden.unflatten(1, (info.batch_size, len(starts), -1)).permute(1, 2, 0, 3)
    y = base.expand(info.batch_size, *base.shape).clone()
    flat = y.view(info.batch_size, -1, len(weight))
    for p, start in enumerate(starts):
        flat[..., start : start + B.shape[2]].baddbmm_(hidden[:, p], B[:, p].transpose(1, 2), alpha=scaling)
    return (y, hidden.transpose(1, 2).flatten(2)), (0, 0)


def triton_forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, starts: list[int], scaling: float,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As in :func:`lora_forward`, by library products and a Triton epilogue; ``tile`` overrides the tuned one."""
    y, hidden = _base(x, weight, bias, A)
    launch_epilogue(hidden, B, y, starts, scaling, tile)
    return y, hidden


def triton_backward(
    d_y: Tensor, x: Tensor, weight: Tensor, A: Tensor, B: Tensor, hidden: Tensor, starts: list[int], scaling: float,
    need_x: bool, tile: Tile | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As in :func:`lora_backward`, by one Triton kernel for everything small and a library product for ``dX``."""
    flat_y, flat_x = d_y.reshape(-1, len(weight)), x.reshape(-1, x.shape[-1])
    d_hidden, d_a, d_b = launch_gradients(flat_y, flat_x, B, hidden, starts, scaling, tile)
    return _d_x(flat_y, x, weight, A, d_hidden, need_x), d_a.to(A.dtype), d_b.to(B.dtype)


lora_forward.register_kernel("cuda")(triton_forward)
lora_backward.register_kernel("cuda")(triton_backward)
