"""MONAI: the same numbers as the library, its attention, its intensities, the layouts of published checkpoints."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.networks.nets import resnet
from monai.networks.nets.densenet import DenseNet121
from monai.networks.nets.swin_unetr import SwinTransformer
from monai.networks.nets.vit import ViT
from monai.transforms.intensity.array import NormalizeIntensity
from safetensors.torch import save_file

from medgraft.checkpoints.weights import state_digest
from medgraft.encoders.monai import MonaiSource
from medgraft.errors import CheckpointError, ConfigError, DataError, UnknownNameError

SIZE = (32, 32, 32)
SMALL_VIT: dict[str, Any] = {
    "img_size": (32, 32, 16),
    "hidden_size": 32,
    "mlp_dim": 48,
    "num_layers": 2,
    "num_heads": 2,
}
M3D: dict[str, Any] = {
    "img_size": (8, 32, 48),
    "patch_size": (4, 16, 16),
    "proj_type": "perceptron",
    "classification": True,
    "hidden_size": 32,
    "mlp_dim": 48,
    "num_layers": 2,
    "num_heads": 2,
}
SWIN: dict[str, Any] = {"feature_size": 12, "depths": (1, 1, 1, 1)}


def build(*args: Any, **options: Any) -> Any:
    return MonaiSource.build(*args, **options)


def volumes(size=SIZE, dtype=torch.float32):
    return torch.randn(2, 1, *size, generator=torch.Generator().manual_seed(0), dtype=dtype)


def stirred(model) -> Any:
    """Fresh models have zero biases, unit norms and empty batch statistics, which would hide a forgotten one."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if value.is_floating_point() and (value.ndim == 1 or "embeddings" in key):
                value.add_(0.3 * torch.rand(value.shape, generator=generator))
    return model.eval()


def saved(state, path):
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return str(path)


# -- ViT --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [SMALL_VIT, SMALL_VIT | {"qkv_bias": True}, M3D], ids=["brainiac", "bias", "m3d"])
def test_vit_tokens_are_the_librarys(options, tmp_path):
    model = stirred(ViT(in_channels=1, **({"patch_size": 16} | options)))
    saved(model.state_dict(), tmp_path / "vit.safetensors")
    encoder = build("vit", str(tmp_path / "vit.safetensors"), **options)
    x = volumes(options["img_size"])
    with torch.no_grad():
        features, hidden = encoder(x), model(x)[1]
        expected = model.norm(hidden[-1])
    assert torch.equal(features.tokens, expected)
    cls = "classification" in options
    assert torch.equal(features.pooled, expected[:, 0] if cls else expected.mean(dim=1))
    assert features.grid == ((2, 2, 3) if cls else (2, 2, 1)) and features.n_prefix == int(cls)
    assert encoder.spec.pooling == ("cls" if cls else "mean")
    assert encoder.spec.weights == f"pretrained:{state_digest(encoder)}"


@pytest.mark.parametrize("bias", [True, False])
def test_cls_row_is_the_librarys_attention(bias):
    encoder = copy.deepcopy(build("vit", "random", qkv_bias=bias, **M3D)).double()
    stirred(encoder)
    attn = encoder.model.blocks[-1].attn
    attn.save_attn = True
    with torch.no_grad():
        features = encoder(volumes(M3D["img_size"], torch.float64), scores=True)
    assert (features.cls_probs - attn.att_mat[:, :, 0, 1:]).abs().max() < 1e-9


def test_vit_checkpoints_as_published(tmp_path):
    """M3D-CLIP: in bf16, inside a larger model, without the norms that newer MONAI adds and never calls."""
    model = stirred(ViT(in_channels=1, **M3D))
    own = {key: value for key, value in model.state_dict().items() if "norm_cross_attn" not in key}
    own = {key: value for key, value in own.items() if not key.startswith("classification_head")}
    state = {f"vision_encoder.{key}": value.bfloat16() for key, value in own.items()}
    torch.save(
        state | {"mm_vision_proj.weight": torch.zeros(3, 3), "logit_scale": torch.zeros(())}, tmp_path / "clip.bin"
    )
    encoder = build("vit", str(tmp_path / "clip.bin"), intensity="unit", **M3D)
    x = volumes(M3D["img_size"])
    expected = build("vit", saved(own, tmp_path / "vit.safetensors"), intensity="unit", **M3D)(x)
    assert torch.allclose(encoder(x).tokens, expected.tokens, atol=0.1)
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.float32}


# -- networks with feature maps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet18", {"shortcut_type": "B", "conv1_t_stride": 1, "no_max_pool": True}),
        ("resnet50", {}),
    ],
)
def test_resnet_features_are_the_librarys(name, options, tmp_path):
    usual = {"bias_downsample": name == "resnet18", "shortcut_type": "A" if name == "resnet18" else "B"}
    narrow = {"conv1_t_stride": 2, "widen_factor": 0.125, **usual, **options}
    model = stirred(getattr(resnet, name)(spatial_dims=3, n_input_channels=1, feed_forward=False, **narrow))
    path = saved({f"module.{k}": v for k, v in model.state_dict().items()}, tmp_path / "resnet.safetensors")
    encoder = build(name, path, img_size=SIZE, widen_factor=0.125, **options)
    with torch.no_grad():
        features, expected = encoder(volumes()), model(volumes())
    assert torch.equal(features.pooled, expected)
    assert torch.allclose(features.tokens.mean(dim=1), expected, atol=1e-6)
    assert (
        features.tokens.shape[2]
        == encoder.spec.dim
        == model.layer4[-1].conv2.out_channels * (4 if name == "resnet50" else 1)
    )


