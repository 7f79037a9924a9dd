"""Cross-attention of few latents over many frozen tokens, with the projections absorbed into the latents.

The layer of Flamingo's resampler (Alayrac et al., 2022, arXiv 2204.14198) attends from latents to ``[LN(x); LN(l)]``.
With ``x_hat`` the LayerNorm of ``x`` without its affine part, and ``g``, ``b`` that part,

    q . W_k (g x_hat + b) = (W_k^T q g) . x_hat + W_k^T q . b

so keys and values of the ``N`` tokens are never made: ``x_hat`` is both, once, for all heads. Frozen tokens have a
constant ``x_hat``, which can be kept between steps (:func:`normalised`), and need no gradient. Absorbing the key
projection is what DeepSeek-AI, "DeepSeek-V2", 2024 (arXiv 2405.04434) does for decoding. It pays while
``heads * latents`` stays near the width or ``N`` is large.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapters.kernels.perceiver.reference import reference
from medgraft.adapters.kernels.perceiver.triton import VARIANTS as VARIANTS
from medgraft.adapters.kernels.perceiver.triton import launch_backward, launch_forward
from medgraft.errors import ConfigError
from medgraft.ops import backends
from medgraft.ops.backends import Backend
from medgraft.ops.products import product

FLOOR = -1e30
FEWEST_TOKENS = 512
QUERIES = 512


def normalised(x: Tensor, eps: float = 1e-5) -> Tensor:
    """LayerNorm over the last axis without affine parameters: what to keep of frozen tokens ``[..., C]``."""
    return F.layer_norm(x, x.shape[-1:], eps=eps)


def resampler_attention(
    x_hat: Tensor,
    latents: Tensor,
    gain: Tensor,
    shift: Tensor,
    to_q: Tensor,
    to_kv: Tensor,
    heads: int,
    mask: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """Latents attend to media tokens and to themselves, up to the output projection.

    Args:
        x_hat: :func:`normalised` media tokens ``[B, N, C]``, constant in the fused form.
        latents: Latents behind their LayerNorm ``[B, L, C]``.
        gain: Of the media's LayerNorm ``[C]``.
        shift: Of the media's LayerNorm ``[C]``.
        to_q: ``[h d, C]``.
        to_kv: ``[2 h d, C]``, keys first.
        heads: ``h``.
        mask: ``[B, N]``, true for real tokens.
        backend: ``eager``, ``compile``, ``fused`` or ``auto``.

    Returns:
        ``[B, L, h d]``.

    Raises:
        ConfigError: The widths disagree.

    Example:
        >>> x_hat, latents = normalised(torch.eye(7, 6)[None]), torch.ones(1, 3, 6)
        >>> to_q, to_kv = torch.ones(4, 6), torch.ones(8, 6)
        >>> resampler_attention(x_hat, latents, torch.ones(6), torch.zeros(6), to_q, to_kv, heads=2).shape
        torch.Size([1, 3, 4])
    """
    C = x_hat.shape[-1]
    if (
        not C == latents.shape[-1] == to_q.shape[1] == to_kv.shape[1]
        or len(to_kv) != 2 * len(to_q)
        or len(to_q) % heads
    ):
        raise ConfigError(
            f"resampler_attention: x_hat {tuple(x_hat.shape)}, latents {tuple(latents.shape)}, to_q "
            f"{tuple(to_q.shape)} and to_kv {tuple(to_kv.shape)} must be "
            f"[B, N, C], [B, L, C], [h d, C] and [2 h d, C] with {heads} heads"
        )
    arguments = (x_hat, latents, gain, shift, to_q, to_kv, heads, mask)
    slow = slower(x_hat, latents.shape[1], len(to_q) // heads)
    form = backends.choose("perceiver", backend, obstacle(x_hat, latents, gain, shift, to_q, to_kv), slow)
    if form == "fused":
        return absorbed(*arguments)
    return (reference if form == "eager" else backends.compiled(reference))(*arguments)


def obstacle(x_hat: Tensor, *others: Tensor) -> str | None:
    """Why :func:`absorbed` cannot take ``x_hat`` ``[B, N, C]`` and other arguments of it, or ``None``."""
    if x_hat.requires_grad:
        return "the media tokens need a gradient; the fused form is for frozen ones"
    return backends.obstacle_of(x_hat, *others) or backends.width_obstacle(x_hat, x_hat.shape[-1])


def slower(x: Tensor, latents: int, head_dim: int) -> str | None:
    """Why eager mode is faster on a CPU for tokens ``[B, N, C]``, or ``None``.

    Products per training step, over ``2 heads``: ``3 N d (C + L)`` in eager mode, which also gives the constant tokens
    a gradient that nobody reads, and ``2 N L C + 3 L d C`` here, in smaller matrices.

    Args:
        x: The tokens.
        latents: ``L``.
        head_dim: ``d``.
    """
    if x.device.type != "cpu":
        return None
    N, C = x.shape[-2:]
    if N < FEWEST_TOKENS:
        return f"{N} tokens; eager mode is faster on a CPU below {FEWEST_TOKENS}"
    ours, theirs = 2 * N * latents * C + 3 * latents * head_dim * C, 3 * N * head_dim * (C + latents)
    if ours <= theirs:
        return None
    return f"{latents} latents with heads of {head_dim} over tokens of {C} take {ours / theirs:.1f} times the products"


def absorbed(
    x_hat: Tensor, latents: Tensor, gain: Tensor, shift: Tensor, to_q: Tensor, to_kv: Tensor, heads: int,
    mask: Tensor | None,
) -> Tensor:  # fmt: skip
    """The fused form; arguments and result as in :func:`resampler_attention`."""
    (B, L, C), N = latents.shape, x_hat.shape[1]
    # The affine part goes into the weights, which are smaller than the queries and the context of all heads.
    w_k, w_v = (to_kv * gain).view(2, heads, -1, C)
    own_kv, b = F.linear(torch.cat([latents.flatten(0, 1), shift[None]]), to_kv).split([B * L, 1])
    b_k, b_v = b.view(2, heads, -1)
    q = (F.linear(latents, to_q) / math.sqrt(w_k.shape[1])).unflatten(-1, (heads, -1))
    keyed = torch.bmm(q.permute(2, 0, 1, 3).flatten(1, 2), w_k).view(heads, B, L, C)
    mask = x_hat.new_ones(B, N, dtype=torch.bool) if mask is None else mask
    context, lse, _ = absorbed_attention(x_hat, keyed.transpose(0, 1).flatten(1, 2), mask)
    by_head = context.view(B, heads, L, C).transpose(0, 1).flatten(1, 2)
    of_media = torch.baddbmm(b_v[:, None], by_head, w_v.transpose(1, 2)).view(heads, B, L, -1).permute(1, 0, 2, 3)
    own_k, own_v = own_kv.view(B, L, 2, heads, -1).permute(2, 0, 3, 1, 4)
    own_logits = q.transpose(1, 2) @ own_k.transpose(2, 3)
    kind = lse.dtype
    media_lse = lse.view(B, heads, L) + (q * b_k).sum(-1).transpose(1, 2).to(kind)
    share = torch.sigmoid(media_lse - own_logits.to(kind).logsumexp(-1))[..., None].to(q.dtype)
    return torch.lerp(own_logits.softmax(-1) @ own_v, of_media, share).transpose(1, 2).flatten(2)


def _blocks(B: int, Q: int) -> list[tuple[int, slice]]:
    """Batch element and queries whose logits are made at once."""
    return [(b, slice(start, min(start + QUERIES, Q))) for b in range(B) for start in range(0, Q, QUERIES)]


def _largest(x: Tensor) -> Tensor:
    """``x.amax(-1)``: the bits of numbers that are not negative are ordered like integers, which are faster in bf16."""
    if x.dtype != torch.bfloat16:
        return x.amax(-1)
    bits = x.view(torch.int16).amax(-1)
    return x.amax(-1) if bool((bits < 0).any()) else bits.view(x.dtype)


@torch.library.custom_op("medgraft::absorbed_attention", mutates_args=(), device_types="cpu")
def absorbed_attention(x_hat: Tensor, queries: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Attention whose keys and values are both ``x_hat``, constant.

    Args:
        x_hat: ``[B, N, C]``.
        queries: ``[B, Q, C]``, scaled.
        mask: ``[B, N]``, true for tokens to attend to.

    Returns:
        The attended tokens ``[B, Q, C]`` (zeros where the mask leaves none), the log-sum-exp ``[B, Q]`` in the
        accumulator's type, and the weights ``[B, Q, N]``, which the CPU keeps for the backward (empty on a GPU).
    """
    (B, Q, _), N = queries.shape, x_hat.shape[1]
    context, weights = torch.empty(queries.shape, dtype=queries.dtype), queries.new_empty(B, Q, N)
    lse = queries.new_empty(B, Q, dtype=backends.accumulator(queries.dtype))
    room, shut = queries.new_empty(min(Q, QUERIES), N), None if mask.all() else ~mask
    for b, rows in _blocks(B, Q):
        logits, share = room[: rows.stop - rows.start], weights[b, rows]
        if shut is not None and shut[b].all():
            share.zero_()
            context[b, rows].zero_()
            lse[b, rows].fill_(FLOOR)
            continue
        product(queries[b, rows], x_hat[b].T, logits)
        if shut is not None:
            logits.masked_fill_(shut[b], float("-inf"))
        torch.softmax(logits, dim=-1, out=share)
        # The largest weight is exp(top - lse), which saves a second pass of exponentials.
        torch.sub(_largest(logits).to(lse.dtype), _largest(share).to(lse.dtype).log_(), out=lse[b, rows])
        product(share, x_hat[b], context[b, rows])
    return context, lse, weights


