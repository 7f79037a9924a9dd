"""Label-guided InfoNCE that never holds the ``N x N`` matrix, forward or backward.

The loss of Aydin et al., "ACE-LoRA", 2026 (arXiv 2603.17079), as :func:`medgraft.losses.label_guided_info_nce` defines
it (the reference here). With ``S = scale * I T^T`` and pairs of equal labels left out, ``r_i`` and ``c_j`` the
log-sum-exp of its rows and columns:

    loss = mean_i(r_i + c_i - 2 S_ii) / 2
    G_ij = (exp(S_ij - r_i) + exp(S_ij - c_j) - 2 [i = j]) / 2N,   dI = scale * G T,   dT = scale * G^T I

Both passes build ``S`` tile by tile and drop it, as Cheng et al., "Breaking the Memory Barrier: Near Infinite Batch
Size Scaling for Contrastive Loss" (Inf-CL), 2024 (arXiv 2410.17243), do for the plain loss. What is kept between them
are ``r`` and ``c``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medgraft.adapters.kernels import backends
from medgraft.adapters.kernels.backends import Backend
from medgraft.adapters.kernels.triton_runtime import Tile, Tuned, Variant, cdiv, jit, next_power_of_2, tl, tuned_for
from medgraft.errors import ConfigError
from medgraft.losses import label_guided_info_nce as reference

ROWS, COLUMNS = 256, 2048
# exp(-2 * 40) and exp(2 * 40) are normal float32 numbers, so one exponential serves rows and columns alike.
SAFE_BOUND = 40.0
WIDEST = 1024


def label_info_nce(
    image: Tensor,
    text: Tensor,
    scale: Tensor | float,
    labels: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """:func:`medgraft.losses.label_guided_info_nce` in the form that ``backend`` names.

    Args:
        image: Unit embeddings ``[N, C]``.
        text: Unit embeddings ``[N, C]``, row ``i`` the partner of image ``i``.
        scale: Multiplier of the cosine similarity (already exponentiated).
        labels: Label vectors ``[N, L]``; ``None`` removes no pair.
        backend: ``eager``, ``compile``, ``fused`` or ``auto``.

    Returns:
        The mean over both directions, a scalar; float32 in the fused form of half-precision embeddings.

    Raises:
        ConfigError: The shapes disagree.

    Example:
        >>> unit = torch.eye(3)
        >>> round(label_info_nce(unit, unit, 1.0, backend="fused").item(), 4)
        0.5514
    """
    if image.ndim != 2 or image.shape != text.shape or (labels is not None and len(labels) != len(image)):
        of_labels = "no labels" if labels is None else f"labels {tuple(labels.shape)}"
        raise ConfigError(
            f"info_nce: image {tuple(image.shape)}, text {tuple(text.shape)} and {of_labels} must be "
            "[N, C], [N, C] and [N, L]"
        )
    form = backends.choose("info_nce", backend, _obstacle(image, text))
    if form == "eager":
        return reference(image, text, scale, labels)
    if form == "compile":
        return backends.compiled(reference)(image, text, scale, labels)
    kind = backends.accumulator(image.dtype)
    factor = torch.as_tensor(scale, dtype=kind, device=image.device).reshape(())
    ids = torch.arange(len(image), dtype=torch.int32, device=image.device) if labels is None else label_ids(labels)
    return info_nce_forward(image, text, factor, ids)[0]


def _obstacle(image: Tensor, text: Tensor) -> str | None:
    if image.shape[0] == 0:
        return "the batch is empty"
    if image.device.type == "cuda" and image.shape[1] > WIDEST:
        return f"embeddings of width {image.shape[1]}; the GPU kernel keeps whole rows and takes up to {WIDEST}"
    return backends.obstacle_of(image, text)


# Opaque, because the number of distinct rows inside depends on the values and would break a compiled graph.
@torch.library.custom_op("medgraft::label_ids", mutates_args=())
def label_ids(labels: Tensor) -> Tensor:
    """One integer per row of ``labels [N, L]``, equal where the rows are; a row with NaN equals no other.

    Returns:
        ``[N]``, int32.
    """
    _, ids = torch.unique(labels, dim=0, return_inverse=True)
    ids = ids.to(torch.int32)
    if labels.dtype.is_floating_point:
        own = -1 - torch.arange(len(labels), dtype=torch.int32, device=labels.device)
        ids = torch.where(labels.isnan().any(dim=1), own, ids)
    return ids.contiguous()


@label_ids.register_fake
def _(labels: Tensor) -> Tensor:
    return labels.new_empty(labels.shape[0], dtype=torch.int32)


label_ids.register_vmap(backends.loop_over_batch(label_ids))


@torch.library.custom_op("medgraft::info_nce", mutates_args=(), device_types="cpu")
def info_nce_forward(image: Tensor, text: Tensor, scale: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The loss and what its backward needs.

    Args:
        image: ``[N, C]``.
        text: ``[N, C]``.
        scale: Scalar tensor in the accumulator's type.
        ids: ``[N]``, int32, equal for pairs to leave out.

    Returns:
        The loss (a scalar), row and column log-sum-exp ``[N]`` each, all in the accumulator's type.
    """
    kind = backends.accumulator(image.dtype)
    bound = _bound(image, text, scale)
    positive = (image.to(kind) * text.to(kind)).sum(1) * scale
    if bound <= SAFE_BOUND:
        rows, columns = _bounded_sums(image, text, scale, ids, bound)
        row_lse, column_lse = rows.log().add_(bound), columns.log().add_(bound)
    else:
        row_lse, column_lse = _running_sums(image, text, scale, ids)
    return (row_lse + column_lse - 2 * positive).mean() / 2, row_lse, column_lse


