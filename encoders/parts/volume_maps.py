"""A frozen encoder of one volume reads volumes of another kind, or several maps at once.

What was trained on one channel reads ``M`` of them by the mean of its first weights: each map gets the pre-trained
weights divided by ``M``, so that identical maps give the features of one. (The usual way to widen a first layer, as
timm's ``adapt_input_conv`` does for colours.) An encoder whose first layer is no 3D convolution that reads the input
alone gets the mean of the maps instead, which is the same function of a linear layer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.encoder import Encoder
from medgraft.errors import ConfigError, DataError, IncompatibleError
from medgraft.features import Features
from medgraft.registry import build_encoder


class MapsEncoder(Encoder):
    """An encoder of volumes on ``M`` maps ``[B, M * channels, D, H, W]``; its modules are the ones that it is given.

    Args:
        volume: The encoder of one volume.
        modality: What a raw sample is called.
        maps: Maps ``M`` of a sample.
        name: The encoder's full name.

    Attributes:
        widened: The first convolution reads the maps; else their mean is read.
    """

    def __init__(self, volume: Encoder, modality: str, maps: int, name: str) -> None:
        spec = volume.spec
        facts = {"name": name, "modality": modality, "channels": maps * spec.channels}
        super().__init__(spec.model_copy(update=facts))
        self.maps = maps
        self.widened = maps > 1 and widen_first(volume, maps)
        self.volume = volume
        self.n_stages, self.block_stages = volume.n_stages, volume.block_stages
        self.has_cls, self.rotary, self.sliced = volume.has_cls, volume.rotary, volume.sliced
        self.network_size, self.block_grid, self.loaded = volume.network_size, volume.block_grid, volume.loaded
        paths = ("path", "key_path", "value_path", "out_path")
        self.attention = [
            dataclasses.replace(each, **{part: _inside(getattr(each, part)) for part in paths})
            for each in volume.attention
        ]

    def block_paths(self) -> Sequence[str]:
        """Module path of each block."""
        return [_inside(path) for path in self.volume.block_paths()]

    def project(self, tokens: Tensor) -> Tensor:
        """As the encoder of one volume does, ``[..., C] -> [..., E]``."""
        return self.volume.project(tokens)

    def resize(self, x: Tensor) -> Tensor:
        """As the encoder of one volume does, ``[B, channels, *any] -> [B, channels, *network_size]``."""
        return self.volume.resize(x)

    def prepare(self, raw: Any) -> Tensor:
        """Volume ``float32 [D, H, W]``, or maps ``[M, D, H, W]`` -> ``float32 [M * channels, *input_size]``.

        Each map is prepared alone, as a volume of the encoder.

        Raises:
            DataError: There are not as many maps as the encoder reads.
        """
        if np.ndim(raw) == 3:
            raw = [raw]
        if len(raw) != self.maps:
            raise DataError(
                f"a sample has {len(raw)} maps, and encoder {self.spec.name} reads {self.maps}; name the encoder with "
                f"maps={len(raw)}",
                f"not {self.maps} maps",
            )
        return torch.cat([self.volume.prepare(each) for each in raw])

    def prefix(self, x: Tensor, stop: int) -> Tensor:
        """See :meth:`medgraft.encoder.Encoder.prefix`; ``[B, M * channels, D, H, W]`` at stage 0."""
        return x if stop == 0 else self.volume.prefix(self._joined(x), stop)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of a batch ``[B, M * channels, D, H, W]``, or of the hidden state that :meth:`prefix` gave."""
        return self.volume.encode(self._joined(x) if start == 0 else x, start=start)

    def forward(self, x: Tensor | Features, *, scores: bool = False, start: int = 0) -> Features:
        """Encodes a batch; see :meth:`medgraft.encoder.Encoder.forward`."""
        if isinstance(x, Features) or not scores:
            return super().forward(x, start=start)
        return self.volume(self._joined(x) if start == 0 else x, scores=True, start=start)

    def _joined(self, x: Tensor) -> Tensor:
        """What the encoder of one volume reads, ``[B, channels or M, D, H, W]``."""
        if x.ndim != 5 or x.shape[1] != self.spec.channels:
            raise ConfigError(
                f"encoder {self.spec.name} takes [B, {self.spec.channels}, D, H, W], got {list(x.shape)}; use prepare()"
            )
        if self.maps == 1 or self.widened:
            return x
        return x.unflatten(1, (self.maps, -1)).mean(dim=1)


def _inside(path: str) -> str:
    return f"volume.{path}" if path else ""


@torch.no_grad()
def widen_first(encoder: Encoder, maps: int) -> bool:
    """Lets an encoder of one channel read several, in place: its first weights, divided by their number, for each.

    Args:
        encoder: Of volumes ``[B, 1, D, H, W]``.
        maps: Channels that it reads afterwards.

    Returns:
        Whether it could be done: the first layer is a 3D convolution, and no other one reads a single channel.
    """
    layers = [(path, module) for path, module in encoder.named_modules() if isinstance(module, _LAYERS)]
    single = [path for path, module in layers if isinstance(module, nn.Conv3d) and module.in_channels == 1]
    if encoder.spec.channels != 1 or not layers or single != [layers[0][0]]:
        return False
    path, first = layers[0]
    if type(first) is not nn.Conv3d or first.groups != 1:
        return False
    bias = first.bias is not None
    wide = nn.Conv3d(
        maps,
        first.out_channels,
        first.kernel_size,  # pyright: ignore[reportArgumentType]  # a tuple of three, which the stub says of any length
        first.stride,  # pyright: ignore[reportArgumentType]
        first.padding,  # pyright: ignore[reportArgumentType]
        first.dilation,  # pyright: ignore[reportArgumentType]
        bias=bias,
        padding_mode=first.padding_mode,
        device=first.weight.device,
        dtype=first.weight.dtype,
    )
    wide.weight.copy_(first.weight.expand(-1, maps, -1, -1, -1) / maps)
    if bias:
        wide.bias.copy_(first.bias)  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]
    parent, _, leaf = path.rpartition(".")
    setattr(encoder.get_submodule(parent), leaf, wide)
    encoder.spec = encoder.spec.model_copy(update={"channels": maps})
    return True


AnyMaps = TypeVar("AnyMaps", bound=MapsEncoder)
_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def on_volumes(inner: str, modality: str, maps: int, name: str, kind: type[AnyMaps] = MapsEncoder) -> AnyMaps:
    """An encoder of maps from one of volumes.

    Args:
        inner: Full name of the encoder of volumes, weights included.
        modality: Of the result.
        maps: Maps of a sample.
        name: Full name of the result.
        kind: Its class.

    Raises:
        IncompatibleError: The encoder reads no volumes.
    """
    towers = build_encoder(inner).towers()
    if "volume" not in towers:
        raise IncompatibleError(f"encoder {inner} reads {' and '.join(towers)}; {modality} needs an encoder of volumes")
    encoder = kind(towers["volume"], modality, maps, name)
    encoder.freeze()
    return encoder
