"""MONAI's networks as encoders: how each is built, which of its modules are the encoder, in which order they run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.errors import ConfigError


@dataclass(frozen=True)
class Plan:
    """The encoder inside a network, by module paths; all run one after another.

    Attributes:
        stem: Before the first block.
        blocks: The blocks, or stages.
        after: What follows each block but the last; empty where nothing does.
        tail: Behind the last block.
    """

    stem: tuple[str, ...]
    blocks: tuple[str, ...]
    after: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every path."""
        return (*self.stem, *self.blocks, *self.after, *self.tail)


def prune(network: nn.Module, plan: Plan) -> list[str]:
    """Puts an identity in the place of every module that is no part of the encoder; returns their paths."""
    kept, gone = plan.all, []

    def visit(module: nn.Module, prefix: str) -> None:
        for name, child in list(module.named_children()):
            path = f"{prefix}{name}"
            if any(path == each or path.startswith(f"{each}.") for each in kept):
                continue
            if any(each.startswith(f"{path}.") for each in kept):
                visit(child, f"{path}.")
            elif next(child.parameters(), None) is not None:
                module._modules[name] = nn.Identity()
                gone.append(path)

    visit(network, "")
    return gone


# -- which modules ----------------------------------------------------------------------------------------------------


def _children(network: Any, path: str) -> tuple[str, ...]:
    return tuple(f"{path}.{name}" for name, _ in network.get_submodule(path).named_children())


def plan_segresnet(network: Any) -> Plan:
    """SegResNet: the first convolution (dropout rests), then the levels on the way down."""
    return Plan(("convInit",), _children(network, "down_layers"))


def plan_segresnet_ds(network: Any) -> Plan:
    """SegResNetDS: levels of blocks, each but the last followed by a strided convolution."""
    levels = _children(network, "encoder.layers")
    after = tuple(f"{level}.downsample" for level in levels[:-1])
    return Plan(("encoder.conv_init",), tuple(f"{level}.blocks" for level in levels), after)


def plan_efficientnet(network: Any) -> Plan:
    """EfficientNet with its last convolution, which its classifier pools."""
    stem = ("_conv_stem_padding", "_conv_stem", "_bn0", "_swish")
    return Plan(stem, _children(network, "_blocks"), (), ("_conv_head_padding", "_conv_head", "_bn1", "_swish"))


def plan_senet(network: Any) -> Plan:
    """SENet, SE-ResNet and SE-ResNeXt by their four stages."""
    return Plan(("layer0",), ("layer1", "layer2", "layer3", "layer4"))


def plan_unet(network: Any) -> Plan:
    """UNet: the layers on the way down, to the bottom."""
    blocks, path = [], "model"
    while isinstance(inner := network.get_submodule(path), nn.Sequential) and hasattr(inner, "1"):
        if not hasattr(network.get_submodule(f"{path}.1"), "submodule"):
            break
        blocks.append(f"{path}.0")
        path = f"{path}.1.submodule"
    return Plan((), (*blocks, path))


def plan_basic_unet(network: Any) -> Plan:
    """BasicUNet: the first two convolutions, then the four levels on the way down."""
    return Plan(("conv_0",), ("down_1", "down_2", "down_3", "down_4"))


def plan_dynunet(network: Any) -> Plan:
    """DynUNet, the network of nnU-Net: the first block, the levels on the way down, the bottleneck."""
    return Plan(("input_block",), (*_children(network, "downsamples"), "bottleneck"))


def plan_mednext(network: Any) -> Plan:
    """MedNeXt: stages with a strided block behind each, then the bottleneck."""
    return Plan(("stem",), (*_children(network, "enc_stages"), "bottleneck"), _children(network, "down_blocks"))


# -- building ---------------------------------------------------------------------------------------------------------


def _padded_shortcut(x: Tensor, planes: int, stride: int) -> Tensor:
    """Shortcut "A" of a ResNet: every ``stride``-th cell, missing channels 0.

    MONAI's own reads ``.data`` on the way, which cuts the gradient to every adapter before it.
    """
    axes = x.ndim - 2
    x = x[(slice(None), slice(None), *(slice(None, None, stride) for _ in range(axes)))]
    return F.pad(x, (0, 0) * axes + (0, planes - x.shape[1]))


