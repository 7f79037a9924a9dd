"""Every network of MONAI that is offered: the library's numbers, files of whole networks, two and three axes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from monai.networks import nets
from safetensors.torch import save_file

from medgraft.encoders.monai import BUILDERS, MonaiSource
from medgraft.encoders.parts.monai_networks import rename_efficientnet
from medgraft.errors import CheckpointError, ConfigError

WIDE = {"in_channels": 1, "spatial_dims": 3}
UNETR = {"hidden_size": 24, "mlp_dim": 32, "num_heads": 2}
DYNUNET: dict[str, Any] = {
    "filters": (8, 16, 24),
    "kernel_size": [3] * 3,
    "strides": [1, 2, 2],
    "upsample_kernel_size": [2, 2],
}


def stirred(model: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.02 * torch.rand(value.shape, generator=generator))
    return model.eval()


def pyramid(model: Any, x: torch.Tensor, path: str) -> torch.Tensor:
    """What a module of the library's network returns while the whole network runs."""
    seen = {}
    handle = model.get_submodule(path).register_forward_hook(lambda m, a, out: seen.update(out=out))
    model(x)
    handle.remove()
    return seen["out"]


# Name, the library's network, options of ours, and the module whose output is the last feature map.
NETWORKS: dict[str, tuple[Any, dict[str, Any], str]] = {
    "segresnet": (lambda d: nets.SegResNet(init_filters=8, blocks_down=(1, 1), blocks_up=(1,), **d),
                  {"init_filters": 8, "blocks_down": (1, 1), "blocks_up": (1,)}, "down_layers.1"),
    "segresnet_ds": (lambda d: nets.SegResNetDS(init_filters=8, blocks_down=(1, 1), **d),
                     {"init_filters": 8, "blocks_down": (1, 1)}, "encoder.layers.1.blocks"),
    "unet": (lambda d: nets.UNet(out_channels=2, channels=(4, 8, 12), strides=(2, 2), num_res_units=1, **d),
             {"out_channels": 2, "channels": (4, 8, 12), "strides": (2, 2), "num_res_units": 1},
             "model.1.submodule.1.submodule"),
    "basic_unet": (lambda d: nets.BasicUNet(features=(4, 4, 8, 8, 12, 4), **d), {"features": (4, 4, 8, 8, 12, 4)},
                   "down_4"),
    "dynunet": (lambda d: nets.DynUNet(out_channels=1, **DYNUNET, **d), DYNUNET, "bottleneck"),
    "mednext": (lambda d: nets.MedNeXt(init_filters=4, kernel_size=3, **d), {"init_filters": 4, "kernel_size": 3},
                "bottleneck"),
    "seresnet50": (lambda d: nets.SEResNet50(layers=(1, 1, 1, 1), num_classes=1, **d), {"layers": (1, 1, 1, 1)},
                   "layer4"),
}  # fmt: skip


def volume(axes: int, size: int = 32, channels: int = 1) -> torch.Tensor:
    return torch.randn(2, channels, *(size,) * axes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_way_down_is_the_librarys(name, axes, tmp_path):
    make, options, path = NETWORKS[name]
    model = stirred(make({"in_channels": 1, "spatial_dims": axes}))
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "whole.safetensors")
    common = {"img_size": (32,) * axes, "spatial_dims": axes, "in_channels": 1}
    encoder = MonaiSource.build(name, str(tmp_path / "whole.safetensors"), **common, **options)
    x = volume(axes)
    with torch.no_grad():
        features, wanted = encoder(x), pyramid(model, x, path)
        for stage in range(encoder.n_stages):
            assert torch.equal(encoder(encoder.prefix(x, stage), start=stage).tokens, features.tokens)
    assert torch.allclose(features.tokens, wanted.flatten(2).transpose(1, 2), rtol=1e-5, atol=1e-5)
    assert features.grid == tuple(wanted.shape[2:]) and encoder.spec.dim == wanted.shape[1]
    assert encoder.spec.modality == ("volume" if axes == 3 else "image")
    assert sum(p.numel() for p in encoder.parameters()) < sum(p.numel() for p in model.parameters()), "no decoder"


@pytest.mark.parametrize("axes", [2, 3])
def test_unetr_is_its_vit(axes, tmp_path):
    model = stirred(
        nets.UNETR(out_channels=2, img_size=(32,) * axes, feature_size=4, in_channels=1, spatial_dims=axes, **UNETR)
    )
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "unetr.safetensors")
    common = {"img_size": (32,) * axes, "spatial_dims": axes, "in_channels": 1}
    encoder = MonaiSource.build("unetr", str(tmp_path / "unetr.safetensors"), **common, **UNETR)
    x = volume(axes)
    with torch.no_grad():
        assert torch.equal(encoder(x).tokens, model.vit(x)[0])
    assert {"blocks.0.attn.q", "blocks.11.mlp"} <= set(encoder.sites())


