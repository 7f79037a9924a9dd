"""The plain form of the resampler's attention, the definition that the fused forms are held to."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    x_hat: Tensor, latents: Tensor, gain: Tensor, shift: Tensor, to_q: Tensor, to_kv: Tensor, heads: int,
    mask: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The plain form.

    Arguments and result are as in :func:`medgraft.adapters.kernels.perceiver.op.resampler_attention`.
    """
    media = x_hat * gain + shift
    k, v = F.linear(torch.cat([media, latents], dim=1), to_kv).chunk(2, dim=-1)
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (F.linear(latents, to_q), k, v))
    logits = q @ k.transpose(2, 3) / math.sqrt(q.shape[-1])
    if mask is not None:
        logits = logits.masked_fill(~F.pad(mask, (0, latents.shape[1]), value=True)[:, None, None], float("-inf"))
    return (logits.softmax(-1) @ v).transpose(1, 2).flatten(2)
