"""Attention and blocks of braindecode's networks, rearranged so that every layer of theirs is called as a module."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PackedAttention(nn.Module):
    """LaBraM's attention around the layers of the library's, which applies the weight of ``qkv`` past its module.

    Where the library adds separate biases of queries and values, they become the bias of ``qkv``.

    Args:
        attention: The library's ``_Attention``, without relative positions.
    """

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.scale: float = attention.scale
        self.qkv, self.proj = attention.qkv, attention.proj
        self.q_norm = attention.q_norm or nn.Identity()
        self.k_norm = attention.k_norm or nn.Identity()
        if attention.q_bias is not None:
            bias = torch.cat([attention.q_bias, torch.zeros_like(attention.v_bias), attention.v_bias])
            self.qkv.bias = nn.Parameter(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C] -> [B, N, C]``."""
        B, N, _ = x.shape
        q, k, v = self.qkv(x).view(B, N, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v, scale=self.scale)
        return self.proj(mixed.transpose(1, 2).reshape(B, N, -1))


class QueryKeyNorm:
    """What a :class:`PackedAttention` does to ``q`` and ``k`` before it multiplies them.

    Args:
        encoder: That holds the attention.
        path: Of the attention inside the encoder.
    """

    def __init__(self, encoder: nn.Module, path: str) -> None:
        self.encoder = encoder
        self.path = path

    def __call__(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Norms of each head, ``[B, heads, N, head_dim]``."""
        attention: Any = self.encoder.get_submodule(self.path)
        return attention.q_norm(q), attention.k_norm(k)


class SplitAttention(nn.Module):
    """An ``nn.MultiheadAttention`` of one input as four linear layers, ``q``, ``k``, ``v`` and ``out``.

    Args:
        attention: The library's.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads: int = attention.num_heads
        width: int = attention.embed_dim
        weights = attention.in_proj_weight.detach().chunk(3)
        biases = [None] * 3 if attention.in_proj_bias is None else attention.in_proj_bias.detach().chunk(3)
        for name, weight, bias in zip("qkv", weights, biases, strict=True):
            linear = nn.Linear(width, width, bias=bias is not None)
            linear.weight = nn.Parameter(weight.clone())
            if bias is not None:
                linear.bias = nn.Parameter(bias.clone())
            self.add_module(name, linear)
        self.out = nn.Linear(width, width, bias=attention.out_proj.bias is not None)
        self.out.load_state_dict(attention.out_proj.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C] -> [B, N, C]``."""
        q, k, v = (self.get_submodule(each)(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in "qkv")
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class CrissCrossAttention(nn.Module):
    """CBraMod's attention: half of the width attends across channels, the other half across time.

    Args:
        layer: The library's ``CrissCrossTransformerEncoderLayer``.
        patches: Patches of a channel.
    """

    def __init__(self, layer: Any, patches: int) -> None:
        super().__init__()
        self.patches = patches
        self.spatial = SplitAttention(layer.self_attn_s)
        self.temporal = SplitAttention(layer.self_attn_t)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels * patches, C] -> [B, channels * patches, C]``, channel by channel."""
        B, N, width = x.shape
        grid = x.view(B, N // self.patches, self.patches, width)
        across, along = grid[..., : width // 2], grid[..., width // 2 :]
        across = self.spatial(across.transpose(1, 2).flatten(0, 1)).unflatten(0, (B, -1)).transpose(1, 2)
        along = self.temporal(along.flatten(0, 1)).unflatten(0, (B, -1))
        return torch.cat([across, along], dim=-1).flatten(1, 2)


class CrissCrossBlock(nn.Module):
    """CBraMod's layer on a sequence of tokens, around the norms and linear layers of the library's.

    Args:
        layer: The library's ``CrissCrossTransformerEncoderLayer``.
        patches: Patches of a channel.
    """

    def __init__(self, layer: Any, patches: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = layer.norm1, layer.norm2
        self.attn = CrissCrossAttention(layer, patches)
        self.linear1, self.activation, self.linear2 = layer.linear1, layer.activation, layer.linear2

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels * patches, C] -> [B, channels * patches, C]``."""
        x = x + self.attn(self.norm1(x))
        return x + self.linear2(self.activation(self.linear1(self.norm2(x))))


class ResidualPair(nn.ModuleList):
    """A layer of BIOT's linear transformer: attention and feed-forward, in the library a list of the two."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, C] -> [B, N, C]``."""
        for branch in self:
            x = x + branch(x)
        return x