def _bound(image: Tensor, text: Tensor, scale: Tensor) -> float:
    """No logit is larger than this, nor smaller than its negative (Cauchy-Schwarz); with room for rounding."""
    kind = backends.accumulator(image.dtype)
    longest = image.norm(dim=1, dtype=kind).max() * text.norm(dim=1, dtype=kind).max()
    return 1.01 * float(longest * scale.abs())


def _blocks(n: int):
    for start in range(0, n, ROWS):
        for first in range(0, n, COLUMNS):
            yield slice(start, min(start + ROWS, n)), slice(first, min(first + COLUMNS, n))


def _left_out(rows: slice, columns: slice, ids: Tensor) -> Tensor:
    """Pairs of a block to leave out, ``[rows, columns]``; the diagonal of the whole matrix stays."""
    same = ids[rows, None] == ids[columns]
    low, high = max(rows.start, columns.start), min(rows.stop, columns.stop)
    if low < high:
        same[low - rows.start : high - rows.start, low - columns.start : high - columns.start].fill_diagonal_(False)
    return same


def _bounded_exp(image: Tensor, text: Tensor, factor: float, bound: float, same: Tensor, shift: Tensor) -> Tensor:
    """``exp(S - bound)`` of a block, zero for the pairs left out, in the type of the embeddings."""
    block = torch.addmm(shift, image, text.T, alpha=factor)
    return block.exp_().masked_fill_(same, 0)


