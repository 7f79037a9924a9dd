"""SwiFT's published formula written plainly, as a yardstick: roll, windows by reshaping, a mask, an explicit softmax.

Kim et al., "SwiFT: Swin 4D fMRI Transformer", NeurIPS 2023 (arXiv 2307.05916), with the parameters of a
:class:`medgraft.encoders.swift.SwiFT`. Maps keep their four axes from block to block, windows are cut out and put back
by one reshape and one permutation each, the mask of a stage is made once a pass, and scores stand in memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.encoders.swift import SwiFT


def cut(maps: Tensor, window: Sequence[int]) -> Tensor:
    """Maps ``[B, H, W, D, T, C]`` -> windows ``[B * windows, h * w * d * t, C]``."""
    B, H, W, D, T, C = maps.shape
    h, w, d, t = window
    parts = maps.view(B, H // h, h, W // w, w, D // d, d, T // t, t, C)
    return parts.permute(0, 1, 3, 5, 7, 2, 4, 6, 8, 9).contiguous().view(-1, h * w * d * t, C)


def put_back(windows: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """The inverse of :func:`cut`, ``[B * windows, h * w * d * t, C] -> [B, H, W, D, T, C]``."""
    (H, W, D, T), (h, w, d, t) = size, window
    parts = windows.view(-1, H // h, W // w, D // d, T // t, h, w, d, t, windows.shape[-1])
    return parts.permute(0, 1, 5, 2, 6, 3, 7, 4, 8, 9).contiguous().view(-1, H, W, D, T, windows.shape[-1])


def shift_mask(size: Sequence[int], window: Sequence[int], shift: Sequence[int], like: Tensor) -> Tensor:
    """0 between tokens of one region and -100 between those of two, ``[windows, n, n]``."""
    numbers = torch.zeros(1, *size, 1, dtype=like.dtype, device=like.device)
    for number, places in enumerate(_regions(window, shift)):
        numbers[(0, *places)] = number
    regions = cut(numbers, window)[..., 0]
    apart = regions[:, None] - regions[:, :, None]
    return apart.masked_fill(apart != 0, -100.0)


def _regions(window: Sequence[int], shift: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    axes = [
        (slice(-w), slice(-w, -s), slice(-s, None)) if s else (slice(None),) for w, s in zip(window, shift, strict=True)
    ]
    for h in axes[0]:
        for w in axes[1]:
            for d in axes[2]:
                for t in axes[3]:
                    yield h, w, d, t


def attention(module: Any, windows: Tensor, mask: Tensor | None) -> Tensor:
    """Self-attention of each window, ``[B * windows, n, C] -> [B * windows, n, C]``."""
    b, n, C = windows.shape
    heads = module.heads
    q, k, v = module.qkv(windows).reshape(b, n, 3, heads, C // heads).permute(2, 0, 3, 1, 4).unbind(0)
    scores = (q * (C // heads) ** -0.5) @ k.transpose(-2, -1)
    if mask is not None:
        scores = scores.view(b // len(mask), len(mask), heads, n, n) + mask[None, :, None]
        scores = scores.view(-1, heads, n, n)
    return module.proj((scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, C))


def block(module: Any, x: Tensor, masks: dict[tuple[int, ...], Tensor]) -> Tensor:
    """One block on maps ``[B, H, W, D, T, C]``."""
    grid = x.shape[1:5]
    window = [min(length, wide) for length, wide in zip(grid, module.window, strict=True)]
    shift = [0 if length <= wide else s for length, wide, s in zip(grid, module.window, module.shift, strict=True)]
    behind = [-length % wide for length, wide in zip(grid, window, strict=True)]
    maps = F.pad(module.norm1(x), (0, 0, 0, behind[3], 0, behind[2], 0, behind[1], 0, behind[0]))
    size, mask = maps.shape[1:5], None
    if any(shift):
        maps = torch.roll(maps, [-s for s in shift], dims=(1, 2, 3, 4))
        key = (*size, *window, *shift)
        mask = masks[key] if key in masks else masks.setdefault(key, shift_mask(size, window, shift, x))
    maps = put_back(attention(module.attn, cut(maps, window), mask), window, size)
    if any(shift):
        maps = torch.roll(maps, shift, dims=(1, 2, 3, 4))
    H, W, D, T = grid
    x = x + maps[:, :H, :W, :D, :T]
    return x + module.mlp.linear2(F.gelu(module.mlp.linear1(module.norm2(x))))


def merged(module: Any, x: Tensor) -> Tensor:
    """Cubes of eight tokens joined, ``[B, H, W, D, T, C] -> [B, H / 2, W / 2, D / 2, T, C']``."""
    corners = [x[:, i::2, j::2, k::2] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    return module.reduction(module.norm(torch.cat(corners, dim=-1)))


def plain(network: SwiFT, x: Tensor) -> Tensor:
    """What the network makes of sequences.

    Args:
        network: Whose parameters are used.
        x: ``[B, in_chans, H, W, D, T]``.

    Returns:
        ``[B, C, h, w, d, T]``.
    """
    embed: Any = network.patch_embed
    B, channels, H, W, D, T = x.shape
    h, w, d = embed.patch
    x = x.view(B, channels, H // h, h, W // w, w, D // d, d, T).permute(0, 2, 4, 6, 8, 3, 5, 7, 1)
    x = embed.fc(x.reshape(B, H // h, W // w, D // d, T, h * w * d * channels))
    for number in range(len(network.layers)):
        position: Any = network.pos_embeds[number]
        stage: Any = network.layers[number]
        x = x + position.pos_embed.movedim(1, -1) + position.time_embed[..., :T].movedim(1, -1)
        masks: dict[tuple[int, ...], Tensor] = {}
        for each in stage.blocks:
            x = block(each, x, masks)
        if stage.downsample is not None:
            x = merged(stage.downsample, x)
    return x.movedim(-1, 1)
