"""Triton kernels of :mod:`medgraft.adapters.kernels.perceiver.op`: attention whose keys and values are one tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medgraft.ops.triton_runtime import Tile, Tuned, Variant, cdiv, jit, next_power_of_2, tl, tuned_for


@jit
def attention_kernel(
    X, QUERIES, MASK, CONTEXT, LSE, N, Q, C,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """``BM`` queries over all tokens with a running softmax; ``BO`` channels of the result."""
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    o = tl.program_id(1) * BO + tl.arange(0, BO)
    c = tl.arange(0, BC)
    row_ok, o_ok = row < Q, o < C
    top = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, BO), tl.float32)
    for start in range(0, N, BN):
        column = start + tl.arange(0, BN)
        column_ok = column < N
        logits = tl.zeros((BM, BN), tl.float32)
        for at in range(0, C, BC):
            c_ok = (at + c) < C
            q = tl.load(
                QUERIES + (batch * Q + row)[:, None] * C + (at + c)[None, :],
                mask=row_ok[:, None] & c_ok[None, :], other=0.0,
            )  # fmt: skip
            x = tl.load(
                X + (batch * N + column)[None, :] * C + (at + c)[:, None],
                mask=column_ok[None, :] & c_ok[:, None], other=0.0,
            )  # fmt: skip
            logits = tl.dot(q, x, logits, input_precision=PRECISION)
        open_ = tl.load(MASK + batch * N + column, mask=column_ok, other=0) != 0
        logits = tl.where(open_[None, :], logits, -1e30)
        higher = tl.maximum(top, tl.max(logits, 1))
        weight = tl.where(open_[None, :], tl.exp(logits - higher[:, None]), 0.0)
        kept = tl.exp(top - higher)
        total = total * kept + tl.sum(weight, 1)
        top = higher
        value = tl.load(
            X + (batch * N + column)[:, None] * C + o[None, :], mask=column_ok[:, None] & o_ok[None, :], other=0.0
        )
        acc = tl.dot(weight.to(value.dtype), value, acc * kept[:, None], input_precision=PRECISION)
    some = total > 0
    acc = acc / tl.where(some, total, 1.0)[:, None]
    inside = row_ok[:, None] & o_ok[None, :]
    tl.store(CONTEXT + (batch * Q + row)[:, None] * C + o[None, :], acc.to(CONTEXT.dtype.element_ty), mask=inside)
    lse = tl.where(some, top + tl.log(tl.where(some, total, 1.0)), -1e30)
    tl.store(LSE + batch * Q + row, lse, mask=row_ok & (tl.program_id(1) == 0))


@jit
def attention_backward_kernel(
    X, QUERIES, MASK, DCONTEXT, LSE, ROWTERM, DQUERIES, N, Q, C,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """``BO`` channels of the gradient of ``BM`` queries; the weights are made again tile by tile."""
    batch = tl.program_id(2).to(tl.int64)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    o = tl.program_id(1) * BO + tl.arange(0, BO)
    c = tl.arange(0, BC)
    row_ok, o_ok = row < Q, o < C
    lse = tl.load(LSE + batch * Q + row, mask=row_ok, other=0.0)
    term = tl.load(ROWTERM + batch * Q + row, mask=row_ok, other=0.0)
    acc = tl.zeros((BM, BO), tl.float32)
    for start in range(0, N, BN):
        column = start + tl.arange(0, BN)
        column_ok = column < N
        logits = tl.zeros((BM, BN), tl.float32)
        inner = tl.zeros((BM, BN), tl.float32)
        for at in range(0, C, BC):
            c_ok = (at + c) < C
            tile_ok = row_ok[:, None] & c_ok[None, :]
            q = tl.load(QUERIES + (batch * Q + row)[:, None] * C + (at + c)[None, :], mask=tile_ok, other=0.0)
            g = tl.load(DCONTEXT + (batch * Q + row)[:, None] * C + (at + c)[None, :], mask=tile_ok, other=0.0)
            x = tl.load(
                X + (batch * N + column)[None, :] * C + (at + c)[:, None],
                mask=column_ok[None, :] & c_ok[:, None], other=0.0,
            )  # fmt: skip
            logits = tl.dot(q, x, logits, input_precision=PRECISION)
            inner = tl.dot(g, x, inner, input_precision=PRECISION)
        open_ = tl.load(MASK + batch * N + column, mask=column_ok, other=0) != 0
        weight = tl.where(open_[None, :] & row_ok[:, None], tl.exp(logits - lse[:, None]), 0.0)
        value = tl.load(
            X + (batch * N + column)[:, None] * C + o[None, :], mask=column_ok[:, None] & o_ok[None, :], other=0.0
        )
        change = (weight * (inner - term[:, None])).to(value.dtype)
        acc = tl.dot(change, value, acc, input_precision=PRECISION)
    inside = row_ok[:, None] & o_ok[None, :]
    tl.store(DQUERIES + (batch * Q + row)[:, None] * C + o[None, :], acc.to(DQUERIES.dtype.element_ty), mask=inside)


TILES: Tuned = {
    "sm_80": Tile({"BM": 64, "BN": 64, "BC": 64, "BO": 128}, 8, 2),
    "sm_90": Tile({"BM": 64, "BN": 64, "BC": 64, "BO": 256}, 8, 2),
    "sm_100": Tile({"BM": 64, "BN": 64, "BC": 64, "BO": 128}, 8, 2),
    "gfx942": Tile({"BM": 32, "BN": 32, "BC": 64, "BO": 128}, 4, 1),
}
# The backward holds a second block of products.
BACKWARD_TILES: Tuned = {**TILES, "sm_80": Tile({"BM": 64, "BN": 32, "BC": 64, "BO": 128}, 8, 2)}
TILES_FP32: Tuned = dict.fromkeys(TILES, Tile({"BM": 32, "BN": 32, "BC": 32, "BO": 64}, 4, 1))


def _plan(
    x_hat: Tensor, queries: Tensor, tile: Tile | None, tuned: Tuned
) -> tuple[tuple[int, int, int], dict[str, Any]]:
    tile = tile or tuned_for(TILES_FP32 if x_hat.dtype == torch.float32 else tuned, x_hat.device)
    B, Q, C = queries.shape
    width = min(tile.blocks["BO"], max(16, next_power_of_2(C)))
    return (cdiv(Q, tile.blocks["BM"]), cdiv(C, width), B), {**tile.launch(), "BO": width}


def launch_forward(
    x_hat: Tensor, queries: Tensor, mask: Tensor, tile: Tile | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """As in :func:`~medgraft.adapters.kernels.perceiver.op.absorbed_attention`, in Triton.

    Args:
        x_hat: ``[B, N, C]``.
        queries: ``[B, Q, C]``, scaled.
        mask: ``bool [B, N]``, true for tokens to attend to.
        tile: Overrides the tuned one.

    Returns:
        The attended tokens ``[B, Q, C]``, the log-sum-exp ``float32 [B, Q]``, and empty weights ``[B, 0, 0]``.
    """
    grid, options = _plan(x_hat, queries, tile, TILES)
    (B, Q, C), N = queries.shape, x_hat.shape[1]
    x_hat, queries, mask = x_hat.contiguous(), queries.contiguous(), mask.contiguous().view(torch.int8)
    context, lse = torch.empty_like(queries), queries.new_empty(B, Q, dtype=torch.float32)
    attention_kernel[grid](x_hat, queries, mask, context, lse, N, Q, C, **options)
    return context, lse, queries.new_empty(B, 0, 0)


def launch_backward(
    d_context: Tensor, d_lse: Tensor, x_hat: Tensor, queries: Tensor, mask: Tensor, context: Tensor, lse: Tensor,
    weights: Tensor, tile: Tile | None = None,
) -> Tensor:  # fmt: skip
    """Gradient of the queries, ``[B, Q, C]``, in Triton.

    Args:
        d_context: ``[B, Q, C]``.
        d_lse: ``float32 [B, Q]``.
        x_hat: ``[B, N, C]``.
        queries: ``[B, Q, C]``.
        mask: ``bool [B, N]``.
        context: ``[B, Q, C]``.
        lse: ``float32 [B, Q]``.
        weights: Empty; not read.
        tile: Overrides the tuned one.
    """
    grid, options = _plan(x_hat, queries, tile, BACKWARD_TILES)
    (_, Q, C), N = queries.shape, x_hat.shape[1]
    x_hat, queries, d_context, mask = (x.contiguous() for x in (x_hat, queries, d_context, mask))
    term = ((d_context * context).sum(-1, dtype=d_lse.dtype) - d_lse).contiguous()
    d_queries = torch.empty_like(queries)
    attention_backward_kernel[grid](
        x_hat, queries, mask.view(torch.int8), d_context, lse, term, d_queries, N, Q, C, **options
    )
    return d_queries


def traffic(B: int, N: int, Q: int, C: int, itemsize: int, tile: Tile, backward: bool) -> tuple[int, int]:
    """Bytes that one launch loads and stores, caches left out of the account."""
    blocks, sweeps = cdiv(Q, tile.blocks["BM"]), cdiv(N, tile.blocks["BN"])
    slices = cdiv(C, min(tile.blocks["BO"], max(16, next_power_of_2(C))))
    rows = (2 if backward else 1) * sweeps * Q * C
    loaded = (slices * (rows + blocks * N * C) + blocks * N * C) * itemsize + slices * blocks * N
    vectors = slices * 2 * Q * 4 if backward else 0
    return B * (loaded + vectors), B * (Q * C * itemsize + (0 if backward else Q * 4))


def _variants() -> list[Variant]:
    variants, sizes = [], {**dict.fromkeys(("N", "Q", "C"), "i32"), "MASK": "*i8"}
    for kind, forward, backward in (("bf16", TILES, BACKWARD_TILES), ("fp32", TILES_FP32, TILES_FP32)):
        types = dict.fromkeys(("X", "QUERIES", "CONTEXT", "DCONTEXT", "DQUERIES"), f"*{kind}")
        every = {**types, **sizes, "LSE": "*fp32", "ROWTERM": "*fp32"}
        for kernel, tiles in ((attention_kernel, forward), (attention_backward_kernel, backward)):
            variants.append(Variant(kernel, every, {}, tiles, ("N", "Q", "C"), True, kind))
    return variants


VARIANTS = _variants()