def _bounded_sums(image: Tensor, text: Tensor, scale: Tensor, ids: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    kind, n = backends.accumulator(image.dtype), len(image)
    rows, columns = (torch.zeros(n, dtype=kind) for _ in range(2))
    shift = image.new_full((), -bound)
    for r, c in _blocks(n):
        block = _bounded_exp(image[r], text[c], float(scale), bound, _left_out(r, c, ids), shift)
        rows[r] += block.sum(1, dtype=kind)
        columns[c] += block.sum(0, dtype=kind)
    return rows, columns


def _logits(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    block = (image @ text.T).to(scale.dtype).mul_(scale)
    return block.masked_fill_(same, float("-inf"))


def _running_sums(image: Tensor, text: Tensor, scale: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-sum-exp of rows and columns for logits of any size."""
    n = len(image)
    rows, columns = (torch.full((n,), float("-inf"), dtype=scale.dtype) for _ in range(2))
    for r, c in _blocks(n):
        block = _logits(image[r], text[c], scale, _left_out(r, c, ids))
        rows[r] = torch.logaddexp(rows[r], block.logsumexp(1))
        columns[c] = torch.logaddexp(columns[c], block.logsumexp(0))
    return rows, columns


@torch.library.custom_op("medgraft::info_nce_backward", mutates_args=(), device_types="cpu")
def info_nce_backward(
    grad: Tensor, image: Tensor, text: Tensor, scale: Tensor, ids: Tensor, row_lse: Tensor, column_lse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of the loss with respect to ``image``, ``text`` and ``scale``; arguments as in the forward."""
    kind, n = backends.accumulator(image.dtype), len(image)
    bound = _bound(image, text, scale)
    bounded = bound <= SAFE_BOUND
    shift = image.new_full((), -bound)
    a, b = ((bound - lse).exp() for lse in (row_lse, column_lse)) if bounded else (row_lse, column_lse)
    d_text = torch.zeros(text.shape, dtype=kind)
    d_image = torch.empty_like(image)
    d_scale = torch.zeros((), dtype=kind)
    for start in range(0, n, ROWS):
        r = slice(start, min(start + ROWS, n))
        acc = torch.zeros((r.stop - r.start, image.shape[1]), dtype=kind)
        for first in range(0, n, COLUMNS):
            c = slice(first, min(first + COLUMNS, n))
            same = _left_out(r, c, ids)
            if bounded:
                weight = (a[r, None] + b[c]).to(image.dtype)
                weight.mul_(_bounded_exp(image[r], text[c], float(scale), bound, same, shift))
            else:
                logits = _logits(image[r], text[c], scale, same)
                weight = ((logits - a[r, None]).exp_() + (logits - b[c]).exp_()).to(image.dtype)
            acc += weight @ text[c]
            d_text[c] += weight.T @ image[r]
        # The diagonal's -2 is added exactly, after the sums, since half precision would lose the rest beside it.
        acc -= 2 * text[r].to(kind)
        d_scale += (acc * image[r].to(kind)).sum()
        d_image[r] = acc * (grad * scale / (2 * n))
    d_text.sub_(image, alpha=2).mul_(grad * scale / (2 * n))
    return d_image, d_text.to(text.dtype), d_scale * grad / (2 * n)


@info_nce_forward.register_fake
def _(image: Tensor, text: Tensor, scale: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kind = backends.accumulator(image.dtype)
    return tuple(image.new_empty(shape, dtype=kind) for shape in ((), image.shape[:1], image.shape[:1]))  # pyright: ignore


@info_nce_backward.register_fake
def _(grad: Tensor, image: Tensor, text: Tensor, scale: Tensor, ids: Tensor, row_lse: Tensor, column_lse: Tensor):
    return torch.empty_like(image), torch.empty_like(text), torch.empty_like(scale)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *info_nce_backward(grad, *ctx.saved_tensors), None


info_nce_forward.register_autograd(_backward, setup_context=_save)
info_nce_forward.register_vmap(backends.loop_over_batch(info_nce_forward))
info_nce_backward.register_vmap(backends.loop_over_batch(info_nce_backward))


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
    own = row_ok[:, None] & (o < C)[None, :]
    partner = tl.load(Y + row.to(tl.int64)[:, None] * syn + o[None, :] * syc, mask=own, other=0.0)
    acc = (acc - 2.0 * partner.to(tl.float32)) * grad / (2.0 * N)
    if STORE_SCALE:
        mine = tl.load(X + row.to(tl.int64)[:, None] * sxn + o[None, :] * sxc, mask=own, other=0.0)
        share = tl.sum(acc * mine.to(tl.float32), 1)
        tl.store(DSCALE + tl.program_id(1).to(tl.int64) * N + row, share, mask=row_ok)
    tl.store(DX + row.to(tl.int64)[:, None] * C + o[None, :], (acc * scale).to(DX.dtype.element_ty), mask=own)


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
    """The forward in Triton; ``tile`` overrides the tuned one."""
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
    """The backward in Triton; ``tile`` overrides the tuned one."""
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


info_nce_forward.register_kernel("cuda")(launch_forward)
info_nce_backward.register_kernel("cuda")(launch_backward)


def _variants() -> list[Variant]:
    found = []
    for kind, label, lse, grad in (
        ("bf16", "bf16", LSE_TILES, GRAD_TILES),
        ("fp32", "fp32", LSE_TILES_FP32, GRAD_TILES_FP32),
    ):
        common = {"X": f"*{kind}", "Y": f"*{kind}", "IDS": "*i32", "SCALE": "*fp32"}
        sizes = dict.fromkeys(("N", "C", "sxn", "syn"), "i32")
        unit = {"sxc": 1, "syc": 1}
        aligned = ("N", "C", "sxn", "syn")
        found.append(Variant(lse_kernel, {**common, "LSE": "*fp32", **sizes}, unit, lse, aligned, True, label))
        types = {**common, **dict.fromkeys(("LSE_X", "LSE_Y", "GRAD", "DSCALE"), "*fp32"), "DX": f"*{kind}", **sizes}
        found.append(Variant(grad_kernel, types, {**unit, "STORE_SCALE": True}, grad, aligned, True, label))
    return found


VARIANTS = _variants()
