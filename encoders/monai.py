"""Encoders from MONAI: ViT, ResNet, DenseNet, EfficientNet, SENet, and the way down of its segmentation networks.

``monai:vit`` fits BrainIAC-like checkpoints as it stands, and M3D-CLIP's vision encoder with
``img_size=(32, 256, 256), patch_size=(4, 16, 16), proj_type="perceptron", classification=True, intensity="unit"``.
All take volumes of one channel, and with ``spatial_dims=2`` images.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.parts.hub import demand, fetching
from medgraft.encoders.parts.loading import finish, options_of, origin, reason, seeded
from medgraft.encoders.parts.matching import load_file
from medgraft.encoders.parts.monai_networks import (
    STAGED,
    Plan,
    build_densenet,
    build_resnet,
    build_swin,
    build_vit,
    prune,
    rename_efficientnet,
    rename_swin,
)
from medgraft.encoders.parts.monai_towers import (
    INTENSITIES,
    StagedNetwork,
    VolumeDenseNet,
    VolumeEncoder,
    VolumeResNet,
    VolumeSwin,
    VolumeViT,
)
from medgraft.encoders.parts.positions import fitted, recorded_grid
from medgraft.errors import CheckpointError, ConfigError, UnknownNameError
from medgraft.sources import Source

RESNETS = tuple(f"resnet{depth}" for depth in (10, 18, 34, 50, 101, 152, 200))
DENSENETS = tuple(f"densenet{depth}" for depth in (121, 169, 201, 264))
BUILDERS: dict[str, tuple[Callable[..., Any], type[VolumeEncoder], str]] = {
    "vit": (build_vit, VolumeViT, "znorm"),
    "unetr": (build_vit, VolumeViT, "znorm"),
    **dict.fromkeys(RESNETS, (build_resnet, VolumeResNet, "znorm")),
    **dict.fromkeys(DENSENETS, (build_densenet, VolumeDenseNet, "znorm")),
    "swin_unetr": (build_swin, VolumeSwin, "unit"),
    **{name: (build, StagedNetwork, "znorm") for name, (build, _, _) in STAGED.items()},
}
TRANSFORMERS = ("vit", "unetr")
USUAL_SIZES = {2: (224, 224), 3: (96, 96, 96)}
# Parts of published checkpoints that are not the encoder: classifiers, pre-training heads, unused norms.
NOT_ENCODER = (
    r"norm_cross_attn\.",
    r"cross_attn\.",
    r"^classification_head\.",
    r"^class_layers\.",
    r"^fc\.",
    r"^(rotation|contrastive|conv)_?(pre|head)?\.",
)


class MonaiSource(Source):
    """Entry point ``monai``."""

    name = "monai"

    @classmethod
    def models(cls) -> dict[str, str]:
        """Names that ``build`` takes, with a line each."""
        resnets = {name: f"ResNet-{name[6:]}; the default weights are MedicalNet's" for name in RESNETS}
        densenets = {name: f"DenseNet-{name[8:]}" for name in DENSENETS}
        return {
            "vit": "ViT-B/16 at 96 x 96 x 96 without a CLS token (BrainIAC); options give it one (M3D-CLIP)",
            "unetr": "the ViT inside UNETR",
            **resnets,
            **densenets,
            "swin_unetr": "Swin encoder of SwinUNETR, feature size 48; reads model_swinvit.pt",
            **{name: line for name, (_, _, line) in STAGED.items()},
        }

    @classmethod
    def make(
        cls,
        model: str,
        weights: str,
        sha256: str | None,
        img_size: Sequence[int] | None = None,
        intensity: str | None = None,
        spatial_dims: int = 3,
        in_channels: int | None = None,
        weights_grid: Sequence[int] | None = None,
        **options: Any,
    ) -> Encoder:
        """Builds an encoder of volumes ``[1, D, H, W]``, or of images ``[channels, H, W]``.

        Args:
            model: A key of :meth:`models`.
            weights: ``"default"`` (ResNets of volumes; EfficientNets and DenseNets of colour images), ``"random"``, or
                a local file.
            sha256: Expected digest of the local file.
            img_size: Size of a prepared input; 96 x 96 x 96 or 224 x 224 unless given.
            intensity: A key of :data:`INTENSITIES`; unless given, what the model's published weights expect.
            spatial_dims: 3 for volumes, 2 for images.
            in_channels: 1, or 3 for images in colour; unless given, 1 for volumes and 3 for images.
            weights_grid: Patches along each axis that the positions of a local file were trained on, where they are not
                the model's and neither the file nor a ``config.json`` beside it says so.
            **options: Passed to MONAI's class, for example ``hidden_size``, ``classification`` or ``shortcut_type``.

        Raises:
            ConfigError: An option does not fit the model.
            CheckpointError: The weights cannot be fetched, read or fitted.
        """
        name, source = f"monai:{model}", origin(weights, sha256)
        create, kind, usual = BUILDERS[model]
        if spatial_dims not in USUAL_SIZES:
            raise ConfigError(f"encoder {name}: spatial_dims is {spatial_dims!r}; it is 2 for images or 3 for volumes")
        channels = in_channels or (1 if spatial_dims == 3 else 3)
        if channels != 1 and not (channels == 3 and spatial_dims == 2):
            raise ConfigError(f"encoder {name} cannot take {channels} channels; a volume has 1, an image 1 or 3")
        size = tuple(int(n) for n in img_size or USUAL_SIZES[spatial_dims])
        intensity = intensity or ("imagenet" if channels == 3 else usual)
        if intensity not in INTENSITIES:
            raise UnknownNameError("intensity", intensity, INTENSITIES)
        if len(size) != spatial_dims or (model == "swin_unetr" and any(length % 32 for length in size)):
            needed = f"{spatial_dims} sizes{', divisible by 32' if model == 'swin_unetr' else ''}"
            raise ConfigError(f"encoder {name}: img_size {size} must be {needed}")
        if model in TRANSFORMERS:
            options["img_size"] = size
        if source == "default" and not _has_weights(model, spatial_dims, channels):
            raise CheckpointError(f"encoder {name}: MONAI offers no weights of it; use @random or @/path/to/file")
        if source == "default" and model in RESNETS:
            demand(name, f"TencentMedicalNet/MedicalNet-Resnet{model.removeprefix('resnet')}")
        with seeded(), fetching(name, url=_host(model)) if source == "default" else options_of(name):
            network = create(model, source == "default", axes=spatial_dims, inputs=channels, **options)
        plan = STAGED[model][1](network) if model in STAGED else None
        gone = prune(network, plan) if plan else []
        if isinstance(source, Path):
            _load(network, source, sha256, model, gone, weights_grid)
        facts = _facts(name, model, network, source, size, intensity, channels)
        return finish(_measured(kind, facts, network, intensity, plan), source)


def _has_weights(model: str, axes: int, channels: int) -> bool:
    imagenet = model.startswith("efficientnet") or model in ("densenet121", "densenet169", "densenet201")
    return model in RESNETS if axes == 3 else imagenet and channels == 3


def _host(model: str) -> str | None:
    """Where MONAI fetches a model's weights; ``None`` for the hub."""
    if model in RESNETS:
        return None
    return "https://download.pytorch.org" if model in DENSENETS else "https://github.com"


