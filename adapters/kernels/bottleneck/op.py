"""Residual 3D convolutional bottleneck whose last step is one pass over the volume.

``y = x + W_up gelu(mix(W_down x + b_down)) + b_up``: a 1x1x1 convolution to ``c`` channels, a 3x3x3 convolution, the
exact GELU and a 1x1x1 convolution back (the adapter of Pan et al., "ST-Adapter", NeurIPS 2022, arXiv 2206.13559, with a
dense convolution). In memory with the channels last the 1x1x1 convolutions are plain matrix products of voxels, and
the epilogue ``x + gelu(h) W^T + b`` reads ``x`` and ``h`` and writes ``y``, nothing else.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapters.kernels.bottleneck.reference import reference
from medgraft.adapters.kernels.bottleneck.triton import VARIANTS as VARIANTS
from medgraft.adapters.kernels.bottleneck.triton import WIDEST, launch_backward, launch_forward
from medgraft.errors import ConfigError
from medgraft.fast.linear import linear
from medgraft.ops import backends
from medgraft.ops.backends import Backend

VOXELS = 8192


def _too_thin(h: Tensor, mix: Tensor) -> bool:
    """Whether bfloat16 must not be convolved on a CPU.

    Where the kernel is longer than the volume is deep, oneDNN's gradient of the kernel takes in memory that nobody has
    written (seen in PyTorch 2.14 with AVX-512, at a depth of 2).
    """
    return h.device.type == "cpu" and backends.multiplied_in(h) == torch.bfloat16 and h.shape[2] < mix.shape[-1]


def bottleneck_3d(
    x: Tensor,
    down: Tensor,
    down_bias: Tensor,
    mix: Tensor,
    mix_bias: Tensor,
    up: Tensor,
    up_bias: Tensor,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """The residual bottleneck on a feature map.

    Args:
        x: ``[B, C, D, H, W]``; fastest in ``torch.channels_last_3d``.
        down: ``[c, C]``.
        down_bias: ``[c]``.
        mix: ``[c, c, k, k, k]`` with an odd ``k``.
        mix_bias: ``[c]``.
        up: ``[C, c]``.
        up_bias: ``[C]``.
        backend: ``eager``, ``compile``, ``fused`` or ``auto``.

    Returns:
        ``[B, C, D, H, W]``, with the channels last in memory in the fused form.

    Raises:
        ConfigError: The shapes disagree or the kernel is even.

    Example:
        >>> x, down, mix, up = torch.ones(1, 8, 2, 4, 4), torch.ones(2, 8), torch.ones(2, 2, 3, 3, 3), torch.zeros(8, 2)
        >>> y = bottleneck_3d(x, down, torch.zeros(2), mix, torch.zeros(2), up, torch.zeros(8))
        >>> y.shape, torch.equal(y, x)
        (torch.Size([1, 8, 2, 4, 4]), True)
    """
    (c, C), k = down.shape, mix.shape[-1]
    if x.ndim != 5 or x.shape[1] != C or up.shape != (C, c) or mix.shape != (c, c, k, k, k) or k % 2 == 0:
        raise ConfigError(
            f"bottleneck_3d: x {tuple(x.shape)}, down {tuple(down.shape)}, mix {tuple(mix.shape)} and up "
            f"{tuple(up.shape)} must be [B, C, D, H, W], [c, C], [c, c, k, k, k] with an odd k, and [C, c]"
        )
    arguments = (x, down, down_bias, mix, mix_bias, up, up_bias)
    form = backends.choose("bottleneck", backend, _obstacle(x, c, *arguments[1:]), _slower(x))
    if form != "fused":
        return (reference if form == "eager" else backends.compiled(reference))(*arguments)
    return bottleneck_forward(x.contiguous(memory_format=torch.channels_last_3d), *arguments[1:])[0]


def _obstacle(x: Tensor, c: int, *others: Tensor) -> str | None:
    if x.device.type == "cuda" and c > WIDEST:
        return f"{c} channels inside; the GPU kernel keeps a voxel's in registers and takes up to {WIDEST}"
    return backends.obstacle_of(x, *others) or backends.width_obstacle(x, x.shape[1])


def _slower(x: Tensor) -> str | None:
    """Why three convolutions are faster on a CPU, or ``None``."""
    if x.device.type != "cpu":
        return None
    if x.dtype == torch.bfloat16:
        return "bfloat16 convolutions are faster on a CPU"
    if not x.is_contiguous(memory_format=torch.channels_last_3d):
        return "the channels are not last in memory, and convolutions are as fast on a CPU without moving them"
    return None


def _rows(x: Tensor) -> Tensor:
    """``[B, C, D, H, W]`` as voxels ``[B D H W, C]``, a view where the channels are last in memory."""
    return x.permute(0, 2, 3, 4, 1).reshape(-1, x.shape[1])


def _volume(rows: Tensor, like: Tensor) -> Tensor:
    """The inverse of :func:`_rows`, of the batch and size of ``like``."""
    return rows.view(len(like), *like.shape[2:], rows.shape[1]).permute(0, 4, 1, 2, 3)


def _blocks(x: Tensor) -> list[slice]:
    """Voxels to pass through a cache at once; all of them on a GPU."""
    size = VOXELS if x.device.type == "cpu" else max(len(x), 1)
    return [slice(start, start + size) for start in range(0, len(x), size)]


def epilogue(x: Tensor, hidden: Tensor, up: Tensor, bias: Tensor) -> Tensor:
    """``x + gelu(hidden) up^T + bias`` for ``x [M, C]``, ``hidden [M, c]``, ``up [C, c]``, ``bias [C]``, on a CPU."""
    y, blocks = torch.empty_like(x), _blocks(x)
    room = _room(hidden, blocks)
    for block in blocks:
        torch.addmm(bias, _active(hidden[block], room), up.T, out=y[block]).add_(x[block])
    return y


def _room(hidden: Tensor, blocks: list[slice]) -> Tensor:
    """Space for the activations of one block; fresh memory for each would cost more than the arithmetic."""
    return torch.empty_like(hidden[blocks[0]] if blocks else hidden)


def _active(hidden: Tensor, room: Tensor) -> Tensor:
    return torch.ops.aten.gelu.out(hidden, out=room[: len(hidden)])


def epilogue_backward(d_y: Tensor, hidden: Tensor, up: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``hidden [M, c]``, ``up [C, c]`` and ``bias [C]`` on a CPU; that of ``x`` is ``d_y``, ``[M, C]``."""
    kind, d_hidden = backends.accumulator(d_y.dtype), torch.empty_like(hidden)
    d_up, d_bias = (d_y.new_zeros(shape, dtype=kind) for shape in (up.shape[::-1], up.shape[:1]))
    blocks = _blocks(d_y)
    room = _room(hidden, blocks)
    for block in blocks:
        z, dy, dz = hidden[block], d_y[block], d_hidden[block]
        d_up += _active(z, room).T @ dy
        d_bias += dy.sum(0)
        torch.ops.aten.gelu_backward.grad_input(torch.mm(dy, up, out=dz), z, grad_input=dz)
    return d_hidden, d_up.T.to(up.dtype).contiguous(), d_bias.to(d_y.dtype)


