"""The Triton kernels of :mod:`medgraft.adapters.kernels.bottleneck.op`: its last step in one pass, both directions."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medgraft.ops.triton_runtime import (
    TARGETS,
    Tile,
    Tuned,
    Variant,
    cdiv,
    jit,
    next_power_of_2,
    tl,
    tuned_for,
)

WIDEST = 32

_SQRT_HALF = tl.constexpr(math.sqrt(0.5)) if tl is not None else math.sqrt(0.5)
_DENSITY = tl.constexpr(1 / math.sqrt(2 * math.pi)) if tl is not None else 1 / math.sqrt(2 * math.pi)


@jit
def epilogue_kernel(
    X, HIDDEN, UP, BIAS, Y, M, C, R,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """``BM`` voxels and ``BN`` of their channels of ``x + gelu(hidden) up^T + bias``."""
    row = (tl.program_id(0) * BM + tl.arange(0, BM)).to(tl.int64)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    r = tl.arange(0, BR)
    row_ok, column_ok, r_ok = row < M, column < C, r < R
    z = tl.load(HIDDEN + row[:, None] * R + r[None, :], mask=row_ok[:, None] & r_ok[None, :], other=0.0)
    up = tl.load(UP + column[None, :] * R + r[:, None], mask=column_ok[None, :] & r_ok[:, None], other=0.0)
    wide = z.to(tl.float32)
    active = (0.5 * wide * (1.0 + tl.erf(wide * _SQRT_HALF))).to(z.dtype)
    inside = row_ok[:, None] & column_ok[None, :]
    place = row[:, None] * C + column[None, :]
    y = tl.load(X + place, mask=inside, other=0.0).to(tl.float32)
    y += tl.load(BIAS + column, mask=column_ok, other=0.0).to(tl.float32)[None, :]
    y = tl.dot(active, up, y, input_precision=PRECISION)
    tl.store(Y + place, y.to(Y.dtype.element_ty), mask=inside)


@jit
def epilogue_backward_kernel(
    DY, HIDDEN, UP, DHIDDEN, DUP, DBIAS, M, C, R, BLOCKS,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """All three gradients from one read of ``dY`` and ``hidden``; weights as shares of a program in its own slab."""
    program, n_programs = tl.program_id(0), tl.num_programs(0)
    r, n = tl.arange(0, BR), tl.arange(0, BN)
    r_ok = r < R
    for block in range(program, BLOCKS, n_programs):
        row = (block * BM + tl.arange(0, BM)).to(tl.int64)
        row_ok = row < M
        of_hidden, hidden_ok = row[:, None] * R + r[None, :], row_ok[:, None] & r_ok[None, :]
        z = tl.load(HIDDEN + of_hidden, mask=hidden_ok, other=0.0)
        wide = z.to(tl.float32)
        below = 0.5 * (1.0 + tl.erf(wide * _SQRT_HALF))
        active = (wide * below).to(z.dtype)
        back = tl.zeros((BM, BR), tl.float32)
        for at in range(0, C, BN):
            ok = (at + n) < C
            dy = tl.load(DY + row[:, None] * C + (at + n)[None, :], mask=row_ok[:, None] & ok[None, :], other=0.0)
            up = tl.load(UP + (at + n)[:, None] * R + r[None, :], mask=ok[:, None] & r_ok[None, :], other=0.0)
            back = tl.dot(dy, up, back, input_precision=PRECISION)
            share = tl.dot(tl.trans(dy), active, input_precision=PRECISION)
            place, inside = (program * C + at + n)[:, None] * R + r[None, :], ok[:, None] & r_ok[None, :]
            # The first block writes the slab, later ones add; no other program touches it.
            share += tl.load(DUP + place, mask=inside & (block != program), other=0.0)
            tl.store(DUP + place, share, mask=inside)
            total = tl.sum(dy.to(tl.float32), 0)
            total += tl.load(DBIAS + program * C + at + n, mask=ok & (block != program), other=0.0)
            tl.store(DBIAS + program * C + at + n, total, mask=ok)
        slope = below + wide * _DENSITY * tl.exp(-0.5 * wide * wide)
        tl.store(DHIDDEN + of_hidden, (back * slope).to(DHIDDEN.dtype.element_ty), mask=hidden_ok)


TILES: Tuned = dict.fromkeys(TARGETS, Tile({"BM": 64, "BN": 64}, 8, 1))
TILES_FP32: Tuned = dict.fromkeys(TILES, Tile({"BM": 32, "BN": 32}, 8, 1))
MOST_PROGRAMS = 256


def _tile(x: Tensor) -> Tile:
    return tuned_for(TILES_FP32 if x.dtype == torch.float32 else TILES, x.device)


def launch_forward(x: Tensor, hidden: Tensor, up: Tensor, bias: Tensor, tile: Tile | None = None) -> Tensor:
    """``x + gelu(hidden) up^T + bias``, ``[M, C]``, in Triton.

    Args:
        x: ``[M, C]``.
        hidden: ``[M, c]``.
        up: ``[C, c]``.
        bias: ``[C]``.
        tile: Overrides the tuned one.
    """
    tile, (M, C) = tile or _tile(x), x.shape
    x, hidden, up = x.contiguous(), hidden.contiguous(), up.contiguous()
    y, R = torch.empty_like(x), up.shape[1]
    epilogue_kernel[cdiv(M, tile.blocks["BM"]), cdiv(C, tile.blocks["BN"])](
        x, hidden, up, bias.contiguous(), y, M, C, R, BR=_padded(R), **tile.launch()
    )
    return y


def launch_backward(d_y: Tensor, hidden: Tensor, up: Tensor, tile: Tile | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``hidden [M, c]``, ``up [C, c]`` and ``bias [C]`` in Triton; ``tile`` overrides the tuned one."""
    tile, (M, C), R = tile or _tile(d_y), d_y.shape, up.shape[1]
    d_y, hidden, up = d_y.contiguous(), hidden.contiguous(), up.contiguous()
    blocks = cdiv(M, tile.blocks["BM"])
    programs = min(blocks, MOST_PROGRAMS)
    d_hidden = torch.empty_like(hidden)
    d_up = d_y.new_empty(programs, C, R, dtype=torch.float32)
    d_bias = d_y.new_empty(programs, C, dtype=torch.float32)
    epilogue_backward_kernel[(programs,)](
        d_y, hidden, up, d_hidden, d_up, d_bias, M, C, R, blocks, BR=_padded(R), **tile.launch()
    )
    return d_hidden, d_up.sum(0).to(up.dtype), d_bias.sum(0).to(d_y.dtype)


