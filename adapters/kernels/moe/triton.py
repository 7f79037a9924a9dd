"""Triton kernels of :mod:`medgraft.adapters.kernels.moe.op`: bias, GELU and gate of the hidden units in one pass."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medgraft.ops.triton_runtime import TARGETS, Tile, Tuned, Variant, cdiv, jit, tl, tuned_for

_SQRT_HALF = tl.constexpr(math.sqrt(0.5)) if tl is not None else math.sqrt(0.5)
_DENSITY = tl.constexpr(1 / math.sqrt(2 * math.pi)) if tl is not None else 1 / math.sqrt(2 * math.pi)


@jit
def gate_kernel(BEFORE, BIAS, EXPERT, GATE, HIDDEN, M, H, G, BM: tl.constexpr, BH: tl.constexpr):
    """``gelu(before + bias) * gate``; a row holds ``G`` experts of ``H`` units, ``EXPERT`` their numbers."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    g = tl.program_id(1)
    h = tl.program_id(2) * BH + tl.arange(0, BH)
    row_ok = row < M
    inside = row_ok[:, None] & (h < H)[None, :]
    expert = tl.load(EXPERT + row * G + g, mask=row_ok, other=0)
    gate = tl.load(GATE + row * G + g, mask=row_ok, other=0.0).to(tl.float32)
    place = row.to(tl.int64)[:, None] * (G * H) + g * H + h[None, :]
    z = tl.load(BEFORE + place, mask=inside, other=0.0).to(tl.float32)
    z += tl.load(BIAS + expert[:, None] * H + h[None, :], mask=inside, other=0.0).to(tl.float32)
    active = 0.5 * z * (1.0 + tl.erf(z * _SQRT_HALF))
    tl.store(HIDDEN + place, (active * gate[:, None]).to(HIDDEN.dtype.element_ty), mask=inside)


@jit
def gate_backward_kernel(
    BEFORE, BIAS, EXPERT, GATE, DHIDDEN, HIDDEN, DBEFORE, DGATE, M, H, G, BM: tl.constexpr, BH: tl.constexpr
):  # fmt: skip
    """Makes the gated hidden units again, and the gradients of the units before and of the gate, in one pass."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    g = tl.program_id(1)
    row_ok = row < M
    expert = tl.load(EXPERT + row * G + g, mask=row_ok, other=0)
    gate = tl.load(GATE + row * G + g, mask=row_ok, other=0.0).to(tl.float32)
    d_gate = tl.zeros((BM,), tl.float32)
    for at in range(0, H, BH):
        h = at + tl.arange(0, BH)
        inside = row_ok[:, None] & (h < H)[None, :]
        place = row.to(tl.int64)[:, None] * (G * H) + g * H + h[None, :]
        z = tl.load(BEFORE + place, mask=inside, other=0.0).to(tl.float32)
        z += tl.load(BIAS + expert[:, None] * H + h[None, :], mask=inside, other=0.0).to(tl.float32)
        d = tl.load(DHIDDEN + place, mask=inside, other=0.0).to(tl.float32)
        below = 0.5 * (1.0 + tl.erf(z * _SQRT_HALF))
        active = z * below
        slope = below + z * _DENSITY * tl.exp(-0.5 * z * z)
        d_gate += tl.sum(d * active, 1)
        tl.store(HIDDEN + place, (active * gate[:, None]).to(HIDDEN.dtype.element_ty), mask=inside)
        tl.store(DBEFORE + place, (d * gate[:, None] * slope).to(DBEFORE.dtype.element_ty), mask=inside)
    tl.store(DGATE + row * G + g, d_gate, mask=row_ok)


TILES: Tuned = dict.fromkeys(TARGETS, Tile({"BM": 16, "BH": 64}, 4, 1))


def launch_gate(before: Tensor, bias: Tensor, expert: Tensor, gate: Tensor, tile: Tile | None = None) -> Tensor:
    """``gelu(before + bias[expert]) * gate`` in Triton.

    Args:
        before: ``[M, G h]``.
        bias: ``[E, h]``.
        expert: ``[M, G]``, int32.
        gate: ``[M, G]``.
        tile: Overrides the tuned one.
    """
    tile = tile or tuned_for(TILES, before.device)
    (M, G), H = gate.shape, bias.shape[1]
    hidden = torch.empty_like(before)
    grid = (cdiv(M, tile.blocks["BM"]), G, cdiv(H, tile.blocks["BH"]))
    gate_kernel[grid](before, bias, expert, gate, hidden, M, H, G, **tile.plain_launch())
    return hidden


def launch_gate_backward(
    before: Tensor, bias: Tensor, expert: Tensor, gate: Tensor, d_hidden: Tensor, tile: Tile | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gated hidden units again, ``[M, G h]``, and the gradients of ``before`` and ``gate`` (``float32 [M, G]``).

    Args:
        before: ``[M, G h]``.
        bias: ``[E, h]``.
        expert: ``[M, G]``, int32.
        gate: ``[M, G]``.
        d_hidden: Gradient of the gated hidden units, ``[M, G h]``.
        tile: Overrides the tuned one.
    """
    tile = tile or tuned_for(TILES, before.device)
    (M, G), H = gate.shape, bias.shape[1]
    hidden, d_before = torch.empty_like(before), torch.empty_like(before)
    d_gate = before.new_empty(M, G, dtype=torch.float32)
    gate_backward_kernel[cdiv(M, tile.blocks["BM"]), G](
        before, bias, expert, gate, d_hidden, hidden, d_before, d_gate, M, H, G, **tile.plain_launch()
    )
    return hidden, d_before, d_gate


def gate_traffic(M: int, H: int, G: int, itemsize: int, tile: Tile, backward: bool) -> tuple[int, int]:
    """Bytes that one launch loads and stores; each unit reads its bias."""
    units = M * G * H * itemsize
    if backward:
        return 3 * units + M * G * (4 + itemsize), 2 * units + M * G * 4
    return 2 * units + cdiv(H, tile.blocks["BH"]) * M * G * (4 + itemsize), units


def _variants() -> list[Variant]:
    variants = []
    for kind in ("bf16", "fp32"):
        halves = ("BEFORE", "BIAS", "GATE", "HIDDEN", "DHIDDEN", "DBEFORE")
        types = {**dict.fromkeys(halves, f"*{kind}"), "EXPERT": "*i32", "DGATE": "*fp32"}
        types |= dict.fromkeys(("M", "H", "G"), "i32")
        for kernel in (gate_kernel, gate_backward_kernel):
            variants.append(Variant(kernel, types, {}, TILES, ("H",), False, kind))
    return variants


VARIANTS = _variants()
