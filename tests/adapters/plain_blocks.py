"""Plain float64 towers for parity with a paper's formula, and what their tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.adapter import Adapter
from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.features import Features
from medgraft.grafting import Grafted

# float64: what is left are a few roundings of 1e-16 in sums over at most some hundred terms.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


class PlainBlock(nn.Module):
    """Pre-norm block whose branches can be changed from outside, so that a formula can be written down beside it."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.fc1, self.fc2 = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim)

    def attend(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        q, k, v = x.view(B, N, 3, self.heads, C // 3 // self.heads).permute(2, 0, 3, 1, 4)
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, N, C // 3)

    def attn(self, x: Tensor) -> Tensor:
        return self.proj(self.attend(self.qkv(x)))

    def mlp(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainTower(Encoder):
    """A ViT of two blocks in float64 on an image (4 x 4 tokens) or a volume (2 x 3 x 2), with a CLS token."""

    def __init__(self, rank: int = 2, dim: int = 12, heads: int = 2, depth: int = 2) -> None:
        size = (16, 16) if rank == 2 else (8, 12, 8)
        modality: Any = "image" if rank == 2 else "volume"
        super().__init__(
            EncoderSpec(name="test:plain", modality=modality, input_size=size, dim=dim, heads=heads, weights="random")
        )
        self.grid = tuple(length // 4 for length in size)
        self.patches = (nn.Conv2d if rank == 2 else nn.Conv3d)(1, dim, 4, stride=4)
        self.cls = nn.Parameter(torch.randn(1, 1, dim))
        self.blocks = nn.ModuleList(PlainBlock(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.unused = nn.Linear(dim, dim)
        self.attention = [
            AttentionLayout("packed", f"blocks.{i}.qkv", heads=heads, dim=dim, out_path=f"blocks.{i}.proj")
            for i in range(depth)
        ]
        self.block_stages = range(1, depth + 1)
        self.n_stages = depth + 1
        self.double()

    def block_paths(self) -> list[str]:
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        if stop == 0:
            return x
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2)], dim=1)
        for block in list(self.blocks)[: stop - 1]:
            x = block(x)
        return x

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        if start == 0:
            x, start = self.prefix(x, 1), 1
        for block in list(self.blocks)[start - 1 :]:
            x = block(x)
        x = self.norm(x)
        return Features(tokens=x, pooled=x[:, 0], n_prefix=1, grid=self.grid)

    def project(self, tokens: Tensor) -> Tensor:
        return self.unused(tokens)

    def images(self, batch: int = 2) -> Tensor:
        return torch.randn(batch, 1, *self.spec.input_size, dtype=torch.float64)


def grafted_on(tower: Encoder, adapter: Adapter) -> Grafted:
    """The graft in evaluation mode, with every number of the adapter drawn anew."""
    grafted = Grafted(tower, {"it": adapter}).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return grafted


def by_hand(tower: PlainTower, x: Tensor, block: Callable[[int, PlainBlock, Tensor], Tensor]) -> Tensor:
    """Tokens of the tower with ``block(i, module, x)`` in the place of each of its blocks."""
    x = tower.prefix(x, 1)
    for i, module in enumerate(tower.blocks):
        assert isinstance(module, PlainBlock)
        x = block(i, module, x)
    return tower.norm(x)


def count(parameters: Iterable[Tensor]) -> int:
    return sum(parameter.numel() for parameter in parameters)
