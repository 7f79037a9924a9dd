"""Triton kernels of :mod:`medgraft.adapters.kernels.packed_lora.op`: the update in place, and all small gradients."""

from __future__ import annotations

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

WIDEST_RANK = 32


@jit
def epilogue_kernel(
    HIDDEN, B, Y, STARTS, M, W, R, scaling, OUT,
    PRECISION: tl.constexpr, BM: tl.constexpr, BW: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """``Y[:, rows_p] += scaling * hidden_p B_p^T``, all ranges in one launch."""
    p = tl.program_id(2)
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.program_id(1) * BW + tl.arange(0, BW)
    r = tl.arange(0, BR)
    row_ok, column_ok, r_ok = row < M, column < W, r < R
    hidden = tl.load(
        HIDDEN + row.to(tl.int64)[:, None] * (tl.num_programs(2) * R) + p * R + r[None, :],
        mask=row_ok[:, None] & r_ok[None, :], other=0.0,
    )  # fmt: skip
    b = tl.load(B + (p * W + column)[None, :] * R + r[:, None], mask=column_ok[None, :] & r_ok[:, None], other=0.0)
    start = tl.load(STARTS + p)
    place = Y + row.to(tl.int64)[:, None] * OUT + start + column[None, :]
    inside = row_ok[:, None] & column_ok[None, :]
    y = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    y += scaling * tl.dot(hidden, b, input_precision=PRECISION)
    tl.store(place, y.to(Y.dtype.element_ty), mask=inside)


@jit
def gradient_kernel(
    X, DY, HIDDEN, B, DHIDDEN, DA, DB, STARTS, M, D, W, R, scaling, OUT, BLOCKS,
    PRECISION: tl.constexpr, BM: tl.constexpr, BK: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """A program's share of ``dA_p`` and ``dB_p`` over its blocks of rows, and their ``d_hidden``."""
    program, p = tl.program_id(0), tl.program_id(1)
    n_programs, P = tl.num_programs(0), tl.num_programs(1)
    r, k = tl.arange(0, BR), tl.arange(0, BK)
    r_ok = r < R
    start = tl.load(STARTS + p)
    da = DA + (program * P + p).to(tl.int64) * R * D
    db = DB + (program * P + p).to(tl.int64) * W * R
    for block in range(program, BLOCKS, n_programs):
        row = (block * BM + tl.arange(0, BM)).to(tl.int64)
        row_ok = row < M
        of_hidden = row[:, None] * (P * R) + p * R + r[None, :]
        hidden_ok = row_ok[:, None] & r_ok[None, :]
        hidden = tl.load(HIDDEN + of_hidden, mask=hidden_ok, other=0.0)
        d_hidden = tl.zeros((BM, BR), tl.float32)
        for at in range(0, W, BK):
            ok = (at + k) < W
            dy = tl.load(
                DY + row[:, None] * OUT + start + (at + k)[None, :], mask=row_ok[:, None] & ok[None, :], other=0.0
            )
            b = tl.load(B + (p * W + at + k)[:, None] * R + r[None, :], mask=ok[:, None] & r_ok[None, :], other=0.0)
            d_hidden = tl.dot(dy, b, d_hidden, input_precision=PRECISION)
            share = scaling * tl.dot(tl.trans(dy), hidden, input_precision=PRECISION)
            place, inside = db + (at + k)[:, None] * R + r[None, :], ok[:, None] & r_ok[None, :]
            # The program's own slab: the first block writes it, later ones add, and no other program touches it.
            share += tl.load(place, mask=inside & (block != program), other=0.0)
            tl.store(place, share, mask=inside)
        narrow = (d_hidden * scaling).to(DHIDDEN.dtype.element_ty)
        tl.store(DHIDDEN + of_hidden, narrow, mask=hidden_ok)
        for at in range(0, D, BK):
            ok = (at + k) < D
            x = tl.load(X + row[:, None] * D + (at + k)[None, :], mask=row_ok[:, None] & ok[None, :], other=0.0)
            share = tl.dot(tl.trans(narrow), x, input_precision=PRECISION)
            place, inside = da + r[:, None] * D + (at + k)[None, :], r_ok[:, None] & ok[None, :]
            share += tl.load(place, mask=inside & (block != program), other=0.0)
            tl.store(place, share, mask=inside)


EPILOGUE_TILES: Tuned = dict.fromkeys(TARGETS, Tile({"BM": 64, "BW": 64}, 4, 1))
GRADIENT_TILES: Tuned = dict.fromkeys(EPILOGUE_TILES, Tile({"BM": 64, "BK": 32}, 4, 1))
GRADIENT_TILES_FP32: Tuned = dict.fromkeys(GRADIENT_TILES, Tile({"BM": 32, "BK": 32}, 4, 1))
EPILOGUE_TILES_FP32: Tuned = dict.fromkeys(GRADIENT_TILES, Tile({"BM": 32, "BW": 64}, 4, 1))
MOST_PROGRAMS = 64


def launch_epilogue(
    hidden: Tensor, B: Tensor, y: Tensor, starts: list[int], scaling: float, tile: Tile | None = None
) -> None:
    """Adds every range's ``scaling * hidden_p B_p^T`` to ``y [..., O]`` in place; ``tile`` overrides the tuned one."""
    tile = tile or tuned_for(EPILOGUE_TILES_FP32 if y.dtype == torch.float32 else EPILOGUE_TILES, y.device)
    P, W, R = B.shape
    M, rows = len(hidden), torch.tensor(starts, dtype=torch.int32, device=y.device)
    grid = (cdiv(M, tile.blocks["BM"]), cdiv(W, tile.blocks["BW"]), P)
    epilogue_kernel[grid](
        hidden, B.contiguous(), y, rows, M, W, R, scaling, y.shape[-1], BR=_padded(R), **tile.launch()
    )


def launch_gradients(
    d_y: Tensor, x: Tensor, B: Tensor, hidden: Tensor, starts: list[int], scaling: float, tile: Tile | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``hidden``, ``A`` and ``B`` in one kernel; the weights' in float32.

    Args:
        d_y: ``[M, O]``.
        x: ``[M, D]``.
        B: ``[P, w, r]``.
        hidden: ``[M, P r]``.
        starts: First row of each range.
        scaling: Factor on the updates.
        tile: Overrides the tuned one.
    """
    tile = tile or tuned_for(GRADIENT_TILES_FP32 if x.dtype == torch.float32 else GRADIENT_TILES, x.device)
    d_y, x = d_y.contiguous(), x.contiguous()
    (P, W, R), (M, D) = B.shape, x.shape
    blocks = cdiv(M, tile.blocks["BM"])
    programs = min(blocks, MOST_PROGRAMS)
    d_hidden = torch.empty_like(hidden)
    d_a = x.new_empty(programs, P, R, D, dtype=torch.float32)
    d_b = x.new_empty(programs, P, W, R, dtype=torch.float32)
    rows = torch.tensor(starts, dtype=torch.int32, device=x.device)
    gradient_kernel[(programs, P)](
        x, d_y, hidden, B.contiguous(), d_hidden, d_a, d_b, rows, M, D, W, R, scaling, d_y.shape[1], blocks,
        BR=_padded(R), **tile.launch(),
    )  # fmt: skip
    return d_hidden, d_a.sum(0), d_b.sum(0)


def _padded(R: int) -> int:
    return max(16, next_power_of_2(R))


def forward_traffic(M: int, P: int, W: int, R: int, itemsize: int, tile: Tile) -> tuple[int, int]:
    """Bytes that the epilogue kernel loads and stores; the library's products before it are not counted."""
    blocks, slices = cdiv(M, tile.blocks["BM"]), cdiv(W, tile.blocks["BW"])
    loaded = P * (slices * M * R + blocks * W * R + M * W) * itemsize + blocks * slices * P * 4
    return loaded, P * M * W * itemsize


def backward_traffic(M: int, D: int, P: int, W: int, R: int, itemsize: int, tile: Tile) -> tuple[int, int]:
    """Bytes that the gradient kernel loads and stores; ``x`` and ``dY`` count once per range."""
    blocks = cdiv(M, tile.blocks["BM"])
    programs = min(blocks, MOST_PROGRAMS)
    slabs = P * R * (D + W) * 4
    loaded = P * (M * (D + W + R) + blocks * W * R) * itemsize + (blocks - programs) * slabs + programs * P * 4
    return loaded, blocks * slabs + M * P * R * itemsize


def _variants() -> list[Variant]:
    variants = []
    for kind, epilogue, gradient in (
        ("bf16", EPILOGUE_TILES, GRADIENT_TILES),
        ("fp32", EPILOGUE_TILES_FP32, GRADIENT_TILES_FP32),
    ):
        sizes = {**dict.fromkeys(("M", "D", "W", "R", "OUT", "BLOCKS"), "i32"), "scaling": "fp32", "STARTS": "*i32"}
        types = dict.fromkeys(("X", "DY", "HIDDEN", "B", "Y", "DHIDDEN"), f"*{kind}")
        every = {**types, **sizes, "DA": "*fp32", "DB": "*fp32"}
        aligned = ("D", "W", "R", "OUT")
        # The widest rank that is taken; smaller ones need less.
        variants.append(Variant(epilogue_kernel, every, {"BR": WIDEST_RANK}, epilogue, aligned, True, kind))
        variants.append(Variant(gradient_kernel, every, {"BR": WIDEST_RANK}, gradient, aligned, True, kind))
    return variants


VARIANTS = _variants()
