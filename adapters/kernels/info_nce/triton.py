"""The Triton kernels of :mod:`medgraft.adapters.kernels.info_nce.op`: row log-sum-exps, and gradients tile by tile."""

from __future__ import annotations

import torch
from torch import Tensor

from medgraft.ops.triton_runtime import Tile, Tuned, Variant, cdiv, jit, next_power_of_2, tl, tuned_for


@jit
def lse_kernel(
    X, Y, IDS, LSE, SCALE, N, C, sxn, sxc, syn, syc,
    PRECISION: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Log-sum-exp of ``BM`` rows of ``scale * X Y^T`` over tiles of ``BN`` columns; run twice, roles swapped."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    row_ok = row < N
    row_id = tl.load(IDS + row, mask=row_ok, other=0)
    scale = tl.load(SCALE)
    c = tl.arange(0, BC)
    top = tl.full((BM,), -1e30, tl.float32)
    total = tl.zeros((BM,), tl.float32)
    for start in range(0, N, BN):
        column = start + tl.arange(0, BN)
        column_ok = column < N
        logits = tl.zeros((BM, BN), tl.float32)
        for at in range(0, C, BC):
            c_ok = (at + c) < C
            x = tl.load(
                X + row.to(tl.int64)[:, None] * sxn + (at + c)[None, :] * sxc,
                mask=row_ok[:, None] & c_ok[None, :], other=0.0,
            )  # fmt: skip
            y = tl.load(
                Y + column.to(tl.int64)[None, :] * syn + (at + c)[:, None] * syc,
                mask=column_ok[None, :] & c_ok[:, None], other=0.0,
            )  # fmt: skip
            logits = tl.dot(x, y, logits, input_precision=PRECISION)
        column_id = tl.load(IDS + column, mask=column_ok, other=0)
        out = (row_id[:, None] == column_id[None, :]) & (row[:, None] != column[None, :])
        # A finite floor: the running maximum of a row without a single pair so far must not be -inf - -inf.
        logits = tl.where(out | (column >= N)[None, :], -1e30, logits * scale)
        higher = tl.maximum(top, tl.max(logits, 1))
        kept = tl.where(logits > -1e29, tl.exp(logits - higher[:, None]), 0.0)
        total = total * tl.exp(top - higher) + tl.sum(kept, 1)
        top = higher
    tl.store(LSE + row, top + tl.log(total), mask=row_ok)


@jit
def grad_kernel(
    X, Y, IDS, LSE_X, LSE_Y, SCALE, GRAD, DX, DSCALE, N, C, sxn, sxc, syn, syc,
    STORE_SCALE: tl.constexpr, PRECISION: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr, BO: tl.constexpr,
):  # fmt: skip
    """``dX = scale * G Y`` for ``BM`` rows and ``BO`` of their columns, and the rows' share of ``dscale``."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    row_ok = row < N
    row_id = tl.load(IDS + row, mask=row_ok, other=0)
    row_lse = tl.load(LSE_X + row, mask=row_ok, other=0.0)
    scale = tl.load(SCALE)
    grad = tl.load(GRAD)
    c = tl.arange(0, BC)
    o = tl.program_id(1) * BO + tl.arange(0, BO)
    acc = tl.zeros((BM, BO), tl.float32)
    for start in range(0, N, BN):
        column = start + tl.arange(0, BN)
        column_ok = column < N
        logits = tl.zeros((BM, BN), tl.float32)
        for at in range(0, C, BC):
            c_ok = (at + c) < C
            x = tl.load(
                X + row.to(tl.int64)[:, None] * sxn + (at + c)[None, :] * sxc,
                mask=row_ok[:, None] & c_ok[None, :], other=0.0,
            )  # fmt: skip
            y = tl.load(
                Y + column.to(tl.int64)[None, :] * syn + (at + c)[:, None] * syc,
                mask=column_ok[None, :] & c_ok[:, None], other=0.0,
            )  # fmt: skip
            logits = tl.dot(x, y, logits, input_precision=PRECISION)
        logits *= scale
        column_id = tl.load(IDS + column, mask=column_ok, other=0)
        column_lse = tl.load(LSE_Y + column, mask=column_ok, other=0.0)
        out = (row_id[:, None] == column_id[None, :]) & (row[:, None] != column[None, :])
        out = out | (column >= N)[None, :] | (row >= N)[:, None]
        weight = tl.exp(logits - row_lse[:, None]) + tl.exp(logits - column_lse[None, :])
        weight = tl.where(out, 0.0, weight)
        whole = tl.load(
            Y + column.to(tl.int64)[:, None] * syn + o[None, :] * syc,
            mask=column_ok[:, None] & (o < C)[None, :], other=0.0,
        )  # fmt: skip
        acc = tl.dot(weight.to(whole.dtype), whole, acc, input_precision=PRECISION)
    inside = row_ok[:, None] & (o < C)[None, :]
    partner = tl.load(Y + row.to(tl.int64)[:, None] * syn + o[None, :] * syc, mask=inside, other=0.0)
    acc = (acc - 2.0 * partner.to(tl.float32)) * grad / (2.0 * N)
    if STORE_SCALE:
        mine = tl.load(X + row.to(tl.int64)[:, None] * sxn + o[None, :] * sxc, mask=inside, other=0.0)
        share = tl.sum(acc * mine.to(tl.float32), 1)
        tl.store(DSCALE + tl.program_id(1).to(tl.int64) * N + row, share, mask=row_ok)
    tl.store(DX + row.to(tl.int64)[:, None] * C + o[None, :], (acc * scale).to(DX.dtype.element_ty), mask=inside)


# Float32 takes twice the registers and the memory, hence smaller tiles.
LSE_TILES: Tuned = {
    "sm_80": Tile({"BM": 128, "BN": 128, "BC": 32}, 8, 3),
    "sm_90": Tile({"BM": 128, "BN": 128, "BC": 64}, 8, 3),
    "sm_100": Tile({"BM": 128, "BN": 128, "BC": 64}, 8, 3),
    "gfx942": Tile({"BM": 64, "BN": 64, "BC": 64}, 4, 2),
}
LSE_TILES_FP32: Tuned = dict.fromkeys(LSE_TILES, Tile({"BM": 32, "BN": 32, "BC": 32}, 4, 2))
GRAD_TILES: Tuned = {
    "sm_80": Tile({"BM": 64, "BN": 64, "BC": 64, "BO": 256}, 8, 2),
    "sm_90": Tile({"BM": 64, "BN": 64, "BC": 64, "BO": 256}, 8, 2),
    "sm_100": Tile({"BM": 64, "BN": 64, "BC": 64, "BO": 256}, 8, 2),
    "gfx942": Tile({"BM": 64, "BN": 32, "BC": 64, "BO": 256}, 4, 1),
}
GRAD_TILES_FP32: Tuned = dict.fromkeys(GRAD_TILES, Tile({"BM": 32, "BN": 32, "BC": 32, "BO": 64}, 4, 2))


def launch_forward(
    image: Tensor, text: Tensor, scale: Tensor, ids: Tensor, tile: Tile | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss, a scalar, and row and column log-sum-exp ``[N]`` each, in Triton and float32.

    Args:
        image: ``[N, C]``.
        text: ``[N, C]``.
        scale: Scalar tensor, float32.
        ids: ``[N]``, int32, equal for pairs to leave out.
        tile: Overrides the tuned one.
    """
    N, C = image.shape
    table = LSE_TILES_FP32 if image.dtype == torch.float32 else LSE_TILES
    tile = tile or tuned_for(table, image.device)
    row_lse, column_lse = (image.new_empty(N, dtype=torch.float32) for _ in range(2))
    for x, y, lse in ((image, text, row_lse), (text, image, column_lse)):
        lse_kernel[(cdiv(N, tile.blocks["BM"]),)](
            x, y, ids, lse, scale, N, C, *x.stride(), *y.stride(), **tile.launch()
        )
    positive = (image.float() * text.float()).sum(1) * scale
    return (row_lse + column_lse - 2 * positive).mean() / 2, row_lse, column_lse


def launch_backward(
    grad: Tensor,
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    ids: Tensor,
    row_lse: Tensor,
    column_lse: Tensor,
    tile: Tile | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of ``image [N, C]``, ``text [N, C]`` and ``scale``, a scalar (float32), in Triton.

    Args:
        grad: Of the loss, a scalar.
        image: ``[N, C]``.
        text: ``[N, C]``.
        scale: Scalar tensor, float32.
        ids: ``[N]``, int32.
        row_lse: ``[N]``, float32.
        column_lse: ``[N]``, float32.
        tile: Overrides the tuned one.
    """
    N, C = image.shape
    table = GRAD_TILES_FP32 if image.dtype == torch.float32 else GRAD_TILES
    tile = tile or tuned_for(table, image.device)
    width = min(tile.blocks["BO"], max(16, next_power_of_2(C)))
    grid = (cdiv(N, tile.blocks["BM"]), cdiv(C, width))
    options = {**tile.launch(), "BO": width}
    d_image, d_text = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (image, text))
    shares = image.new_empty(grid[1], N, dtype=torch.float32)
    for x, y, mine, other, out in (
        (image, text, row_lse, column_lse, d_image),
        (text, image, column_lse, row_lse, d_text),
    ):
        grad_kernel[grid](
            x, y, ids, mine, other, scale, grad, out, shares, N, C, *x.stride(), *y.stride(),
            STORE_SCALE=x is image, **options,
        )  # fmt: skip
    return d_image, d_text, shares.sum()


def forward_traffic(N: int, C: int, itemsize: int, tile: Tile) -> tuple[int, int]:
    """Bytes that :func:`launch_forward`'s kernels load and store, caches left out of the account."""
    blocks, sweeps = cdiv(N, tile.blocks["BM"]), cdiv(N, tile.blocks["BN"])
    loaded = (sweeps + blocks) * N * C * itemsize + (1 + blocks) * N * 4 + blocks * 4
    return 2 * loaded, 2 * N * 4


def backward_traffic(N: int, C: int, itemsize: int, tile: Tile) -> tuple[int, int]:
    """Bytes that :func:`launch_backward`'s kernels load and store, caches left out of the account."""
    blocks, sweeps = cdiv(N, tile.blocks["BM"]), cdiv(N, tile.blocks["BN"])
    slices = cdiv(C, min(tile.blocks["BO"], max(16, next_power_of_2(C))))
    matrices = (slices * (sweeps + blocks) + blocks + 1) * N * C * itemsize
    vectors = slices * (2 * (1 + blocks) * N * 4 + blocks * 8)
    shares = N * C * itemsize  # the image's launch reads its rows once more, for the gradient of the scale
    return 2 * (matrices + vectors) + shares, 2 * N * C * itemsize + slices * N * 4


def _variants() -> list[Variant]:
    variants = []
    for kind, label, lse, grad in (
        ("bf16", "bf16", LSE_TILES, GRAD_TILES),
        ("fp32", "fp32", LSE_TILES_FP32, GRAD_TILES_FP32),
    ):
        common = {"X": f"*{kind}", "Y": f"*{kind}", "IDS": "*i32", "SCALE": "*fp32"}
        sizes = dict.fromkeys(("N", "C", "sxn", "syn"), "i32")
        unit = {"sxc": 1, "syc": 1}
        aligned = ("N", "C", "sxn", "syn")
        variants.append(Variant(lse_kernel, {**common, "LSE": "*fp32", **sizes}, unit, lse, aligned, True, label))
        types = {**common, **dict.fromkeys(("LSE_X", "LSE_Y", "GRAD", "DSCALE"), "*fp32"), "DX": f"*{kind}", **sizes}
        variants.append(Variant(grad_kernel, types, {**unit, "STORE_SCALE": True}, grad, aligned, True, label))
    return variants


VARIANTS = _variants()
