"""The network of M3D-CLIP's vision encoder, with the published state dict.

Bai et al., "M3D: Advancing 3D Medical Image Analysis with Multi-Modal Large Language Models", 2024 (arXiv 2404.00578);
a fork of MONAI's ViT (Cardoso et al., 2022, arXiv 2211.02701).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.errors import ConfigError

SIZE = (32, 256, 256)
PATCH = (4, 16, 16)


class PatchFlatten(nn.Module):
    """Cuts a volume into patches, each flattened in the order depth, height, width, channel.

    Args:
        patch_size: Depth, height and width of a patch in voxels.
    """

    def __init__(self, patch_size: Sequence[int]) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` -> ``[B, N, pd * ph * pw * C]``, patches in the order depth, height, width."""
        pd, ph, pw = self.patch_size
        x = x.unflatten(4, (-1, pw)).unflatten(3, (-1, ph)).unflatten(2, (-1, pd))  # [B, C, d, pd, h, ph, w, pw]
        return x.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)


class PatchEmbedding(nn.Module):
    """Linear map of flattened patches plus learned positions.

    Args:
        channels: Channels of the volume.
        patch_size: Of one patch, in voxels.
        patches: Number of patches.
        dim: Token width.
    """

    def __init__(self, channels: int, patch_size: Sequence[int], patches: int, dim: int) -> None:
        super().__init__()
        linear = nn.Linear(channels * math.prod(patch_size), dim)
        self.patch_embeddings = nn.Sequential(PatchFlatten(patch_size), linear)
        self.position_embeddings = nn.Parameter(torch.zeros(1, patches, dim))
        nn.init.trunc_normal_(self.position_embeddings, std=0.02)
        nn.init.trunc_normal_(linear.weight, std=0.02)
        nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, D, H, W]`` -> ``[B, N, dim]``."""
        return self.patch_embeddings(x) + self.position_embeddings


class SelfAttention(nn.Module):
    """Multi-head attention with a packed ``qkv`` that has no bias, and an output projection that has one."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C] -> [B, N, C]``."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear maps around an exact GELU."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(dim, hidden_dim)
        self.linear2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., C] -> [..., C]``."""
        return self.linear2(F.gelu(self.linear1(x)))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, dim: int, heads: int, mlp_dim: int) -> None:
        super().__init__()
        self.mlp = Mlp(dim, mlp_dim)
        self.norm1 = nn.LayerNorm(dim)
        self.attn = SelfAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C] -> [B, N, C]``."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class M3DOutput(NamedTuple):
    """What the published encoder returns.

    Attributes:
        tokens: ``[B, 1 + N, C]`` after the last norm, CLS first.
        hidden_states: Output of each block, before the last norm.
    """

    tokens: Tensor
    hidden_states: list[Tensor]


class M3DViT(nn.Module):
    """The encoder, with the published state dict.

    Positions are added to the patches only; a CLS token without one goes before them.

    Args:
        img_size: Depth, height and width of the volume.
        patch_size: Of one patch.
        dim: Token width ``C``.
        depth: Blocks.
        heads: Attention heads.
        mlp_dim: Width inside the MLPs.
        channels: Channels of the volume.

    Raises:
        ConfigError: The patches do not divide the volume, or the heads the width.
    """

    def __init__(
        self,
        img_size: Sequence[int] = SIZE,
        patch_size: Sequence[int] = PATCH,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp_dim: int = 3072,
        channels: int = 1,
    ) -> None:
        super().__init__()
        if len(img_size) != 3 or len(patch_size) != 3:
            raise ConfigError(f"img_size {tuple(img_size)} and patch_size {tuple(patch_size)} must have three axes")
        if any(length % step or length < step for length, step in zip(img_size, patch_size, strict=True)):
            raise ConfigError(f"patches of {tuple(patch_size)} do not divide a volume of {tuple(img_size)}")
        if dim % heads:
            raise ConfigError(f"{heads} heads do not divide a width of {dim}")
        self.heads = heads
        self.img_size = tuple(int(length) for length in img_size)
        self.grid = tuple(length // step for length, step in zip(img_size, patch_size, strict=True))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.patch_embedding = PatchEmbedding(channels, patch_size, math.prod(self.grid), dim)
        self.blocks = nn.ModuleList(Block(dim, heads, mlp_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def embed(self, x: Tensor) -> Tensor:
        """Volume ``[B, channels, D, H, W]`` -> input of the first block ``[B, 1 + N, C]``."""
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), self.patch_embedding(x)], dim=1)

    def forward(self, x: Tensor) -> M3DOutput:
        """Volume ``[B, channels, D, H, W]``, values in 0..1 -> tokens and hidden states."""
        x = self.embed(x)
        hidden = []
        for block in self.blocks:
            x = block(x)
            hidden.append(x)
        return M3DOutput(self.norm(x), hidden)
