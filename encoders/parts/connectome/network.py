"""A graph transformer on regions of the brain: torch-geometric's convolution in pre-norm blocks.

Shi et al., "Masked Label Prediction: Unified Message Passing Model for Semi-Supervised Classification", IJCAI 2021
(``torch_geometric.nn.TransformerConv``), equations 3 and 4: a region attends to those that it is connected with, and
the weights of a connection, mapped to each head, are added to its key and its value. Features of a region are its row
of weights to all others, which Cui et al., "BrainGB", IEEE TMI 2023, find best among those that they compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Edges:
    """Connections of the graphs of a batch, each in both directions.

    Attributes:
        index: Source and target among all regions of the batch, ``int64 [2, M]``.
        weights: Of each kind, ``float [M, E]``.
    """

    index: Tensor
    weights: Tensor


def edges_of(weights: Tensor) -> Edges:
    """Connections in ``[B, E, R, R]``: pairs of regions with a weight of some kind that is not 0."""
    graph, source, target = (weights != 0).any(dim=1).nonzero(as_tuple=True)
    first = graph * weights.shape[-1]
    return Edges(torch.stack([first + source, first + target]), weights[graph, :, source, target])


def real_regions(weights: Tensor) -> Tensor:
    """Regions of ``[B, E, R, R]`` with a connection, ``bool [B, R]``; all of a graph that has none."""
    real = (weights != 0).any(dim=3).any(dim=1)
    return real | ~real.any(dim=1, keepdim=True)


class Attention(nn.Module):
    """Attention along connections and a linear map of what the heads gather.

    Args:
        dim: Width of a token.
        heads: Attention heads.
        kinds: Kinds of weights.
    """

    def __init__(self, dim: int, heads: int, kinds: int) -> None:
        super().__init__()
        from torch_geometric.nn import TransformerConv  # here, since it takes its time to import

        conv: Any = TransformerConv(dim, dim // heads, heads=heads, edge_dim=kinds, root_weight=False)
        for name in ("lin_query", "lin_key", "lin_value", "lin_edge"):  # as layers that adapters know
            old = getattr(conv, name)
            linear = nn.Linear(old.in_channels, old.out_channels, bias=old.bias is not None)
            linear.load_state_dict(old.state_dict())
            setattr(conv, name, linear)
        self.conv = conv
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """``[B, R, C] -> [B, R, C]``."""
        B, R, _ = x.shape
        mixed = self.conv(x.flatten(0, 1), edges.index, edges.weights.to(x.dtype))
        return self.proj(mixed.unflatten(0, (B, R)))


class Block(nn.Module):
    """Pre-norm block of a graph transformer.

    Args:
        dim: Width of a token.
        heads: Attention heads.
        kinds: Kinds of weights.
    """

    def __init__(self, dim: int, heads: int, kinds: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, heads, kinds)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        """``[B, R, C] -> [B, R, C]``."""
        x = x + self.attn(self.norm1(x), edges)
        return x + self.mlp(self.norm2(x))
