"""Attention of text to media under masks: the parts of a gated cross-attention block.

Alayrac et al., "Flamingo", NeurIPS 2022 (arXiv 2204.14198), in the forms of OpenFlamingo (Awadalla et al., 2023,
arXiv 2308.01390) and of the first Idefics (Laurençon et al., 2023, arXiv 2306.16527).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class IdeficsForm:
    """How the first Idefics differs: RMSNorm, a gated SiLU MLP, and possibly one gate per channel.

    Attributes:
        mlp_dim: Width inside the MLP.
        gate: ``float``, one gate for all channels, or ``vector``, one per channel.
        qk_norm: RMSNorm of each head's queries and keys.
        eps: Of every norm.
    """

    mlp_dim: int
    gate: Literal["float", "vector"] = "float"
    qk_norm: bool = False
    eps: float = 1e-6


class GatedMlp(nn.Module):
    """``down(SiLU(gate(x)) * up(x))`` without biases (Shazeer, "GLU Variants Improve Transformer", 2020).

    Args:
        dim: Width in and out.
        hidden_dim: Width between.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden_dim, bias=False)
        self.up = nn.Linear(dim, hidden_dim, bias=False)
        self.down = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., dim] -> [..., dim]``."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


@dataclass(frozen=True)
class Visibility:
    """What text may not see.

    Attributes:
        denied: ``[B, L, M]``, true where a text token may not see a media token.
        padding: ``[B, M]``, true for media tokens that are not real.
        blind: ``[B, L]``, true for text tokens that read nothing at all.
    """

    denied: Tensor | None = None
    padding: Tensor | None = None
    blind: Tensor | None = None


class MaskedCrossAttention(nn.Module):
    """Multi-head attention of text to media, without biases.

    Args:
        dim: Text width.
        media_dim: Media width.
        head_dim: Width of a head.
        heads: Number of heads.
        idefics: Norms of Idefics in place of LayerNorm.
    """

    def __init__(self, dim: int, media_dim: int, head_dim: int, heads: int, idefics: IdeficsForm | None = None) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads, self.scale = heads, head_dim**-0.5
        self.norm = nn.LayerNorm(dim) if idefics is None else nn.RMSNorm(dim, eps=idefics.eps)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(media_dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        qk_norm = idefics is not None and idefics.qk_norm
        self.q_norm = nn.RMSNorm(head_dim, eps=idefics.eps) if idefics and qk_norm else None
        self.k_norm = nn.RMSNorm(head_dim, eps=idefics.eps) if idefics and qk_norm else None

    def keys_and_values(self, media: Tensor) -> tuple[Tensor, Tensor]:
        """What the text compares with and reads, ``[B, M, media_dim]`` -> ``[B, heads, M, head_dim]`` each."""
        k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.to_kv(media).chunk(2, dim=-1))
        return (k if self.k_norm is None else self.k_norm(k)), v

    def forward(
        self, x: Tensor, media: Tensor, hidden: Visibility, kept: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """What the text reads.

        Args:
            x: ``[B, L, dim]``.
            media: ``[B, M, media_dim]``.
            hidden: Which pairs and rows are masked.
            kept: What :meth:`keys_and_values` gave for the media before; ``None`` to make it now.

        Returns:
            ``[B, L, dim]``.
        """
        k, v = self.keys_and_values(media) if kept is None else kept
        q = self.to_q(self.norm(x)).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        if self.q_norm is not None:
            q = self.q_norm(q)
        scores = (q * self.scale) @ k.transpose(-1, -2)
        if hidden.denied is not None:
            # The published fill: where it hits a whole row, the softmax is uniform and not undefined.
            scores = scores.masked_fill(hidden.denied[:, None], -torch.finfo(scores.dtype).max)
        if hidden.padding is not None:
            scores = scores.masked_fill(hidden.padding[:, None, None], float("-inf"))
        if hidden.blind is not None:
            blind = hidden.blind[:, None, :, None]
            weights = torch.softmax(scores.masked_fill(blind, 0.0), dim=-1).masked_fill(blind, 0.0)
        else:
            weights = torch.softmax(scores, dim=-1)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))
