"""Towers around MONAI's networks, and raw volumes and images as what they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.encoder import EncoderSpec
from medgraft.encoder.attention import AttentionLayout
from medgraft.encoders.parts.loading import StagedEncoder, raw_image
from medgraft.encoders.parts.monai_networks import Plan
from medgraft.errors import ConfigError, DataError
from medgraft.features import Features

INTENSITIES = {
    "znorm": "z-scores over the values that are not 0, background 0",
    "unit": "minimum and maximum of the input scaled to 0..1",
    "imagenet": "(grey / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)",
}


def prepare_volume(raw: Any, size: Sequence[int], intensity: str) -> Tensor:
    """Volume ``[D, H, W]`` -> ``float32 [1, *size]``, resampled to the whole grid and scaled.

    Args:
        raw: Values of any range; for ``"znorm"`` of a skull-stripped head whose background is 0.
        size: Depth, height and width of the result.
        intensity: A key of :data:`INTENSITIES`.
    """
    values = torch.as_tensor(np.ascontiguousarray(raw), dtype=torch.float32)
    if values.ndim != 3:
        raise DataError(f"a volume must be [D, H, W], got {list(values.shape)}")
    volume = values[None, None]
    if tuple(values.shape) != tuple(size):
        volume = F.interpolate(volume, size=tuple(size), mode="trilinear", align_corners=False)
    return _scaled(volume[0], intensity)


def prepare_image(raw: Any, size: Sequence[int], intensity: str, channels: int) -> Tensor:
    """Image ``uint8 [H, W]`` or ``[H, W, 3]`` -> ``float32 [channels, *size]``, resampled and scaled.

    Args:
        raw: Grey values or colours.
        size: Height and width of the result.
        intensity: A key of :data:`INTENSITIES`.
        channels: 1 or 3.
    """
    values = torch.as_tensor(np.array(raw_image(raw, channels)), dtype=torch.float32).reshape(*raw.shape[:2], channels)
    image = values.permute(2, 0, 1)[None]
    if tuple(image.shape[2:]) != tuple(size):
        image = F.interpolate(image, size=tuple(size), mode="bilinear", align_corners=False, antialias=True)
    if intensity != "imagenet":
        return _scaled(image[0], intensity)
    mean, deviation = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    if channels == 1:
        mean, deviation = mean.mean(0, keepdim=True), deviation.mean(0, keepdim=True)
    return (image[0] / 255 - mean) / deviation


def _scaled(values: Tensor, intensity: str) -> Tensor:
    if intensity == "unit":
        low, high = values.amin(), values.amax()
        return (values - low) / (high - low).clamp_min(1e-12)
    inside = values != 0
    if not bool(inside.any()):
        return values
    mean, deviation = values[inside].mean(), values[inside].std(correction=0)
    return torch.where(inside, (values - mean) / deviation.clamp_min(1e-12), 0.0)


class VolumeEncoder(StagedEncoder):
    """Common part of the MONAI encoders.

    Args:
        spec: Facts.
        model: The library's model, without a classifier.
        intensity: How a raw volume is scaled, a key of :data:`INTENSITIES`.
    """

    def __init__(self, spec: EncoderSpec, model: Any, intensity: str) -> None:
        super().__init__(spec)
        self.model: Any = model
        self.intensity = intensity

    def prepare(self, raw: Any) -> Tensor:
        """Volume ``[D, H, W]`` -> ``float32 [1, *input_size]``, or an image; see :func:`prepare_volume`."""
        if len(self.spec.input_size) == 2:
            return prepare_image(raw, self.spec.input_size, self.intensity, self.spec.channels)
        return prepare_volume(raw, self.spec.input_size, self.intensity)


class VolumeViT(VolumeEncoder):
    """MONAI's ViT, block by block; pooled at the CLS token, or by the mean where it has none."""

    def __init__(self, spec: EncoderSpec, model: Any, intensity: str) -> None:
        super().__init__(spec, model, intensity)
        self.has_cls = hasattr(model, "cls_token")
        self.set_blocks([f"model.blocks.{i}" for i in range(len(model.blocks))])
        self.attention = [
            AttentionLayout(
                "packed",
                f"model.blocks.{i}.attn.qkv",
                heads=block.attn.num_heads,
                dim=block.attn.inner_dim,
                out_path=f"model.blocks.{i}.attn.out_proj",
                scale=block.attn.scale,
            )
            for i, block in enumerate(model.blocks)
        ]

    def embed(self, x: Tensor) -> Tensor:
        """Patches with positions, ``[B, N, C]``; a CLS token, which has no position, comes first."""
        x = self.model.patch_embedding(x)
        return torch.cat([self.model.cls_token.expand(x.shape[0], -1, -1), x], dim=1) if self.has_cls else x

    def pool(self, x: Tensor) -> Features:
        """Final norm of ``[B, N, C]``; ``pooled``, ``[B, C]``, is the CLS token or the mean of all tokens."""
        tokens = self.model.norm(x)
        pooled = tokens[:, 0] if self.has_cls else tokens.mean(dim=1)
        return Features(tokens, pooled, int(self.has_cls), self.model.grid)


