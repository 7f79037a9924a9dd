"""The Triton kernels of :mod:`medgraft.adapters.kernels.hypergraph.op`: hyperedges made and gathered on chip."""

from __future__ import annotations

import torch
from torch import Tensor

from medgraft.ops.triton_runtime import Tile, Tuned, Variant, cdiv, jit, next_power_of_2, tl, tuned_for


@jit
def hyperedge_kernel(
    X, UNIT, SCORES, EDGES, H, N, C, K,
    PRECISION: tl.constexpr, BM: tl.constexpr, NP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """``BM`` rows of ``H`` and of ``H X``: similarities, ``K`` rounds of arg-max, softmax, product."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.arange(0, NP)
    c = tl.arange(0, BC)
    row_ok, column_ok = row < N, column < N
    floor = float("-inf")
    # Every program repeats the selection of CLS, which is one row, since column 0 of its own rows needs it.
    left = tl.load(SCORES + batch * (N - 1) + column - 1, mask=column_ok & (column > 0), other=floor).to(tl.float32)
    best = tl.max(left, 0)
    cls = tl.zeros((NP,), tl.float32)
    for _ in range(K):
        pick = (column == tl.argmax(left, 0)) & (left > floor)
        cls = tl.where(pick, tl.exp(left - best), cls)
        left = tl.where(pick, floor, left)
    total = tl.sum(cls, 0)
    cls = cls / tl.where(total > 0, total, 1.0)  # pyright: ignore
    similarity = tl.zeros((BM, NP), tl.float32)
    for at in range(0, C, BC):
        c_ok = (at + c) < C
        mine = tl.load(
            UNIT + (batch * N + row)[:, None] * C + (at + c)[None, :], mask=row_ok[:, None] & c_ok[None, :], other=0.0
        )
        node = (batch * N + column)[None, :] * C + (at + c)[:, None]
        other = tl.load(UNIT + node, mask=column_ok[None, :] & c_ok[:, None], other=0.0)
        similarity = tl.dot(mine, other, similarity, input_precision=PRECISION)
    out = (column == 0)[None, :] | (column >= N)[None, :] | (row[:, None] == column[None, :])
    rest = tl.where(out, floor, similarity)
    top = tl.max(rest, 1)
    weight = tl.zeros((BM, NP), tl.float32)
    for _ in range(K):
        chosen = (column[None, :] == tl.argmax(rest, 1)[:, None]) & (rest > floor)
        weight = tl.where(chosen, tl.exp(similarity - top[:, None]), weight)  # pyright: ignore
        rest = tl.where(chosen, floor, rest)
    total_row = tl.sum(weight, 1)
    weight = weight / tl.where(total_row > 0, total_row, 1.0)[:, None]  # pyright: ignore
    of_cls = tl.sum(tl.where(column[None, :] == row[:, None], cls[None, :], 0.0), 1)
    weight = tl.where((row == 0)[:, None], cls[None, :], weight)
    weight = tl.where((column == 0)[None, :], of_cls[:, None], weight)  # pyright: ignore
    weight = tl.where(row[:, None] == column[None, :], 1.0, weight)
    stored = weight.to(H.dtype.element_ty)
    tl.store(H + (batch * N + row)[:, None] * N + column[None, :], stored, mask=row_ok[:, None] & column_ok[None, :])
    for at in range(0, C, BC):
        c_ok = (at + c) < C
        node = (batch * N + column)[:, None] * C + (at + c)[None, :]
        x = tl.load(X + node, mask=column_ok[:, None] & c_ok[None, :], other=0.0)
        gathered = tl.dot(stored, x, input_precision=PRECISION)
        tl.store(
            EDGES + (batch * N + row)[:, None] * C + (at + c)[None, :], gathered.to(EDGES.dtype.element_ty),
            mask=row_ok[:, None] & c_ok[None, :],
        )  # fmt: skip


@jit
def hyperedge_backward_kernel(
    DEDGES, DH, X, H, CHANGE, ROW, COLUMN, N, C,
    PRECISION: tl.constexpr, BM: tl.constexpr, NP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradient of ``BM`` rows of similarities; ``ROW`` and ``COLUMN`` get row 0 and column 0 of that of ``H``."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.arange(0, NP)
    c = tl.arange(0, BC)
    row_ok, column_ok = row < N, column < N
    inside = row_ok[:, None] & column_ok[None, :]
    place = (batch * N + row)[:, None] * N + column[None, :]
    change = tl.load(DH + place, mask=inside, other=0.0).to(tl.float32)
    for at in range(0, C, BC):
        c_ok = (at + c) < C
        g = tl.load(
            DEDGES + (batch * N + row)[:, None] * C + (at + c)[None, :], mask=row_ok[:, None] & c_ok[None, :], other=0.0
        )
        node = (batch * N + column)[None, :] * C + (at + c)[:, None]
        x = tl.load(X + node, mask=column_ok[None, :] & c_ok[:, None], other=0.0)
        change = tl.dot(g, x, change, input_precision=PRECISION)
    at_cls = tl.sum(tl.where((column == 0)[None, :], change, 0.0), 1)
    tl.store(COLUMN + batch * N + row, at_cls, mask=row_ok)
    tl.store(ROW + batch * N + column[None, :] + 0 * row[:, None], change, mask=inside & (row == 0)[:, None])
    weight = tl.load(H + place, mask=inside, other=0.0).to(tl.float32)
    fixed = (row[:, None] == column[None, :]) | (column == 0)[None, :] | (row == 0)[:, None]
    weight = tl.where(fixed, 0.0, weight)
    mean = tl.sum(weight * change, 1)
    change = weight * (change - mean[:, None])  # pyright: ignore
    tl.store(CHANGE + place, change.to(CHANGE.dtype.element_ty), mask=inside)


MOST_TOKENS = 256
_TILE = Tile({"BM": 16, "BC": 32}, 4, 2)
TILES: Tuned = {**dict.fromkeys(("sm_80", "sm_90", "sm_100"), _TILE), "gfx942": Tile({"BM": 16, "BC": 32}, 4, 1)}
TILES_FP32: Tuned = {
    **dict.fromkeys(("sm_80", "sm_90"), Tile({"BM": 16, "BC": 16}, 8, 2)),
    "sm_100": Tile({"BM": 16, "BC": 32}, 8, 1),
    "gfx942": Tile({"BM": 16, "BC": 16}, 4, 1),
}


def _tile(tokens: Tensor) -> Tile:
    return tuned_for(TILES_FP32 if tokens.dtype == torch.float32 else TILES, tokens.device)


def launch_forward(
    tokens: Tensor, unit: Tensor, scores: Tensor, top_k: int, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """``H X`` ``[B, N, C]`` and ``H`` ``[B, N, N]`` in Triton.

    Args:
        tokens: ``[B, N, C]``, CLS first.
        unit: The same at unit length.
        scores: ``[B, N - 1]``.
        top_k: Members of a hyperedge besides its centre.
        tile: Overrides the tuned one.
    """
    B, N, C = tokens.shape
    tile = tile or _tile(tokens)
    tokens, unit, scores = (x.contiguous() for x in (tokens, unit, scores))
    edges, matrix = torch.empty_like(tokens), tokens.new_empty(B, N, N)
    grid = (cdiv(N, tile.blocks["BM"]), B)
    hyperedge_kernel[grid](tokens, unit, scores, edges, matrix, N, C, min(top_k, N), NP=_padded(N), **tile.launch())
    return edges, matrix


def launch_backward(
    d_edges: Tensor, d_matrix: Tensor, tokens: Tensor, matrix: Tensor, tile: Tile | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of the similarities ``[B, N, N]``, and row 0 and column 0 of that of ``H`` ``[B, N]`` (float32)."""
    B, N, C = tokens.shape
    tile = tile or _tile(tokens)
    d_edges, d_matrix, tokens, matrix = (x.contiguous() for x in (d_edges, d_matrix, tokens, matrix))
    change = torch.empty_like(matrix)
    row, column = (tokens.new_empty(B, N, dtype=torch.float32) for _ in range(2))
    grid = (cdiv(N, tile.blocks["BM"]), B)
    hyperedge_backward_kernel[grid](
        d_edges, d_matrix, tokens, matrix, change, row, column, N, C, NP=_padded(N), **tile.launch()
    )
    return change, row, column


def _padded(N: int) -> int:
    return max(16, next_power_of_2(N))


def forward_traffic(B: int, N: int, C: int, itemsize: int, tile: Tile) -> tuple[int, int]:
    """Bytes that :func:`launch_forward`'s kernel loads and stores, caches left out of the account."""
    blocks = cdiv(N, tile.blocks["BM"])
    loaded = blocks * (N - 1) + N * C + 2 * blocks * N * C
    return B * loaded * itemsize, B * (N * C + N * N) * itemsize


def backward_traffic(B: int, N: int, C: int, itemsize: int, tile: Tile) -> tuple[int, int]:
    """The same of :func:`launch_backward`'s kernel."""
    blocks = cdiv(N, tile.blocks["BM"])
    return B * (2 * N * N + N * C + blocks * N * C) * itemsize, B * (N * N * itemsize + 2 * N * 4)


def _variants() -> list[Variant]:
    variants, sizes = [], {"N": "i32", "C": "i32", "K": "i32"}
    for kind, tiles in (("bf16", TILES), ("fp32", TILES_FP32)):
        forward = {**dict.fromkeys(("X", "UNIT", "SCORES", "EDGES", "H"), f"*{kind}"), **sizes}
        back = {**dict.fromkeys(("DEDGES", "DH", "X", "H", "CHANGE"), f"*{kind}"), "ROW": "*fp32", "COLUMN": "*fp32"}
        # The most tokens that are taken; fewer need less.
        variants.append(Variant(hyperedge_kernel, forward, {"NP": MOST_TOKENS}, tiles, ("C",), True, kind))
        variants.append(
            Variant(hyperedge_backward_kernel, {**back, **sizes}, {"NP": MOST_TOKENS}, tiles, ("C",), True, kind)
        )
    return variants


VARIANTS = _variants()