@torch.library.custom_op("medgraft::absorbed_attention_backward", mutates_args=(), device_types="cpu")
def absorbed_attention_backward(
    d_context: Tensor, d_lse: Tensor, x_hat: Tensor, queries: Tensor, mask: Tensor, context: Tensor, lse: Tensor,
    weights: Tensor,
) -> Tensor:  # fmt: skip
    """Gradient of the queries, ``[B, Q, C]``; ``x_hat`` has none.

    ``d_context`` is ``[B, Q, C]`` and ``d_lse`` ``[B, Q]``; the others are arguments and results as in
    :func:`absorbed_attention`.
    """
    (B, Q, _), N = queries.shape, x_hat.shape[1]
    d_queries, room = torch.empty(queries.shape, dtype=queries.dtype), queries.new_empty(min(Q, QUERIES), N)
    for b, rows in _blocks(B, Q):
        inner = product(d_context[b, rows], x_hat[b].T, room[: rows.stop - rows.start])
        term = (d_context[b, rows] * context[b, rows]).sum(-1) - d_lse[b, rows].to(inner.dtype)
        inner.sub_(term[:, None]).mul_(weights[b, rows])
        product(inner, x_hat[b], d_queries[b, rows])
    return d_queries


@absorbed_attention.register_fake
def _(x_hat: Tensor, queries: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    (B, Q, C), N = queries.shape, x_hat.shape[1]
    kept = (B, 0, 0) if x_hat.device.type == "cuda" else (B, Q, N)
    lse = queries.new_empty(B, Q, dtype=backends.accumulator(queries.dtype))
    return queries.new_empty(B, Q, C), lse, queries.new_empty(kept)


@absorbed_attention_backward.register_fake
def _(d_context: Tensor, d_lse: Tensor, x_hat: Tensor, queries: Tensor, *_: Tensor) -> Tensor:
    return queries.new_empty(queries.shape)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[2])
    ctx.set_materialize_grads(False)  # or zeros would be made for the weights


def _backward(ctx: Any, d_context: Tensor | None, d_lse: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    x_hat, queries, mask, context, lse, weights = ctx.saved_tensors
    if d_context is None and d_lse is None:
        return None, None, None
    d_context = torch.zeros_like(context) if d_context is None else d_context
    d_lse = torch.zeros_like(lse) if d_lse is None else d_lse
    return None, absorbed_attention_backward(d_context, d_lse, x_hat, queries, mask, context, lse, weights), None


absorbed_attention.register_autograd(_backward, setup_context=_save)
absorbed_attention.register_vmap(backends.fold_into_batch(absorbed_attention))
absorbed_attention_backward.register_vmap(backends.fold_into_batch(absorbed_attention_backward))
absorbed_attention.register_kernel("cuda")(launch_forward)
absorbed_attention_backward.register_kernel("cuda")(launch_backward)
