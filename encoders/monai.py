"""Encoders from MONAI for volumes of one channel: 3D ViT, ResNet, DenseNet and the Swin encoder of SwinUNETR.

``monai:vit`` fits BrainIAC-like checkpoints as it stands, and M3D-CLIP's vision encoder with
``img_size=(32, 256, 256), patch_size=(4, 16, 16), proj_type="perceptron", classification=True, intensity="unit"``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.attention import AttentionLayout
from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.loading import StagedEncoder, fetching, finish, load_file, options_of, origin, seeded
from medgraft.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from medgraft.features import Features

INTENSITIES = {
    "znorm": "z-scores over the voxels that are not 0, background 0",
    "unit": "minimum and maximum of the volume scaled to 0..1",
}
WITH_WEIGHTS = ("resnet18", "resnet50")


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
    volume = volume[0]
    if intensity == "unit":
        low, high = volume.amin(), volume.amax()
        return (volume - low) / (high - low).clamp_min(1e-12)
    inside = volume != 0
    if not bool(inside.any()):
        return volume
    mean, deviation = volume[inside].mean(), volume[inside].std(correction=0)
    return torch.where(inside, (volume - mean) / deviation.clamp_min(1e-12), 0.0)


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
        """Volume ``float32 [D, H, W]`` -> ``float32 [1, *input_size]``; see :func:`prepare_volume`."""
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
        return torch.cat([self.model.cls_token.expand(len(x), -1, -1), x], dim=1) if self.has_cls else x

    def pool(self, x: Tensor) -> Features:
        """Final norm; ``pooled`` is the CLS token or the mean of all tokens."""
        tokens = self.model.norm(x)
        pooled = tokens[:, 0] if self.has_cls else tokens.mean(dim=1)
        return Features(tokens, pooled, int(self.has_cls), self.model.grid)


class FeatureMapEncoder(VolumeEncoder):
    """A network whose last feature map, flattened, is the tokens, and the map's mean ``pooled``."""

    has_cls = False
    any_size = True

    def pool(self, x: Tensor) -> Features:
        """``[B, C, D, H, W]`` -> tokens ``[B, D H W, C]``."""
        pooled = F.adaptive_avg_pool3d(x, 1).flatten(1)
        return Features(x.flatten(2).transpose(1, 2), pooled, 0, tuple(x.shape[2:]))


class VolumeResNet(FeatureMapEncoder):
    """MONAI's ResNet, by its four stages."""

    def __init__(self, spec: EncoderSpec, model: Any, intensity: str) -> None:
        super().__init__(spec, model, intensity)
        self.set_blocks([f"model.layer{i}" for i in (1, 2, 3, 4)])

    def embed(self, x: Tensor) -> Tensor:
        """Stem: convolution, norm, activation, and pooling unless the model does without."""
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
        """Everything before the first dense block."""
        for name, layer in self.model.features.named_children():
            if name.startswith("denseblock"):
                break
            x = layer(x)
        return x

    def run(self, x: Tensor, first: int, stop: int) -> Tensor:
        """Runs dense blocks ``first`` to ``stop - 1``, each with the transition behind it."""
        for index in range(first, stop):
            x = getattr(self.model.features, f"denseblock{index + 1}")(x)
            if index + 1 < len(self._paths):
                x = getattr(self.model.features, f"transition{index + 1}")(x)
        return x

    def pool(self, x: Tensor) -> Features:
        """Last norm and activation, then as every feature map."""
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
        """Runs stages ``first`` to ``stop - 1``."""
        for path in self._paths[first:stop]:
            x = self.get_submodule(path)(x.contiguous())
        return x

    def pool(self, x: Tensor) -> Features:
        """MONAI's norm without parameters over the channels, then as every feature map."""
        return super().pool(self.model.proj_out(x, normalize=True))


# -- building ---------------------------------------------------------------------------------------------------------