def _load(network: Any, path: Path, sha256: str | None, model: str, gone: Sequence[str], grid: Any) -> None:
    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        if model.startswith("efficientnet"):
            return rename_efficientnet(list(network.state_dict()), state)
        if model == "unetr":
            state = {key.removeprefix("vit."): value for key, value in state.items()}
        return rename_swin(state)

    def refit(state: dict[str, Tensor]) -> dict[str, Tensor]:
        key = "patch_embedding.position_embeddings"
        key = key if key in state else f"vit.{key}"
        if model in TRANSFORMERS and key in state and state[key].ndim == 3:
            stored = tuple(grid) if grid else recorded_grid(path, network.patch)
            state[key] = fitted(state[key], network.grid, 0, stored, str(path))
        return state

    drop = [*NOT_ENCODER, *(rf"^{re.escape(each)}\." for each in gone)]
    if model == "unetr":
        drop += [r"^(encoder|decoder)\d\.", r"^out\."]
    if model.startswith("segresnet"):
        drop += [r"^vae_", r"^up_layers", r"^head"]
    load_file(network, path, sha256, drop=drop, convert=convert, refit=refit)


@torch.no_grad()
def _measured(
    kind: type[VolumeEncoder], facts: EncoderSpec, network: Any, intensity: str, plan: Plan | None
) -> VolumeEncoder:
    """The encoder, its width and its size known to be right from one run, where MONAI does not say them."""
    if plan is None:
        return kind(facts, network, intensity)
    encoder = StagedNetwork(facts, network, intensity, plan)
    encoder.train(False)
    try:
        tokens = encoder.encode(torch.zeros(1, facts.channels, *facts.input_size)).tokens
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"encoder {facts.name} does not run on an input of {facts.input_size} ({reason(error)}); "
            "give another img_size"
        ) from error
    encoder.spec = facts.model_copy(update={"dim": tokens.shape[-1]})
    return encoder


def _facts(
    name: str, model: str, network: Any, source: str | Path, size: tuple[int, ...], intensity: str, channels: int
) -> EncoderSpec:
    vit = model in TRANSFORMERS
    widths: dict[str, Callable[[], int]] = {
        **{each: lambda: network.norm.normalized_shape[0] for each in TRANSFORMERS},
        **{each: lambda: network.features.norm5.num_features for each in DENSENETS},
        **{each: lambda: network.in_planes for each in RESNETS},
        "swin_unetr": lambda: 16 * network.embed_dim,
    }
    return EncoderSpec(
        name=name,
        modality="volume" if len(size) == 3 else "image",
        input_size=size,
        channels=channels,
        intensity=INTENSITIES[intensity],
        dim=widths.get(model, lambda: 1)(),
        heads=network.blocks[0].attn.num_heads if vit else 0,
        pooling="cls" if hasattr(network, "cls_token") else "mean",
        licence={"random": "Apache-2.0", "default": "MIT"}.get(str(source), "unknown"),
        weights="random",
    )
