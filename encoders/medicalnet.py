"""MedicalNet: 3D ResNets pre-trained to segment 23 medical data sets.

Chen et al., "Med3D: Transfer Learning for 3D Medical Image Analysis", 2019 (arXiv 1904.00625). The published network
keeps an eighth of the input's resolution: its last two stages have stride 1 and dilations 2 and 4, which its weights do
not tell. ``monai:resnet50`` is the same network with strides in their place, a thirty-second of the resolution.

Preparation after the authors' code: nearest-neighbour resize to 56 x 448 x 448, then z-scores over the voxels above 0.
Around the head the authors draw standard normal noise; here it is 0, the noise's mean, so that a volume always gives
the same features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.encoder import Encoder
from medgraft.encoders.hub import demand
from medgraft.encoders.loading import finish, hub_file, options_of, origin, seeded
from medgraft.encoders.monai import NOT_ENCODER
from medgraft.encoders.monai_networks import build_resnet
from medgraft.encoders.monai_towers import VolumeResNet
from medgraft.encoders.published import Release, volume_size
from medgraft.errors import DataError, UnknownNameError

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


class MedicalNetSource:
    """Entry point ``medicalnet``."""

    api_version = 1

    @staticmethod
    def models() -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            f"resnet{depth}": f"3D ResNet-{depth} with dilations, {512 if depth < 50 else 2048} features, CT and MRI"
            for depth in DEPTHS
        }

    @classmethod
    def build(
        cls,
        model: str,
        weights: str = "default",
        sha256: str | None = None,
        img_size: Sequence[int] = SIZE,
        **options: Any,
    ) -> Encoder:
        """Builds an encoder of volumes ``[1, D, H, W]``.

        Args:
            model: A key of :meth:`models`.
            weights: ``"default"`` (from the hub), ``"random"``, or a local file or a folder with one.
            sha256: Expected digest of the local file.
            img_size: Depth, height and width of a prepared volume; the network takes any.
            **options: Passed to MONAI's ResNet.

        Raises:
            UnknownNameError: No such model.
            ConfigError: An option does not fit.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        if model not in cls.models():
            raise UnknownNameError("medicalnet encoder", model, cls.models())
        name, source = f"medicalnet:{model}", origin(weights, sha256)
        size, depth = volume_size(name, img_size), model.removeprefix("resnet")
        if source == "default":
            demand(name, f"TencentMedicalNet/MedicalNet-Resnet{depth}")
        with seeded(), options_of(name):
            network = build_resnet(model, False, **options)
        dilate(network)
        files = (f"resnet_{depth}_23dataset.pth", f"resnet_{depth}.pth")
        release = Release(
            fetch=lambda: hub_file(name, f"TencentMedicalNet/MedicalNet-Resnet{depth}", *files),
            files=files,
            drop=HEADS,
            licence="MIT",
            cohorts=("3DSeg-8",),
        )
        release.load(network, source, sha256)
        intensity = "z-scores over the voxels above 0, background 0"
        spec = release.spec(name, source, input_size=size, intensity=intensity, dim=network.in_planes)
        return finish(MedicalNet(spec, network, "znorm"), source)