def _padded_shortcut(x: Tensor, planes: int, stride: int) -> Tensor:
    """Shortcut "A" of a ResNet: every ``stride``-th voxel, missing channels 0.

    MONAI's own reads ``.data`` on the way, which cuts the gradient to every adapter before it.
    """
    x = x[:, :, ::stride, ::stride, ::stride]
    return F.pad(x, (0, 0) * 3 + (0, planes - x.shape[1]))


def build_resnet(model: str, pretrained: bool, **options: Any) -> Any:
    """A 3D ResNet of MONAI for one channel, without a classifier; shortcuts as in MedicalNet's unless told otherwise.

    Args:
        model: ``resnet10``, ``18``, ``34``, ``50``, ``101``, ``152`` or ``200``.
        pretrained: Let MONAI fetch MedicalNet's weights.
        **options: Passed to MONAI.
    """
    from monai.networks import nets
    from monai.networks.nets.resnet import get_medicalnet_pretrained_resnet_args

    bias, shortcut = get_medicalnet_pretrained_resnet_args(int(model.removeprefix("resnet")))
    settings: dict[str, Any] = {"bias_downsample": bias, "shortcut_type": shortcut, "conv1_t_stride": 2, **options}
    network = getattr(nets, model)(
        pretrained=pretrained, spatial_dims=3, n_input_channels=1, feed_forward=False, **settings
    )
    for block in network.modules():
        if isinstance(shortcut_a := getattr(block, "downsample", None), partial):
            planes, stride = shortcut_a.keywords["planes"], shortcut_a.keywords["stride"]
            block.downsample = partial(_padded_shortcut, planes=planes, stride=stride)
    return network


def build_densenet(model: str, pretrained: bool, **options: Any) -> Any:
    """A 3D DenseNet-121 of MONAI for one channel, without a classifier."""
    from monai.networks.nets.densenet import DenseNet121

    network = DenseNet121(spatial_dims=3, in_channels=1, out_channels=1, **options)
    network.class_layers = nn.Sequential()
    return network


def build_swin(model: str, pretrained: bool, feature_size: int = 48, **options: Any) -> Any:
    """The Swin transformer inside MONAI's SwinUNETR, for one channel."""
    from monai.networks.nets.swin_unetr import SwinTransformer

    common: dict[str, Any] = {"depths": (2, 2, 2, 2), "num_heads": (3, 6, 12, 24)}
    return SwinTransformer(
        in_chans=1, embed_dim=feature_size, window_size=(7, 7, 7), patch_size=(2, 2, 2), **{**common, **options}
    )