def test_the_gradient_passes_through_a_padded_shortcut():
    """MONAI's own shortcut "A" reads ``.data`` and would cut an adapter before it off half of its gradient."""
    encoder = build("resnet18", "random", img_size=SIZE, widen_factor=0.125)
    block = encoder.model.layer2[0]
    x = torch.randn(1, 8, 4, 4, 4, requires_grad=True)
    shortcut = block.downsample(x)
    shortcut.sum().backward()
    assert shortcut.shape == (1, 16, 2, 2, 2) and (shortcut[:, 8:] == 0).all()
    assert torch.equal(shortcut[:, :8], x[:, :, ::2, ::2, ::2])
    assert x.grad is not None and x.grad.sum() == 8 * 8


def test_densenet_features_are_the_librarys(tmp_path):
    options = {"block_config": (1, 2, 1), "growth_rate": 8}
    model = stirred(DenseNet121(spatial_dims=3, in_channels=1, out_channels=5, **options))
    encoder = build(
        "densenet121", saved(model.state_dict(), tmp_path / "densenet.safetensors"), img_size=SIZE, **options
    )
    with torch.no_grad():
        features = encoder(volumes())
        expected = model.class_layers[:3](model.features(volumes()))
    assert torch.equal(features.pooled, expected)
    assert features.tokens.shape == (2, 8, encoder.spec.dim) and features.grid == (2, 2, 2)


def swin_state():
    transformer = stirred(SwinTransformer(1, 12, (7, 7, 7), (2, 2, 2), (1, 1, 1, 1), (3, 6, 12, 24), spatial_dims=3))
    return transformer, transformer.state_dict()


@pytest.mark.parametrize("layout", ["self-supervised", "whole SwinUNETR"])
def test_swin_features_are_the_librarys(layout, tmp_path):
    transformer, state = swin_state()
    if layout == "self-supervised":  # model_swinvit.pt: MLPs as in the original Swin, and a pre-training head
        state = {f"module.{key.replace('mlp.linear', 'mlp.fc')}": value for key, value in state.items()}
        state |= {"module.rotation_head.weight": torch.zeros(4, 4)}
    else:
        state = {f"swinViT.{key}": value for key, value in state.items()} | {"out.conv.conv.weight": torch.zeros(1)}
    path = saved(state, tmp_path / "swin.safetensors")
    encoder = build("swin_unetr", path, img_size=SIZE, **SWIN)
    with torch.no_grad():
        features, expected = encoder(volumes()), transformer(volumes())[-1]
    assert torch.equal(features.tokens, expected.flatten(2).transpose(1, 2))
    assert features.tokens.shape[2] == encoder.spec.dim == 192


def test_feature_maps_take_volumes_of_other_sizes():
    encoder = build("resnet18", "random", img_size=SIZE, widen_factor=0.125)
    assert encoder(volumes((64, 32, 32))).grid == (2, 1, 1)
    swin = build("swin_unetr", "random", img_size=SIZE, **SWIN)
    with pytest.raises(ConfigError, match="divisible by 32"):
        swin(volumes((40, 32, 32)))


# -- preprocessing, names, files --------------------------------------------------------------------------------------


def test_prepare_scales_as_documented(volume):
    encoder = build("vit", "random", **(SMALL_VIT | {"img_size": volume.shape, "patch_size": (15, 20, 18)}))
    prepared = encoder.prepare(volume)
    expected = NormalizeIntensity(nonzero=True)(torch.as_tensor(volume)[None].clone())
    assert torch.allclose(prepared, torch.as_tensor(expected), atol=1e-5)
    assert (prepared[:, :6] == 0).all()
    unit = build("vit", "random", intensity="unit", **SMALL_VIT).prepare(volume)
    assert unit.shape == (1, 32, 32, 16) and unit.min() == 0 and unit.max() == 1
    assert not encoder.prepare(volume * 0).any()
    with pytest.raises(DataError, match=r"\[D, H, W\]"):
        encoder.prepare(volume[0])


def test_names_and_options_that_do_not_exist():
    with pytest.raises(UnknownNameError, match="did you mean resnet"):
        build("resnet19", "random")
    with pytest.raises(UnknownNameError, match="did you mean unit"):
        build("vit", "random", intensity="units", **SMALL_VIT)
    with pytest.raises(ConfigError, match="hidden"):
        build("vit", "random", **(SMALL_VIT | {"hidden_size": 31}))
    with pytest.raises(ConfigError, match="hidden_sise"):
        build("vit", "random", hidden_sise=3, **SMALL_VIT)
    with pytest.raises(ConfigError, match="divisible by 32"):
        build("swin_unetr", "random", img_size=(40, 32, 32))


@pytest.mark.parametrize("name", MonaiSource.models())
def test_no_network_or_no_published_weights_is_one_sentence(name):
    with pytest.raises(CheckpointError, match="@random") as caught:
        build(name, img_size=SIZE)
    assert f"monai:{name}" in str(caught.value) and "\n" not in str(caught.value)


def test_checkpoints_that_do_not_fit_are_refused(tmp_path, pickle_bomb):
    state = ViT(in_channels=1, patch_size=16, **SMALL_VIT).state_dict()
    short = {key: value for key, value in state.items() if key != "norm.bias"}
    with pytest.raises(CheckpointError, match=r"missing: norm\.bias"):
        build("vit", saved(short, tmp_path / "short.safetensors"), **SMALL_VIT)
    with pytest.raises(CheckpointError, match="position_embeddings is"):
        build("vit", saved(state, tmp_path / "vit.safetensors"), **(SMALL_VIT | {"img_size": (32, 32, 32)}))
    bomb, fuse = pickle_bomb
    with pytest.raises(CheckpointError, match="more than tensors"):
        build("vit", str(bomb), **SMALL_VIT)
    assert not fuse.exists()
