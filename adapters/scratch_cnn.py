"""A small CNN trained from scratch: the reference that every frozen encoder must justify itself against.

A stem and two residual stages after He et al., "Deep Residual Learning for Image Recognition", CVPR 2016
(arXiv 1512.03385), in 2D or 3D, with group norm (Wu and He, ECCV 2018) because volumes come in small batches.
The head reads every place of the last feature map, not their mean: registered brains and chest films have their
findings at known places, and a network that averages over them learns nothing from some hundred subjects.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.encoder import Encoder
from medgraft.features import Features
from medgraft.sites import Site


class ResidualStage(nn.Module):
    """A convolution to a new width and size, then one residual block.

    Args:
        rank: 2 for images, 3 for volumes.
        in_channels: Channels in.
        out_channels: Channels out.
        stride: Of the first convolution.
    """

    def __init__(self, rank: int, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        conv = nn.Conv2d if rank == 2 else nn.Conv3d
        self.down = conv(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(8, out_channels)
        self.conv1 = conv(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(8, out_channels)
        self.conv2 = conv(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm3 = nn.GroupNorm(8, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, in_channels, *size] -> [B, out_channels, *size / stride]``."""
        x = F.relu(self.norm1(self.down(x)))
        return F.relu(x + self.norm3(self.conv2(F.relu(self.norm2(self.conv1(x))))))


class SmallCnn(nn.Module):
    """Averages 2 x 2 (x 2) values, then a stem that quarters the size and two residual stages.

    Args:
        rank: 2 for images, 3 for volumes.
        channels: Input channels.
        width: Channels of the stem and the first stage; the second has twice as many.
    """

    def __init__(self, rank: int, channels: int, width: int) -> None:
        super().__init__()
        flat = rank == 2
        conv, pool, average = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d) if flat else (nn.Conv3d, nn.MaxPool3d, nn.AvgPool3d)
        self.stem = nn.Sequential(
            average(2),
            conv(channels, width, 3, stride=2, padding=1, bias=False),
            nn.GroupNorm(8, width),
            nn.ReLU(),
            pool(2),
        )
        self.stages = nn.Sequential(
            ResidualStage(rank, width, width, stride=1), ResidualStage(rank, width, 2 * width, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, *size]`` -> last feature map ``[B, 2 width, *size / 16]``."""
        return self.stages(self.stem(x))


class ScratchCnn(Adapter):
    """Takes the place of an encoder that has no weights (``pixels:2d``, ``pixels:3d``).

    It is not an adapter of anything: it stands in the sweep under the same contract so that it is trained, measured
    and stored alike. A fresh network is not the identity (``identity_at_init`` is false).
    """

    identity_at_init = False

    class Config(AdapterConfig):
        """Options.

        Attributes:
            width: Channels of the stem, a multiple of 8.
        """

        width: int = Field(16, ge=8, multiple_of=8)

    config: Config

    def supports(self, encoder: Encoder) -> Support:
        """Fits encoders without weights."""
        if encoder.spec.weights == "none":
            return Support(True)
        return Support(False, "a network from scratch uses no encoder; choose pixels:2d or pixels:3d")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Shadows the encoder's ``encode`` with the network."""
        attachment = Attachment(encoder)
        attachment.record({"input": [sites["input"]]})
        self.network = SmallCnn(len(encoder.spec.input_size), encoder.spec.channels, self.config.width)
        attachment.set_attribute(encoder, "encode", self._encode)
        return attachment

    def _encode(self, x: Tensor, *, start: int = 0) -> Features:
        maps = self.network(x)
        tokens = maps.flatten(2).transpose(1, 2)
        return Features(tokens=tokens, pooled=maps.flatten(1), n_prefix=0, grid=tuple(maps.shape[2:]))
