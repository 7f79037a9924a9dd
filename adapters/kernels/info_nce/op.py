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

from medgraft.adapters.kernels.info_nce.reference import reference
from medgraft.adapters.kernels.info_nce.triton import VARIANTS as VARIANTS
from medgraft.adapters.kernels.info_nce.triton import launch_backward, launch_forward
from medgraft.errors import ConfigError
from medgraft.fast.linear import linear
from medgraft.ops import backends
from medgraft.ops.backends import Backend
from medgraft.ops.products import product

ROWS, COLUMNS = 256, 2048
# exp(-2 * 40) and exp(2 * 40) are normal float32 numbers, so one exponential serves rows and columns alike.
SAFE_BOUND = 40.0
WIDEST = 1024
FEWEST_PAIRS = 256


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
    slower = None
    if image.device.type == "cpu" and len(image) < FEWEST_PAIRS:
        slower = f"{len(image)} pairs; eager mode is faster on a CPU below {FEWEST_PAIRS}"
    form = backends.choose("info_nce", backend, _obstacle(image, text), slower)
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
    return backends.obstacle_of(image, text) or backends.width_obstacle(image, image.shape[1])


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
        nan_ids = -1 - torch.arange(len(labels), dtype=torch.int32, device=labels.device)
        ids = torch.where(labels.isnan().any(dim=1), nan_ids, ids)
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
    if image.dtype == torch.float32:
        block = linear(image * factor, text, shift.expand(len(text)).contiguous())
    else:  # the factor behind the sum of products, which half types would round before it
        block = torch.addmm(shift, image, text.T, alpha=factor)
    return block.exp_().masked_fill_(same, 0)


def _bounded_sums(image: Tensor, text: Tensor, scale: Tensor, ids: Tensor, bound: float) -> tuple[Tensor, Tensor]:
    kind, n = backends.accumulator(image.dtype), len(image)
    rows, columns = (torch.zeros(n, dtype=kind) for _ in range(2))
    shift = image.new_full((), -bound)
    for r, c in _blocks(n):
        block = _bounded_exp(image[r], text[c], float(scale), bound, _left_out(r, c, ids), shift)
        block = block.to(kind)  # once: a sum in another type makes a copy of its own
        rows[r] += block.sum(1)
        columns[c] += block.sum(0)
    return rows, columns


def _logits(image: Tensor, text: Tensor, scale: Tensor, same: Tensor) -> Tensor:
    block = product(image, text.T).to(scale.dtype).mul_(scale)
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
    """Gradients of ``image [N, C]``, ``text [N, C]`` and ``scale``, a scalar; ``grad`` is that of the loss, a scalar.

    The other arguments are as in :func:`info_nce_forward`, with the log-sum-exp ``[N]`` of rows and columns behind.
    """
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
            acc += product(weight, text[c])
            d_text[c] += product(weight.T, image[r])
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


info_nce_forward.register_kernel("cuda")(launch_forward)
info_nce_backward.register_kernel("cuda")(launch_backward)
