"""MedicalNet: 3D ResNets pre-trained to segment 23 medical data sets.

Chen et al., "Med3D: Transfer Learning for 3D Medical Image Analysis", 2019 (arXiv 1904.00625). The published network
keeps an eighth of the input's resolution: its last two stages have stride 1 and dilations 2 and 4, which its weights do
not tell. ``monai:resnet50`` is the same network with strides in their place, a thirty-second of the resolution.

Preparation after the authors' code: nearest-neighbour resize to 56 x 448 x 448, then z-scores over the voxels above 0.
Around the head the authors draw standard normal noise; here it is 0, the noise's mean, so that a volume always gives
the same features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.monai import NOT_ENCODER
from medgraft.encoders.parts.loading import hub_file
from medgraft.encoders.parts.monai_networks import build_resnet
from medgraft.encoders.parts.monai_towers import VolumeResNet
from medgraft.encoders.parts.published import PublishedSource, Release
from medgraft.errors import DataError

SIZE = (56, 448, 448)
DEPTHS = (10, 18, 34, 50, 101, 152, 200)
DILATIONS = {"layer3": 2, "layer4": 4}
HEADS = (*NOT_ENCODER, r"^conv_seg\.")


def dilate(network: nn.Module) -> None:
    """Gives the last two stages of a 3D ResNet the published dilations in place of strides, in place."""
    for stage, rate in DILATIONS.items():
        modules: list[Any] = list(network.get_submodule(stage).modules())
        for module in modules:
            if isinstance(module, nn.Conv3d):
                module.stride = (1, 1, 1)
                if module.kernel_size[0] == 3:
                    module.dilation = module.padding = (rate, rate, rate)
            elif isinstance(shortcut := getattr(module, "downsample", None), partial):
                module.downsample = partial(shortcut, stride=1)


def prepare_volume(raw: Any, size: Sequence[int]) -> Tensor:
    """Volume ``[D, H, W]`` -> ``float32 [1, *size]``, z-scores over what is above 0, elsewhere 0.

    Raises:
        DataError: It has other than three axes.
    """
    values = torch.as_tensor(np.ascontiguousarray(raw), dtype=torch.float32)
    if values.ndim != 3:
        raise DataError(f"a volume must be [D, H, W], got {list(values.shape)}")
    volume = F.interpolate(values[None, None], size=tuple(size), mode="nearest-exact")[0]
    inside = volume > 0
    if not bool(inside.any()):
        return torch.zeros_like(volume)
    mean, deviation = volume[inside].mean(), volume[inside].std(correction=0)
    return torch.where(inside, (volume - mean) / deviation.clamp_min(1e-12), 0.0)


class MedicalNet(VolumeResNet):
    """A dilated 3D ResNet, stage by stage; ``pooled`` is the mean of the last map."""

    def prepare(self, raw: Any) -> Tensor:
        """Volume ``float32 [D, H, W]`` -> ``float32 [1, *input_size]``; see :func:`prepare_volume`."""
        return prepare_volume(raw, self.spec.input_size)


class MedicalNetSource(PublishedSource):
    """Entry point ``medicalnet``; its options are those of MONAI's ResNet."""

    name, size = "medicalnet", SIZE

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            f"resnet{depth}": f"3D ResNet-{depth} with dilations, {512 if depth < 50 else 2048} features, CT and MRI"
            for depth in DEPTHS
        }

    @classmethod
    def release(cls, model: str) -> Release:
        """See :class:`PublishedSource`."""
        depth = model.removeprefix("resnet")
        place, files = (
            f"TencentMedicalNet/MedicalNet-Resnet{depth}",
            (f"resnet_{depth}_23dataset.pth", f"resnet_{depth}.pth"),
        )
        return Release(
            place=place,
            fetch=lambda: hub_file(f"medicalnet:{model}", place, *files),
            files=files,
            drop=HEADS,
            licence="MIT",
            cohorts=("3DSeg-8",),
        )

    @classmethod
    def network(cls, model: str, size: tuple[int, int, int], **options: Any) -> nn.Module:
        """The network takes volumes of any size; see :class:`PublishedSource`."""
        network = build_resnet(model, False, **options)
        dilate(network)
        return network

    @classmethod
    def encoder(cls, model: str, network: Any, facts: Callable[..., EncoderSpec]) -> Encoder:
        """See :class:`PublishedSource`."""
        spec = facts(intensity="z-scores over the voxels above 0, background 0", dim=network.in_planes)
        return MedicalNet(spec, network, "znorm")