@pytest.mark.parametrize("axes", [2, 3])
def test_efficientnet_is_the_librarys_with_its_own_names_and_those_of_lukemelas(axes, tmp_path):
    model = stirred(nets.EfficientNetBN("efficientnet-b0", pretrained=False, in_channels=1, spatial_dims=axes))
    own = {k: v.clone() for k, v in model.state_dict().items()}
    # Its own names have the stage in front of a number that counts all blocks; EfficientNet-PyTorch's do not.
    foreign = {}
    for key, value in own.items():
        parts = key.split(".")
        foreign[".".join([parts[0], *parts[2:]] if parts[0] == "_blocks" else parts)] = value
    assert len(foreign) == len(own) and "_blocks.15._bn1.weight" in foreign
    x, outputs = volume(axes), []
    for label, state in (("own", own), ("foreign", foreign)):
        save_file(state, tmp_path / f"{label}.safetensors")
        encoder = MonaiSource.build(
            "efficientnet-b0",
            str(tmp_path / f"{label}.safetensors"),
            img_size=(32,) * axes,
            spatial_dims=axes,
            in_channels=1,
        )
        with torch.no_grad():
            outputs.append(encoder(x))
    with torch.no_grad():
        wanted = model._avg_pooling(pyramid(model, x, "_bn1") * torch.sigmoid(pyramid(model, x, "_bn1"))).flatten(1)
    assert torch.equal(outputs[0].tokens, outputs[1].tokens)
    assert torch.allclose(outputs[0].pooled, wanted, rtol=1e-5, atol=1e-6)
    with pytest.raises(CheckpointError, match="does not fit"):
        MonaiSource.build("efficientnet-b1", str(tmp_path / "foreign.safetensors"), spatial_dims=axes, in_channels=1)


def test_a_block_that_the_network_does_not_have_is_an_error():
    with pytest.raises(ConfigError, match="block 7"):
        rename_efficientnet(["_blocks.0.0._bn1.weight"], {"_blocks.7._bn1.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", ["resnet10", "resnet34", "densenet169", "densenet201", "densenet264"])
def test_other_depths_are_the_librarys(name, tmp_path):
    if name.startswith("resnet"):
        options: dict[str, Any] = {"widen_factor": 0.125}
        bias = name == "resnet34"
        common = {"bias_downsample": bias, "shortcut_type": "A" if bias else "B", "conv1_t_stride": 2}
        model = getattr(nets, name)(pretrained=False, n_input_channels=1, feed_forward=False, **common, **options)
    else:
        options = {"growth_rate": 4, "init_features": 8}
        model = getattr(nets, f"DenseNet{name[8:]}")(spatial_dims=3, in_channels=1, out_channels=2, **options)
    model = stirred(model)
    save_file({k: v.clone() for k, v in model.state_dict().items()}, tmp_path / "m.safetensors")
    encoder = MonaiSource.build(name, str(tmp_path / "m.safetensors"), img_size=(32, 32, 32), **options)
    x = volume(3)
    with torch.no_grad():
        pooled = model(x) if name.startswith("resnet") else torch.relu(model.features(x)).mean(dim=(2, 3, 4))
        assert torch.allclose(encoder(x).pooled, pooled.flatten(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", ["vit", "resnet10", "densenet121", "swin_unetr", "efficientnet-b0"])
def test_images_run_on_their_own_prepared_input(name, channels, radiograph):
    options = {
        "vit": {"hidden_size": 24, "num_layers": 1, "num_heads": 2, "mlp_dim": 16},
        "swin_unetr": {"feature_size": 12},
    }
    encoder = MonaiSource.build(
        name, "random", spatial_dims=2, in_channels=channels, img_size=(64, 64), **options.get(name, {})
    )
    x = encoder.prepare(radiograph)
    assert x.shape == (channels, 64, 64) and encoder.spec.modality == "image"
    assert len(encoder(x[None]).grid) == 2


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match="spatial_dims is 4"):
        MonaiSource.build("unet", "random", spatial_dims=4)
    with pytest.raises(ConfigError, match="cannot take 4 channels"):
        MonaiSource.build("unet", "random", in_channels=4)
    with pytest.raises(ConfigError, match="does not run on an input"):
        MonaiSource.build("dynunet", "random", img_size=(8, 8, 8))
    with pytest.raises(ConfigError, match="3 sizes"):
        MonaiSource.build("resnet10", "random", img_size=(8, 8))
    assert set(MonaiSource.models()) == set(BUILDERS)
