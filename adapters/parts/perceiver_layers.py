"""The layers of a Perceiver Resampler: attention of latents to media tokens, and the MLP behind it.

Alayrac et al., "Flamingo", NeurIPS 2022 (arXiv 2204.14198), in the layout of OpenFlamingo (Awadalla et al., 2023,
arXiv 2308.01390) and of Idefics (Laurençon et al., 2023, arXiv 2306.16527).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.adapters.kernels.perceiver import op as perceiver
from medgraft.encoder.attention import attend
from medgraft.ops import backends

Activation = Literal["gelu", "relu", "squared_relu"]


class SquaredReLU(nn.Module):
    """``max(0, x)^2`` (So et al., "Primer", NeurIPS 2021, arXiv 2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        """The square of what is positive, for ``x`` of any shape."""
        return F.relu(x).square()


ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "squared_relu": SquaredReLU}


def feed_forward(dim: int, mult: float = 4, activation: Activation = "gelu") -> nn.Sequential:
    """LayerNorm and a two-layer MLP without biases, ``[..., dim] -> [..., dim]``.

    Args:
        dim: Width in and out.
        mult: Width between, as a multiple of ``dim``.
        activation: Between the two maps.
    """
    inner = int(dim * mult)
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, inner, bias=False),
        ACTIVATIONS[activation](),
        nn.Linear(inner, dim, bias=False),
    )


class PerceiverAttention(nn.Module):
    """Latents attend to media tokens and to themselves.

    Args:
        dim: Width of both.
        head_dim: Width of a head; ``heads * head_dim`` need not equal ``dim``.
        heads: Number of heads.
        qk_norm: LayerNorm of each head's queries and keys (an option of Idefics).
    """

    def __init__(self, dim: int, head_dim: int = 64, heads: int = 8, qk_norm: bool = False) -> None:
        super().__init__()
        inner = heads * head_dim
        self.heads = heads
        self.norm_media = nn.LayerNorm(dim)
        self.norm_latents = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)
        self.q_norm = nn.LayerNorm(head_dim) if qk_norm else None
        self.k_norm = nn.LayerNorm(head_dim) if qk_norm else None

    def forward(
        self,
        x: Tensor,
        latents: Tensor,
        mask: Tensor | None = None,
        x_hat: Tensor | None = None,
        *,
        normalised: bool = False,
    ) -> Tensor:
        """What is added to the latents.

        Args:
            x: Media tokens ``[B, N, C]``.
            latents: ``[B, L, C]``.
            mask: ``[B, N]``, true for real media tokens.
            x_hat: What :meth:`normalised` gave for ``x``, the same for all layers; ``None`` runs in eager mode.
            normalised: ``x`` has gone through a LayerNorm without affine parameters before.

        Returns:
            ``[B, L, C]``.
        """
        if x_hat is not None:
            media = (self.norm_media.weight, self.norm_media.bias, self.to_q.weight, self.to_kv.weight, self.heads)
            read = backends.outside_autocast(perceiver.absorbed, x_hat, self.norm_latents(latents), *media, mask)
            return self.to_out(read)
        x = x * self.norm_media.weight + self.norm_media.bias if normalised else self.norm_media(x)
        latents = self.norm_latents(latents)
        k, v = self.to_kv(torch.cat([x, latents], dim=1)).chunk(2, dim=-1)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (self.to_q(latents), k, v))
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        bias = None if mask is None else F.pad(mask, (0, latents.shape[1]), value=True)[:, None, None, :]
        return self.to_out(attend(q, k, v, bias).transpose(1, 2).flatten(2))

    def normalised(self, x: Tensor, latents: int, *, already: bool = False) -> Tensor | None:
        """The constant that the fused form keeps of media tokens ``[B, N, C]``; ``None`` where it does not run.

        Args:
            x: Media tokens.
            latents: Their number ``L``.
            already: They are that constant.
        """
        backend, weight = backends.current(), self.to_q.weight
        obstacle = "queries and keys are normalised per head" if self.q_norm is not None else None
        obstacle = obstacle or perceiver.obstacle(x, self.norm_media.weight, weight, self.to_kv.weight)
        slower = perceiver.slower(x, latents, len(weight) // self.heads)
        if backends.choose("perceiver", backend, obstacle, slower) != "fused":
            return None
        return (x if already else perceiver.normalised(x, self.norm_media.eps)).to(backends.multiplied_in(x))