def build_resnet(model: str, pretrained: bool, axes: int = 3, inputs: int = 1, **options: Any) -> Any:
    """A ResNet of MONAI without a classifier; shortcuts as in MedicalNet's unless told otherwise.

    Args:
        model: ``resnet10``, ``18``, ``34``, ``50``, ``101``, ``152`` or ``200``.
        pretrained: Let MONAI fetch MedicalNet's weights.
        axes: 2 or 3.
        inputs: Channels of the input.
        **options: Passed to MONAI.
    """
    from monai.networks import nets
    from monai.networks.nets.resnet import get_medicalnet_pretrained_resnet_args

    bias, shortcut = get_medicalnet_pretrained_resnet_args(int(model.removeprefix("resnet")))
    settings: dict[str, Any] = {"bias_downsample": bias, "shortcut_type": shortcut, "conv1_t_stride": 2, **options}
    network = getattr(nets, model)(
        pretrained=pretrained, spatial_dims=axes, n_input_channels=inputs, feed_forward=False, **settings
    )
    for block in network.modules():
        if isinstance(shortcut_a := getattr(block, "downsample", None), partial):
            planes, stride = shortcut_a.keywords["planes"], shortcut_a.keywords["stride"]
            block.downsample = partial(_padded_shortcut, planes=planes, stride=stride)
    return network


def build_densenet(model: str, pretrained: bool, axes: int = 3, inputs: int = 1, **options: Any) -> Any:
    """A DenseNet of MONAI without a classifier."""
    from monai.networks import nets

    kind = getattr(nets, f"DenseNet{model.removeprefix('densenet')}")
    network = kind(spatial_dims=axes, in_channels=inputs, out_channels=1, pretrained=pretrained, **options)
    network.class_layers = nn.Sequential()
    return network


def build_swin(
    model: str, pretrained: bool, axes: int = 3, inputs: int = 1, feature_size: int = 48, **options: Any
) -> Any:
    """The Swin transformer inside MONAI's SwinUNETR."""
    from monai.networks.nets.swin_unetr import SwinTransformer

    common: dict[str, Any] = {"depths": (2, 2, 2, 2), "num_heads": (3, 6, 12, 24), "spatial_dims": axes}
    sizes: dict[str, Any] = {"window_size": (7,) * axes, "patch_size": (2,) * axes}
    return SwinTransformer(in_chans=inputs, embed_dim=feature_size, **{**sizes, **common, **options})


