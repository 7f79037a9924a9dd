"""A tiny encoder of recordings whose tokens lie on a grid of channels and time, for adapters along either axis."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoder.block_tokens import TIME, UNORDERED, BlockTokens
from medgraft.features import Features
from medgraft.testing.tiny import DEPTH, HEADS, PATCH, WIDTH, Block, Style, layouts, randomise
from medgraft.typed.pytorch import fork_random

CHANNELS, STEPS = 3, 6


class TinySignal(Encoder):
    """A transformer of two blocks on patches of each channel of a recording, behind a CLS token.

    Args:
        style: How attention is stored.
    """

    def __init__(self, style: Style) -> None:
        super().__init__(
            EncoderSpec(
                name=f"tiny:{style}-signal",
                modality="signal",
                input_size=(STEPS * PATCH,),
                channels=CHANNELS,
                dim=WIDTH,
                heads=HEADS,
                licence="Apache-2.0",
                weights="random",
            )
        )
        self.patches = nn.Linear(PATCH, WIDTH)
        self.cls = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.position = nn.Parameter(torch.zeros(1, CHANNELS * STEPS + 1, WIDTH))
        self.blocks = nn.ModuleList(Block(WIDTH, HEADS, style) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.attention = layouts(style, WIDTH, HEADS, DEPTH)
        randomise(self)

    def block_paths(self) -> list[str]:
        """``blocks.0`` and ``blocks.1``."""
        return [f"blocks.{i}" for i in range(len(self.blocks))]

    def block_tokens(self, index: int, count: int | None = None) -> BlockTokens:
        """Channels and time, behind the CLS token."""
        return BlockTokens(1, (CHANNELS, STEPS), UNORDERED + TIME, WIDTH)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of recordings ``[B, channels, T]``; ``pooled`` is the CLS token."""
        x = self.patches(x.unflatten(-1, (STEPS, PATCH))).flatten(1, 2)
        x = torch.cat([self.cls.expand(len(x), -1, -1), x], dim=1) + self.position
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return Features(tokens=x, pooled=x[:, 0], n_prefix=1, grid=(CHANNELS, STEPS))

    def prepare(self, raw: Any) -> Tensor:
        """A recording -> its first channels and samples, ``float32 [channels, T]``; zeros where it has none."""
        values = torch.as_tensor(raw.values)[:CHANNELS, : STEPS * PATCH]
        return nn.functional.pad(values, (0, STEPS * PATCH - values.shape[1], 0, CHANNELS - values.shape[0]))


def _made(style: Style) -> Encoder:
    with fork_random([]):
        return TinySignal(style).freeze()


SIGNAL_ENCODERS: Mapping[str, Callable[[], Encoder]] = {
    f"{style}-signal": functools.partial(_made, style) for style in ("packed", "split")
}
"""Name -> builder of what is tried where an adapter fits none of :data:`medgraft.testing.tiny.ENCODERS`."""