def build_vit(model: str, pretrained: bool, img_size: tuple[int, ...], patch_size: Any = 16, **options: Any) -> Any:
    """A 3D ViT of MONAI for one channel, without what newer releases add to it and older checkpoints do not have."""
    from monai.networks.nets.vit import ViT

    network: Any = ViT(in_channels=1, img_size=img_size, patch_size=patch_size, spatial_dims=3, **options)
    for block in network.blocks:
        block.norm_cross_attn = nn.Identity()  # never called without a context, and unknown to older checkpoints
    if hasattr(network, "classification_head"):
        del network.classification_head
    steps = patch_size if isinstance(patch_size, list | tuple) else (patch_size,) * len(img_size)
    network.grid = tuple(length // step for length, step in zip(img_size, steps, strict=True))  # MONAI keeps neither
    return network


def rename_swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the self-supervised ``model_swinvit.pt``, whose MLPs are named as in the original Swin."""
    return {re.sub(r"\bmlp\.fc([12])\b", r"mlp.linear\1", key): value for key, value in state.items()}


BUILDERS: dict[str, tuple[Callable[..., Any], type[VolumeEncoder], str]] = {
    "vit": (build_vit, VolumeViT, "znorm"),
    "resnet18": (build_resnet, VolumeResNet, "znorm"),
    "resnet50": (build_resnet, VolumeResNet, "znorm"),
    "densenet121": (build_densenet, VolumeDenseNet, "znorm"),
    "swin_unetr": (build_swin, VolumeSwin, "unit"),
}
# Parts of published checkpoints that are not the encoder: classifiers, pre-training heads, unused norms.
NOT_ENCODER = (
    r"norm_cross_attn\.",
    r"cross_attn\.",
    r"^classification_head\.",
    r"^class_layers\.",
    r"^fc\.",
    r"^(rotation|contrastive|conv)_?(pre|head)?\.",
)


class MonaiSource:
    """Entry point ``monai``."""

    api_version = 1

    @staticmethod
    def models() -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        return {
            "vit": "3D ViT-B/16 at 96 x 96 x 96 without a CLS token (BrainIAC); options give it one (M3D-CLIP)",
            "resnet18": "3D ResNet-18; the default weights are MedicalNet's",
            "resnet50": "3D ResNet-50; the default weights are MedicalNet's",
            "densenet121": "3D DenseNet-121",
            "swin_unetr": "Swin encoder of SwinUNETR, feature size 48; reads model_swinvit.pt",
        }

    @classmethod
    def build(
        cls,
        model: str,
        weights: str = "default",
        sha256: str | None = None,
        img_size: Sequence[int] = (96, 96, 96),
        intensity: str | None = None,
        **options: Any,
    ) -> Encoder:
        """Builds an encoder of volumes ``[1, D, H, W]``.

        Args:
            model: A key of :meth:`models`.
            weights: ``"default"`` (ResNets only), ``"random"``, or a local file.
            sha256: Expected digest of the local file.
            img_size: Depth, height and width of a prepared volume.
            intensity: ``"znorm"`` or ``"unit"``; unless given, what the model's published weights expect.
            **options: Passed to MONAI's class, for example ``hidden_size``, ``classification`` or ``shortcut_type``.

        Raises:
            UnknownNameError: No such model.
            ConfigError: An option does not fit the model.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        if model not in BUILDERS:
            raise UnknownNameError("monai encoder", model, BUILDERS)
        name, source, size = f"monai:{model}", origin(weights, sha256), tuple(int(n) for n in img_size)
        create, kind, usual = BUILDERS[model]
        intensity = intensity or usual
        if intensity not in INTENSITIES:
            raise UnknownNameError("intensity", intensity, INTENSITIES)
        if model == "vit":
            options["img_size"] = size
        if source == "default" and model not in WITH_WEIGHTS:
            raise CheckpointError(f"encoder {name}: MONAI offers no weights of it; use @random or @/path/to/file")
        if source == "default":
            with fetching(name):
                network = create(model, True, **options)
        else:
            with seeded(), options_of(name):
                network = create(model, False, **options)
        if isinstance(source, Path):
            load_file(network, source, sha256, drop=NOT_ENCODER, convert=rename_swin)
        return finish(kind(_facts(name, model, network, source, size, intensity), network, intensity), source)


def _facts(
    name: str, model: str, network: Any, source: str | Path, size: tuple[int, ...], intensity: str
) -> EncoderSpec:
    if len(size) != 3 or (model == "swin_unetr" and any(length % 32 for length in size)):
        raise ConfigError(f"encoder {name}: img_size {size} must be three sizes, divisible by 32 for swin_unetr")
    vit = model == "vit"
    widths: dict[str, Callable[[], int]] = {
        "vit": lambda: network.norm.normalized_shape[0],
        "densenet121": lambda: network.features.norm5.num_features,
        "swin_unetr": lambda: 16 * network.embed_dim,
    }
    return EncoderSpec(
        name=name,
        modality="volume",
        input_size=size,
        channels=1,
        intensity=INTENSITIES[intensity],
        dim=widths.get(model, lambda: network.in_planes)(),
        heads=network.blocks[0].attn.num_heads if vit else 0,
        pooling="cls" if hasattr(network, "cls_token") else "mean",
        licence={"random": "Apache-2.0", "default": "MIT"}.get(str(source), "unknown"),
        weights="random",
    )