def build_vit(
    model: str,
    pretrained: bool,
    img_size: tuple[int, ...],
    axes: int = 3,
    inputs: int = 1,
    patch_size: Any = 16,
    **options: Any,
) -> Any:
    """A ViT of MONAI, alone or inside UNETR, without what newer releases add and older checkpoints do not have."""
    from monai.networks.nets.vit import ViT

    network: Any = ViT(in_channels=inputs, img_size=img_size, patch_size=patch_size, spatial_dims=axes, **options)
    for block in network.blocks:
        block.norm_cross_attn = nn.Identity()  # never called without a context, and unknown to older checkpoints
    if hasattr(network, "classification_head"):
        del network.classification_head
    steps = patch_size if isinstance(patch_size, list | tuple) else (patch_size,) * len(img_size)
    network.patch = tuple(steps)
    network.grid = tuple(length // step for length, step in zip(img_size, steps, strict=True))  # MONAI keeps neither
    return network


def build_efficientnet(model: str, pretrained: bool, axes: int = 3, inputs: int = 1, **options: Any) -> Any:
    """An EfficientNet of MONAI; its paddings are those of its nominal size, whatever the input's."""
    from monai.networks.nets.efficientnet import EfficientNetBN

    return EfficientNetBN(
        model, pretrained=pretrained, progress=False, spatial_dims=axes, in_channels=inputs, **options
    )


def _build(
    kind: str, defaults: Mapping[str, Any], model: str, pretrained: bool, axes: int, inputs: int, **options: Any
) -> Any:
    """Any other network of MONAI whose class takes ``spatial_dims`` and ``in_channels``."""
    from monai.networks import nets

    settings = {key: value(axes) if callable(value) else value for key, value in defaults.items()}
    return getattr(nets, kind)(spatial_dims=axes, in_channels=inputs, **{**settings, **options})


Build = Callable[..., Any]
UNET: dict[str, Any] = {
    "out_channels": 1,
    "channels": (32, 64, 128, 256, 320),
    "strides": (2, 2, 2, 2),
    "num_res_units": 2,
}
DYNUNET: dict[str, Any] = {
    "out_channels": 1,
    "kernel_size": lambda axes: [(3,) * axes] * 5,
    "strides": lambda axes: [(1,) * axes] + [(2,) * axes] * 4,
    "upsample_kernel_size": lambda axes: [(2,) * axes] * 4,
}
STAGED: dict[str, tuple[Build, Callable[[Any], Plan], str]] = {
    "segresnet": (partial(_build, "SegResNet", {}), plan_segresnet, "SegResNet's way down, 8 filters at first"),
    "segresnet_ds": (partial(_build, "SegResNetDS", {}), plan_segresnet_ds, "SegResNetDS's way down"),
    "unet": (partial(_build, "UNet", UNET), plan_unet, "UNet's way down, channels 32 to 320"),
    "basic_unet": (partial(_build, "BasicUNet", {}), plan_basic_unet, "BasicUNet's way down"),
    "dynunet": (partial(_build, "DynUNet", DYNUNET), plan_dynunet, "DynUNet's way down, five levels"),
    "mednext": (partial(_build, "MedNeXt", {}), plan_mednext, "MedNeXt's way down and bottleneck"),
    "senet154": (partial(_build, "SENet154", {"num_classes": 1}), plan_senet, "SENet-154"),
    "seresnet50": (partial(_build, "SEResNet50", {"num_classes": 1}), plan_senet, "SE-ResNet-50"),
    "seresnet101": (partial(_build, "SEResNet101", {"num_classes": 1}), plan_senet, "SE-ResNet-101"),
    "seresnet152": (partial(_build, "SEResNet152", {"num_classes": 1}), plan_senet, "SE-ResNet-152"),
    "seresnext50": (partial(_build, "SEResNext50", {"num_classes": 1}), plan_senet, "SE-ResNeXt-50"),
    "seresnext101": (partial(_build, "SEResNext101", {"num_classes": 1}), plan_senet, "SE-ResNeXt-101"),
    **{
        f"efficientnet-b{i}": (build_efficientnet, plan_efficientnet, f"EfficientNet-B{i}; reads lukemelas' keys too")
        for i in range(9)
    },
}


# -- foreign names of weights -----------------------------------------------------------------------------------------


def rename_swin(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of the self-supervised ``model_swinvit.pt``, whose MLPs are named as in the original Swin.

    The tensors, of any shape, are the same.
    """
    return {re.sub(r"\bmlp\.fc([12])\b", r"mlp.linear\1", key): value for key, value in state.items()}


def rename_efficientnet(keys: Sequence[str], state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keys of EfficientNet-PyTorch, which counts its blocks through; MONAI keeps the number behind the stage's.

    Args:
        keys: Keys of the network.
        state: Keys of the file, with tensors of any shape.
    """
    stages = {match[2]: match[1] for key in keys if (match := re.match(r"_blocks\.(\d+)\.(\d+)\.", key))}

    def rename(key: str) -> str:
        match = re.match(r"_blocks\.(\d+)\.(_.+)", key)
        if not match:
            return key
        if match[1] not in stages:
            raise ConfigError(f"block {match[1]} is none of the network's {len(stages)}")
        return f"_blocks.{stages[match[1]]}.{match[1]}.{match[2]}"

    return {rename(key): value for key, value in state.items()}