class FeatureMapEncoder(VolumeEncoder):
    """A network whose last feature map, flattened, is the tokens, and the map's mean ``pooled``."""

    has_cls = False
    any_size = True

    def pool(self, x: Tensor) -> Features:
        """``[B, C, D, H, W]`` -> tokens ``[B, D H W, C]``, and so of two axes."""
        pooled = (F.adaptive_avg_pool3d if x.ndim == 5 else F.adaptive_avg_pool2d)(x, 1).flatten(1)
        return Features(x.flatten(2).transpose(1, 2), pooled, 0, tuple(x.shape[2:]))


class VolumeResNet(FeatureMapEncoder):
    """MONAI's ResNet, by its four stages."""

    def __init__(self, spec: EncoderSpec, model: Any, intensity: str) -> None:
        super().__init__(spec, model, intensity)
        self.set_blocks([f"model.layer{i}" for i in (1, 2, 3, 4)])

    def embed(self, x: Tensor) -> Tensor:
        """Stem, ``[B, channels, *size] -> [B, C, *size']``.

        Convolution, norm, activation, and pooling unless the model does without.
        """
        model = self.model
        x = model.act(model.bn1(model.conv1(x)))
        return x if model.no_max_pool else model.maxpool(x)


class VolumeDenseNet(FeatureMapEncoder):
    """MONAI's DenseNet, by its dense blocks; each but the last is followed by a transition."""

    def __init__(self, spec: EncoderSpec, model: Any, intensity: str) -> None:
        super().__init__(spec, model, intensity)
        names = [name for name, _ in model.features.named_children() if name.startswith("denseblock")]
        self.set_blocks([f"model.features.{name}" for name in names])

    def embed(self, x: Tensor) -> Tensor:
        """Everything before the first dense block, ``[B, channels, *size] -> [B, C, *size']``."""
        for name, layer in self.model.features.named_children():
            if name.startswith("denseblock"):
                break
            x = layer(x)
        return x

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Runs dense blocks ``first`` to ``stop - 1``, each with the transition behind it.

        ``[B, C, *size] -> [B, C', *size']``.
        """
        for index in range(first, stop):
            x = getattr(self.model.features, f"denseblock{index + 1}")(x)
            if index + 1 < len(self._paths):
                x = getattr(self.model.features, f"transition{index + 1}")(x)
        return x

    def pool(self, x: Tensor) -> Features:
        """Last norm and activation, then as in :meth:`FeatureMapEncoder.pool`."""
        return super().pool(F.relu(self.model.features.norm5(x)))


class VolumeSwin(FeatureMapEncoder):
    """The Swin transformer inside MONAI's SwinUNETR, by its four stages. Its attention is windowed: no CLS scores."""

    def __init__(self, spec: EncoderSpec, model: Any, intensity: str) -> None:
        super().__init__(spec, model, intensity)
        self.set_blocks([f"model.layers{i}.0" for i in (1, 2, 3, 4)])

    def embed(self, x: Tensor) -> Tensor:
        """Patches of the volume, ``[B, C, D, H, W]``."""
        if any(length % 32 for length in x.shape[2:]):
            raise ConfigError(f"encoder {self.spec.name} needs sizes divisible by 32, got {list(x.shape[2:])}")
        return self.model.patch_embed(x)

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Runs stages ``first`` to ``stop - 1``, ``[B, C, D, H, W] -> [B, C', D', H', W']``."""
        for path in self._paths[first:stop]:
            x = self.get_submodule(path)(x.contiguous())
        return x

    def pool(self, x: Tensor) -> Features:
        """MONAI's norm without parameters over the channels, then as in :meth:`FeatureMapEncoder.pool`."""
        return super().pool(self.model.proj_out(x, normalize=True))


class StagedNetwork(FeatureMapEncoder):
    """Any other network, by the modules of its :class:`~medgraft.encoders.parts.monai_networks.Plan`."""

    def __init__(self, spec: EncoderSpec, model: Any, intensity: str, plan: Plan) -> None:
        super().__init__(spec, model, intensity)
        self.plan = plan
        self.set_blocks([f"model.{path}" for path in plan.blocks])

    def _through(self, x: Tensor, paths: Sequence[str]) -> Tensor:
        for path in paths:
            x = self.model.get_submodule(path)(x)
        return x

    def embed(self, x: Tensor) -> Tensor:
        """Everything before the first block, ``[B, channels, *size] -> [B, C, *size']``."""
        return self._through(x, self.plan.stem)

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Blocks ``first`` to ``stop - 1``, each with what follows it, ``[B, C, *size] -> [B, C', *size']``."""
        for index in range(first, stop):
            x = self._through(x, (self.plan.blocks[index], *self.plan.after[index : index + 1]))
        return x

    def pool(self, x: Tensor) -> Features:
        """The tail, then as in :meth:`FeatureMapEncoder.pool`."""
        return super().pool(self._through(x, self.plan.tail))