def _padded(R: int) -> int:
    return max(16, next_power_of_2(R))


def forward_traffic(M: int, C: int, R: int, itemsize: int, tile: Tile) -> tuple[int, int]:
    """Bytes that the forward kernel loads and stores."""
    blocks, slices = cdiv(M, tile.blocks["BM"]), cdiv(C, tile.blocks["BN"])
    return (M * C + slices * M * R + blocks * (C * R + C)) * itemsize, M * C * itemsize


def backward_traffic(M: int, C: int, R: int, itemsize: int, tile: Tile) -> tuple[int, int]:
    """Bytes that the backward kernel loads and stores."""
    blocks = cdiv(M, tile.blocks["BM"])
    again, slab = blocks - min(blocks, MOST_PROGRAMS), (C * R + C) * 4
    return (M * C + M * R + blocks * C * R) * itemsize + again * slab, M * R * itemsize + blocks * slab


def _variants() -> list[Variant]:
    variants = []
    for kind, tiles in (("bf16", TILES), ("fp32", TILES_FP32)):
        types = dict.fromkeys(("X", "HIDDEN", "UP", "BIAS", "Y", "DY", "DHIDDEN"), f"*{kind}")
        types |= {"DUP": "*fp32", "DBIAS": "*fp32", **dict.fromkeys(("M", "C", "R", "BLOCKS"), "i32")}
        for kernel in (epilogue_kernel, epilogue_backward_kernel):
            variants.append(Variant(kernel, types, {"BR": WIDEST}, tiles, ("C", "R"), True, f"3d {kind}"))
    return variants


VARIANTS = _variants()
