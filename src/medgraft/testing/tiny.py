"""Tiny encoders in plain PyTorch, one per way in which libraries store attention, so that a check downloads nothing.

``packed`` keeps ``[q | k | v]`` in one linear map (timm, MONAI), ``split`` in three (transformers) and ``mha`` in an
``nn.MultiheadAttention`` (open_clip); each exists for images and volumes. ``dual`` adds a text tower, ``cnn`` has no
attention and ``none`` no weights. All have what a careless adapter disturbs: batch statistics, dropout, a grid whose
axes differ, weights that are neither zero nor one.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec, MultimodalEncoder, TextEncoder
from medgraft.encoder.attention import AttentionLayout
from medgraft.errors import ConfigError
from medgraft.fast.convolution import average_pool_3d
from medgraft.features import Features
from medgraft.modality import find_modality
from medgraft.typed.pytorch import fork_random

Style = Literal["packed", "split", "mha"]
SIZES: dict[int, tuple[int, ...]] = {2: (16, 24), 3: (8, 12, 16)}
MODALITIES: dict[int, str] = {2: "image", 3: "volume"}
PATCH, WIDTH, TEXT_WIDTH, HEADS, DEPTH = 4, 32, 24, 2, 2
WORDS, LENGTH, SHARED = 40, 10, 20
DROPOUT = 0.1


class Attention(nn.Module):
    """Self-attention with one packed or three separate projections, ``[B, N, C] -> [B, N, C]``."""

    def __init__(self, dim: int, heads: int, packed: bool) -> None:
        super().__init__()
        self.heads = heads
        if packed:
            self.qkv = nn.Linear(dim, 3 * dim)
        else:
            self.query, self.key, self.value = (nn.Linear(dim, dim) for _ in range(3))
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` ``[B, N]``, or ``[B, N, N]`` by query, is true for tokens that may be attended to."""
        B, N, C = x.shape
        parts = self.qkv(x).chunk(3, dim=-1) if hasattr(self, "qkv") else (self.query(x), self.key(x), self.value(x))
        q, k, v = (part.view(B, N, self.heads, C // self.heads).transpose(1, 2) for part in parts)
        bias = None if mask is None else mask[:, None] if mask.ndim == 3 else mask[:, None, None, :]
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.out(mixed.transpose(1, 2).reshape(B, N, C))


class Block(nn.Module):
    """Pre-norm transformer block, ``[B, N, C] -> [B, N, C]``."""

    def __init__(self, dim: int, heads: int, style: Style) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = (
            nn.MultiheadAttention(dim, heads, dropout=DROPOUT, batch_first=True)
            if style == "mha"
            else Attention(dim, heads, style == "packed")
        )
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """``mask`` ``[B, N]`` is true for tokens that may be attended to."""
        h = self.norm1(x)
        h = (
            self.attn(h, h, h, need_weights=False)[0]
            if isinstance(self.attn, nn.MultiheadAttention)
            else self.attn(h, mask)
        )
        x = x + h
        return x + self.mlp(self.norm2(x))


def layouts(style: Style, dim: int, heads: int, depth: int) -> list[AttentionLayout]:
    """Where the blocks of this module keep their attention."""
    attention: list[AttentionLayout] = []
    for i in range(depth):
        path = f"blocks.{i}.attn"
        if style == "mha":
            attention.append(AttentionLayout("mha", path, heads, dim))
        elif style == "packed":
            attention.append(AttentionLayout("packed", f"{path}.qkv", heads, dim, out_path=f"{path}.out"))
        else:
            out, key, value = f"{path}.out", f"{path}.key", f"{path}.value"
            attention.append(
                AttentionLayout("split", f"{path}.query", heads, dim, key_path=key, value_path=value, out_path=out)
            )
    return attention


class TinyViT(Encoder):
    """A ViT of two blocks on images or volumes, with batch norm behind its patches.

    Args:
        style: How attention is stored.
        rank: 2 for images, 3 for volumes.
        channels: Input channels.
        shared_dim: Width of the space shared with text, 0 for none.
    """

    def __init__(self, style: Style, rank: int, channels: int = 1, shared_dim: int = 0) -> None:
        size = SIZES[rank]
        super().__init__(_spec(f"tiny:{style}-{rank}d", MODALITIES[rank], size, WIDTH, HEADS, channels))
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if rank == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.grid = tuple(length // PATCH for length in size)
        self.patches = nn.Sequential(conv(channels, WIDTH, PATCH, stride=PATCH), norm(WIDTH))
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(torch.zeros(1, math.prod(self.grid) + 1, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, style) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.shared = nn.Linear(WIDTH, shared_dim) if shared_dim else nn.Identity()
        self.attention = layouts(style, WIDTH, HEADS, DEPTH)
        self.block_stages = range(1, DEPTH + 1)
        self.n_stages = DEPTH + 1
        randomise(self)

    def block_paths(self) -> Sequence[str]:
        """``blocks.0`` and ``blocks.1``."""
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        """Stage ``1 + i`` precedes block ``i``; its input is ``[B, N, C]``."""
        if not 0 <= stop < self.n_stages:
            raise ConfigError(f"encoder {self.spec.name} has stages 0 to {self.n_stages - 1}, not {stop}")
        if stop == 0:
            return x
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        for block in list(self.blocks)[: stop - 1]:
            x = block(x)
        return x

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of ``[B, ...]``; ``pooled`` is the CLS token."""
        if start == 0:
            x, start = self.prefix(x, 1), 1
        for block in list(self.blocks)[start - 1 :]:
            x = block(x)
        x = self.norm(x)
        return Features(tokens=x, pooled=x[:, 0], n_prefix=1, grid=self.grid)

    def project(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` into the space shared with text; the identity without one."""
        return self.shared(tokens)

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` or volume ``float32 [D, H, W]`` -> ``float32 [channels, *input_size]``."""
        return _resized(raw, self.spec)


class TinyText(TextEncoder):
    """A transformer of two blocks on hashed words; padding is masked.

    Args:
        style: ``packed`` or ``split``.
        shared_dim: Width of the space shared with images, 0 for none.
    """

    any_length = True

    def __init__(self, style: Style, shared_dim: int = 0) -> None:
        super().__init__(_spec("tiny:text", "text", (LENGTH,), TEXT_WIDTH, HEADS, 1))
        self.words = nn.Embedding(WORDS, TEXT_WIDTH)
        self.position = nn.Parameter(torch.zeros(1, LENGTH, TEXT_WIDTH))
        self.blocks = nn.ModuleList(Block(TEXT_WIDTH, HEADS, style) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(TEXT_WIDTH)
        self.shared = nn.Linear(TEXT_WIDTH, shared_dim) if shared_dim else nn.Identity()
        self.attention = layouts(style, TEXT_WIDTH, HEADS, DEPTH)
        randomise(self)

    def block_paths(self) -> Sequence[str]:
        """``blocks.0`` and ``blocks.1``."""
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of token ids ``[B, L]``; ``pooled`` is the CLS token."""
        mask = self.real_tokens(x)
        tokens = self.words(x) + self.position[:, : x.shape[1]]
        for block in self.blocks:
            tokens = block(tokens, mask)
        tokens = self.norm(tokens)
        return Features(tokens=tokens, pooled=tokens[:, 0], n_prefix=1, grid=(x.shape[1] - 1,), mask=mask)

    def project(self, tokens: Tensor) -> Tensor:
        """``[..., C]`` into the space shared with images; the identity without one."""
        return self.shared(tokens)

    def prepare(self, raw: Any) -> Tensor:
        """A text -> ``int64 [L]``: CLS, hashed words, padding."""
        ids = [1, *(2 + zlib.crc32(word.encode()) % (WORDS - 2) for word in str(raw).lower().split())][:LENGTH]
        return torch.tensor(ids + [self.pad_id] * (LENGTH - len(ids)))


class TinyCnn(Encoder):
    """Two convolutions with batch norm; no attention and no CLS token."""

    has_cls = False

    def __init__(self, rank: int) -> None:
        size = SIZES[rank]
        super().__init__(_spec(f"tiny:cnn-{rank}d", MODALITIES[rank], size, WIDTH, 0, 1, pooling="mean"))
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if rank == 2 else (nn.Conv3d, nn.BatchNorm3d)
        widths = ((1, WIDTH // 2), (WIDTH // 2, WIDTH))
        self.stages = nn.ModuleList(
            nn.Sequential(conv(narrow, wide, 3, stride=2, padding=1), norm(wide), nn.ReLU()) for narrow, wide in widths
        )
        self.block_stages = (1, 2)
        self.n_stages = 3
        randomise(self)

    def block_paths(self) -> Sequence[str]:
        """``stages.0`` and ``stages.1``."""
        return ["stages.0", "stages.1"]

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        """Stage ``1 + i`` precedes convolution ``i``; its input is ``[B, C, ...]``."""
        if not 0 <= stop < self.n_stages:
            raise ConfigError(f"encoder {self.spec.name} has stages 0 to {self.n_stages - 1}, not {stop}")
        for stage in list(self.stages)[: max(stop - 1, 0)]:
            x = stage(x)
        return x

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """The last feature map, flattened to ``[B, N, C]``, and its mean."""
        for stage in list(self.stages)[max(start - 1, 0) :]:
            x = stage(x)
        tokens = x.flatten(2).transpose(1, 2)
        return Features(tokens=tokens, pooled=tokens.mean(dim=1), n_prefix=0, grid=tuple(x.shape[2:]))

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` or volume ``float32 [D, H, W]`` -> ``float32 [1, *input_size]``."""
        return _resized(raw, self.spec)


class TinyPixels(Encoder):
    """Average-pooled values and no weights, for networks that take an encoder's place."""

    has_cls = False

    def __init__(self, rank: int) -> None:
        size = SIZES[rank]
        super().__init__(_spec(f"tiny:none-{rank}d", MODALITIES[rank], size, 1, 0, 1, weights="none", pooling="none"))
        self.grid = tuple(length // PATCH for length in size)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """``[B, 1, *input_size]`` -> tokens ``[B, N, 1]`` and pooled ``[B, N]``."""
        values = (F.avg_pool2d if x.ndim == 4 else average_pool_3d)(x, PATCH).flatten(1)
        return Features(values[:, :, None], values, 0, self.grid)

    def prepare(self, raw: Any) -> Tensor:
        """Image ``uint8 [H, W]`` or volume ``float32 [D, H, W]`` -> ``float32 [1, *input_size]``."""
        return _resized(raw, self.spec)


def _spec(
    name: str,
    modality: str,
    size: tuple[int, ...],
    dim: int,
    heads: int,
    channels: int,
    weights: str = "random",
    pooling: str = "cls",
) -> EncoderSpec:
    return EncoderSpec(
        name=name,
        modality=modality,
        input_size=size,
        channels=channels,
        dim=dim,
        heads=heads,
        pooling=pooling,
        licence="Apache-2.0",
        weights=weights,
    )


def randomise(encoder: Encoder) -> None:
    """Draws every weight and statistic, so that a copy of one cannot be taken for a fresh norm or a zero start."""
    generator = torch.Generator().manual_seed(zlib.crc32(encoder.spec.name.encode()))
    with torch.no_grad():
        for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]:
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            fan_in = math.prod(tensor.shape[1:]) if tensor.ndim > 1 else 1
            centred = name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight"))
            tensor.copy_(1 + 0.1 * noise.clamp(-3, 3) if centred else noise * (0.1 if fan_in == 1 else fan_in**-0.5))


def _resized(raw: Any, spec: EncoderSpec) -> Tensor:
    values = torch.as_tensor(np.ascontiguousarray(raw), dtype=torch.float32)[None, None]
    flat = len(spec.input_size) == 2
    values, mode = (values / 255, "bilinear") if flat else (values, "trilinear")
    values = F.interpolate(values, size=spec.input_size, mode=mode, align_corners=False)[0]
    return values.repeat(spec.channels, *(1 for _ in spec.input_size))


def _dual(rank: int) -> MultimodalEncoder:
    shared = SHARED if rank == 2 else 0
    style: Style = "packed" if rank == 2 else "split"
    visual = TinyViT(style, rank, shared_dim=shared)
    joined = f"{visual.spec.modality}+text"
    spec = visual.spec.model_copy(update={"name": f"tiny:dual-{rank}d", "modality": joined})
    towers = {visual.spec.modality: visual, "text": TinyText(style, shared)}
    return MultimodalEncoder(spec, towers, logit_scale=10.0 if shared else None)


_KINDS: Mapping[str, Callable[[], Encoder]] = {
    "packed-2d": lambda: TinyViT("packed", 2, channels=3),
    "packed-3d": lambda: TinyViT("packed", 3),
    "split-2d": lambda: TinyViT("split", 2),
    "split-3d": lambda: TinyViT("split", 3),
    "mha-2d": lambda: TinyViT("mha", 2),
    "mha-3d": lambda: TinyViT("mha", 3),
    "dual-2d": lambda: _dual(2),
    "dual-3d": lambda: _dual(3),
    "cnn-2d": lambda: TinyCnn(2),
    "none-2d": lambda: TinyPixels(2),
    "none-3d": lambda: TinyPixels(3),
}


def tiny_encoder(name: str) -> Encoder:
    """A new frozen encoder of :data:`ENCODERS`; the same weights every time, the global random state untouched."""
    with fork_random([]):
        return _KINDS[name]().freeze()


ENCODERS: Mapping[str, Callable[[], Encoder]] = {name: functools.partial(tiny_encoder, name) for name in _KINDS}
"""Name -> builder of each tiny encoder."""


def example_inputs(encoder: Encoder, size: int = 3, seed: int = 1) -> dict[str, Tensor]:
    """A prepared batch for each tower, the same for the same seed.

    Args:
        encoder: Whose specs give shapes.
        size: Samples ``B``.
        seed: Of the values.

    Returns:
        Modality -> ``float [B, channels, *input_size]`` in the encoder's precision, ``int64 [B, L]`` for text, of which
        all rows but the first end in padding, or what else the modality says.
    """
    generator = torch.Generator().manual_seed(seed)
    kind = next((p.dtype for p in encoder.parameters() if p.is_floating_point()), torch.float32)
    inputs: dict[str, Tensor] = {}
    for name, tower in encoder.towers().items():
        values = find_modality(tower.spec.modality).example_batch(tower, size, generator)
        inputs[name] = values.to(kind) if values.is_floating_point() else values
    return inputs
