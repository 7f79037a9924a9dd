"""A CNN trained from scratch: the reference that every frozen encoder must justify itself against.

A stem and two residual stages after He et al., "Deep Residual Learning for Image Recognition", CVPR 2016
(arXiv 1512.03385), in 2D or 3D, with group norm (Wu and He, ECCV 2018) because volumes come in small batches.
The head reads every place of the last feature map, not their mean: registered brains and chest films have their
findings at known places, and a network that averages over them learns nothing from some hundred subjects.

Larger ones, for volumes, are MONAI's 3D ResNet-50 and 3D DenseNet-121 (Huang et al., "Densely Connected Convolutional
Networks", CVPR 2017, arXiv 1608.06993) with batch norm and mean pooling: what Brain-Adapter (Zhang et al., 2025,
arXiv 2501.16282) compares itself with.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import grid_axes
from medgraft.fast.convolution import average_pool_3d
from medgraft.features import Features


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


class AveragePool3d(nn.AvgPool3d):
    """The mean over windows, also in half precision on a CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """``[B, C, *size] -> [B, C, *size / kernel_size]``."""
        return average_pool_3d(input, self.kernel_size)


class SmallCnn(nn.Module):
    """Averages 2 x 2 (x 2) values, then a stem that quarters the size and two residual stages.

    Args:
        rank: 2 for images, 3 for volumes.
        channels: Input channels.
        width: Channels of the stem and the first stage; the second has twice as many.
    """

    def __init__(self, rank: int, channels: int, width: int) -> None:
        super().__init__()
        flat, solid = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d), (nn.Conv3d, nn.MaxPool3d, AveragePool3d)
        conv, pool, average = flat if rank == 2 else solid
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


def build_large(architecture: str, channels: int = 1) -> Any:
    """MONAI's 3D ResNet-50 or DenseNet-121 up to its last feature map, with fresh weights.

    Args:
        architecture: ``resnet50`` or ``densenet121``.
        channels: Of its input.
    """
    from monai.networks.nets.densenet import DenseNet121
    from monai.networks.nets.resnet import resnet50

    if architecture == "resnet50":
        network: Any = resnet50(
            pretrained=False, spatial_dims=3, n_input_channels=channels, feed_forward=False, conv1_t_stride=2
        )
        parts = (network.conv1, network.bn1, network.act, network.maxpool)
        return nn.Sequential(*parts, network.layer1, network.layer2, network.layer3, network.layer4)
    return nn.Sequential(DenseNet121(spatial_dims=3, in_channels=channels, out_channels=1).features, nn.ReLU())


class ScratchCnn(Adapter):
    """Takes the place of an encoder that has no weights (``pixels:2d``, ``pixels:3d``).

    It is not an adapter of anything: it stands in the sweep under the same contract so that it is trained, measured
    and stored alike. A fresh network is not the identity (``identity_at_init`` is false).
    """

    paper = (
        "He et al., Deep Residual Learning for Image Recognition, CVPR 2016 (arXiv 1512.03385), reduced to a stem "
        "and two stages"
    )
    licence = "Apache-2.0"
    train_defaults = MappingProxyType({"lr": 0.001, "head_lr": 0.001, "epochs": 12, "batch_size": 16})
    size_knob = SizeKnob("width", lowest=8, step=8)
    search = MappingProxyType({"width": (8, 16, 24, 32, 48)})
    text_padding = 0
    identity_at_init = False

    class Config(AdapterConfig):
        """Options.

        Attributes:
            architecture: ``small``, or for volumes ``resnet50`` or ``densenet121``, the mean of whose last feature
                map the head reads.
            width: Channels of the small network's stem, a multiple of 8.
        """

        architecture: Literal["small", "resnet50", "densenet121"] = "small"
        width: int = Field(16, ge=8, multiple_of=8)

    config: Config

    def supports(self, encoder: Encoder) -> Support:
        """Fits encoders without weights."""
        if encoder.spec.weights == "none":
            if self.config.architecture == "small" or grid_axes(encoder) == 3:
                return Support(True)
            return Support(False, f"architecture {self.config.architecture!r} reads volumes; choose pixels:3d")
        return Support(False, "a network from scratch uses no encoder; choose pixels:2d or pixels:3d")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Shadows the encoder's ``encode`` with the network."""
        attachment = Attachment(encoder)
        attachment.record({"input": [sites["input"]]})
        if self.config.architecture == "small":
            self.network: nn.Module = SmallCnn(len(encoder.spec.input_size), encoder.spec.channels, self.config.width)
        else:
            self.network = build_large(self.config.architecture, encoder.spec.channels)
        attachment.set_attribute(encoder, "encode", self._encode)
        return attachment

    def _encode(self, x: Tensor, *, start: int = 0) -> Features:
        maps = self.network(x)
        tokens = maps.flatten(2).transpose(1, 2)
        pooled = maps.flatten(1) if self.config.architecture == "small" else tokens.mean(dim=1)
        return Features(tokens=tokens, pooled=pooled, n_prefix=0, grid=tuple(maps.shape[2:]))