def _convolves(x: Tensor) -> bool:
    """Whether 1x1x1 convolutions beat products of matrices: in bfloat16 on a CPU, where float32 ones are far slower."""
    return x.device.type == "cpu" and x.dtype == torch.bfloat16


def _pointwise(weight: Tensor) -> Tensor:
    return weight[:, :, None, None, None]


def _last(x: Tensor) -> Tensor:
    """With the channels last in memory, also where an axis of length 1 would let other strides pass for that."""
    return _volume(_rows(x).contiguous(), x)


def _gradients(d_y: Tensor, x: Tensor, weight: Tensor, of_x: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of input, weight and bias of a convolution that keeps the size."""
    pad, ones = [weight.shape[-1] // 2] * 3, [1] * 3
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    output_mask = [of_x, True, True]
    return torch.ops.aten.convolution_backward(
        d_y, x, weight, [len(weight)], ones, pad, ones, False, [0] * 3, 1, output_mask
    )


def _convolved(
    x: Tensor, down: Tensor, down_bias: Tensor, mix: Tensor, mix_bias: Tensor, up: Tensor, up_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    x, mix = _last(x), mix.contiguous(memory_format=torch.channels_last_3d)
    inner = _last(F.conv3d(x, _pointwise(down), down_bias))
    hidden = _last(F.conv3d(inner, mix, mix_bias, padding=mix.shape[-1] // 2))
    return _last(F.conv3d(F.gelu(hidden), _pointwise(up), up_bias)).add_(x), inner, hidden


def _convolved_backward(
    d_y: Tensor, x: Tensor, down: Tensor, mix: Tensor, up: Tensor, inner: Tensor, hidden: Tensor, of_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    x, d_y = _last(x), _last(d_y)
    # Weights and inputs apart: together they would hold copies of both volumes in the library's own order.
    _, d_up, d_up_bias = _gradients(d_y, F.gelu(hidden), _pointwise(up), False)
    d_hidden = torch.ops.aten.gelu_backward(F.conv3d(d_y, _pointwise(up.T)), hidden)
    kind = torch.float32 if _too_thin(inner, mix) else x.dtype
    of_mix = _gradients(d_hidden.to(kind), inner.to(kind), mix.to(kind))
    d_inner, d_mix, d_mix_bias = (part.to(x.dtype) for part in of_mix)
    _, d_down, d_down_bias = _gradients(d_inner, x, _pointwise(down), False)
    d_x = _last(F.conv3d(d_inner, _pointwise(down.T))).add_(d_y) if of_x else d_y.new_empty(0, 0)
    flat = (d_down.flatten(1).contiguous(), d_down_bias, d_mix.contiguous(), d_mix_bias)
    return d_x, *flat, d_up.flatten(1).contiguous(), d_up_bias


@torch.library.custom_op("medgraft::bottleneck", mutates_args=())
def bottleneck_forward(
    x: Tensor, down: Tensor, down_bias: Tensor, mix: Tensor, mix_bias: Tensor, up: Tensor, up_bias: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The result, and what is before and behind the mixing convolution; arguments as in :func:`bottleneck_3d`.

    Returns:
        ``[B, C, D, H, W]`` and twice ``[B, c, D, H, W]``, all with the channels last in memory.
    """
    if _convolves(x):
        return _convolved(x, down, down_bias, mix, mix_bias, up, up_bias)
    rows = _rows(x)
    inner = _volume(linear(rows, down, down_bias), x)
    weight = mix.contiguous(memory_format=torch.channels_last_3d)
    hidden = F.conv3d(inner, weight, mix_bias, padding=mix.shape[-1] // 2)
    hidden = _rows(hidden).contiguous()
    last = epilogue if x.device.type == "cpu" else launch_forward
    return _volume(last(rows, hidden, up, up_bias), x), inner, _volume(hidden, x)


@torch.library.custom_op("medgraft::bottleneck_backward", mutates_args=())
def bottleneck_backward(
    d_y: Tensor, x: Tensor, down: Tensor, mix: Tensor, up: Tensor, inner: Tensor, hidden: Tensor, of_x: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of all arguments of :func:`bottleneck_forward` in their order; empty for ``x`` unless ``of_x``.

    ``d_y`` is ``[B, C, D, H, W]``, ``inner`` and ``hidden`` are ``[B, c, D, H, W]``, the others as in
    :func:`bottleneck_3d`.
    """
    if _convolves(x):
        return _convolved_backward(d_y, x, down, mix, up, inner, hidden, of_x)
    last = epilogue_backward if x.device.type == "cpu" else launch_backward
    rows, dy = _rows(x), _rows(d_y)
    d_hidden, d_up, d_up_bias = last(dy, _rows(hidden), up)
    d_inner, d_mix, d_mix_bias = _gradients(_volume(d_hidden, x), inner, mix)
    d_inner = _rows(d_inner)
    kind = backends.accumulator(d_y.dtype)
    d_down, d_x = d_y.new_zeros(down.shape, dtype=kind), dy.new_empty(dy.shape if of_x else (0, 0))
    for block in _blocks(dy):
        if of_x:
            torch.mm(d_inner[block], down, out=d_x[block]).add_(dy[block])
        d_down += d_inner[block].T @ rows[block]
    return (
        _volume(d_x, x) if of_x else d_x, d_down.to(down.dtype), d_inner.sum(0), d_mix.contiguous(), d_mix_bias,
        d_up, d_up_bias,
    )  # fmt: skip


def _empty_volume(x: Tensor, channels: int) -> Tensor:
    return x.new_empty(len(x), *x.shape[2:], channels).permute(0, 4, 1, 2, 3)


@bottleneck_forward.register_fake
def _(x: Tensor, down: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_volume(x, x.shape[1]), _empty_volume(x, len(down)), _empty_volume(x, len(down))


@bottleneck_backward.register_fake
def _(d_y: Tensor, x: Tensor, down: Tensor, mix: Tensor, up: Tensor, inner: Tensor, hidden: Tensor, of_x: bool):
    d_x, c = _empty_volume(x, x.shape[1]) if of_x else x.new_empty(0, 0), len(down)
    of_down, of_mix, of_up = (w.new_empty(w.shape) for w in (down, mix, up))
    return d_x, of_down, down.new_empty(c), of_mix, mix.new_empty(c), of_up, up.new_empty(len(up))


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    x, down, _, mix, _, up, _ = inputs
    ctx.save_for_backward(x, down, mix, up, *output[1:])
    ctx.set_materialize_grads(False)  # or zeros as large as both saved volumes would be made for them
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, d_y: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    if d_y is None:
        return (None,) * 7
    of_x = ctx.needs_input_grad[0]
    d_x, *d_weights = bottleneck_backward(d_y, *ctx.saved_tensors, of_x)
    return d_x if of_x else None, *d_weights


bottleneck_forward.register_autograd(_backward, setup_context=_save)
bottleneck_forward.register_vmap(backends.loop_over_batch(bottleneck_forward))
bottleneck_backward.register_vmap(backends.loop_over_batch(bottleneck_backward))
