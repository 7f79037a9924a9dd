"""A tiny encoder that treats its layers as some libraries do and no careless adapter expects.

Its stem pads by the size of the image and standardises its weight (BiT, NF-Net, TensorFlow's EfficientNets), its
attention gives the weight of ``qkv`` to ``F.linear`` and never calls the module (BEiT, Swin V2), and it pools by an
attention over one learnt query, whose layers are called ``q`` and ``kv`` as well (SigLIP).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.features import Features
from medgraft.typed.pytorch import fork_random, seed_random

SIZE, WIDTH, HEADS, PATCH = (15, 22), 16, 2, 4


class StandardisedConv(nn.Conv2d):
    """A convolution by its standardised weight, padded to ``ceil(size / stride)`` results."""

    same_pad = True

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """``[B, C, H, W] -> [B, C', H', W']``."""
        padding: list[int] = []
        for length, taps, step in zip(x.shape[2:], self.kernel_size, self.stride, strict=True):
            total = max((-(-length // step) - 1) * step + taps - length, 0)
            padding = [total // 2, total - total // 2, *padding]
        rows = self.weight.flatten(1)
        rows = (rows - rows.mean(1, keepdim=True)) / (rows.std(1, keepdim=True) + 1e-5)
        return F.conv2d(F.pad(x, padding), rows.view_as(self.weight), self.bias, self.stride)


class SeparateBias(nn.Module):
    """Self-attention whose queries and values have a bias and whose keys have none, ``[B, N, C] -> [B, N, C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(WIDTH)) for _ in range(2))
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Multiplies ``[B, N, C]`` by the weight of ``qkv`` itself."""
        bias = torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias])
        packed = torch.unflatten(F.linear(x, self.qkv.weight, bias), -1, (3, HEADS, -1))
        q, k, v = packed.permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm transformer block, ``[B, N, C] -> [B, N, C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = SeparateBias()
        self.fc1, self.fc2 = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Attention, then the MLP, on ``[B, N, C]``."""
        x = x + self.attn(self.norm1(x))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class AttentionPool(nn.Module):
    """One learnt query over all tokens, ``[B, N, C] -> [B, C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.q, self.kv = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """The query's result, ``[B, C]``."""
        k, v = self.kv(x).chunk(2, dim=-1)
        return F.scaled_dot_product_attention(self.q(self.latent).expand(x.shape[0], -1, -1), k, v)[:, 0]


class OddEncoder(Encoder):
    """See the module."""

    has_cls = False

    def __init__(self) -> None:
        spec = EncoderSpec(
            name="tiny:odd-2d",
            modality="image",
            input_size=SIZE,
            dim=WIDTH,
            heads=HEADS,
            pooling="attention pooling",
            licence="Apache-2.0",
            weights="random",
        )
        super().__init__(spec)
        self.stem = StandardisedConv(1, WIDTH, PATCH, stride=PATCH)
        self.blocks = nn.ModuleList(Block() for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        self.attn_pool = AttentionPool()

    def block_paths(self) -> Sequence[str]:
        """``blocks.0`` and ``blocks.1``."""
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Tokens ``[B, N, C]`` of the last norm; ``pooled`` by attention."""
        x = self.stem(x)
        grid = tuple(x.shape[2:])
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Features(tokens=x, pooled=self.attn_pool(x), n_prefix=0, grid=grid)

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` -> ``float32 [1, 15, 22]``."""
        values = torch.as_tensor(raw, dtype=torch.float32)[None, None] / 255
        return F.interpolate(values, size=SIZE, mode="bilinear", align_corners=False)[0]


def odd_encoder() -> OddEncoder:
    """A new frozen one; the same weights every time, none of them zero, the global random state untouched."""
    with fork_random([]):
        seed_random(0)
        encoder = OddEncoder()
        for parameter in encoder.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    encoder.freeze()
    return encoder
