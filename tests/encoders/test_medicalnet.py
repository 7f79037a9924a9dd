"""MedicalNet: the published dilations, key layout and preparation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import conv3d

from medgraft.checkpoints.weights import state_digest
from medgraft.encoders.medicalnet import MedicalNetSource, prepare_volume
from medgraft.errors import CheckpointError, ConfigError, DataError, UnknownNameError

SIZE = (24, 32, 40)
NARROW = {"img_size": SIZE, "widen_factor": 0.125}
x = torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))


def build(model="resnet10", weights="random", **options):
    return MedicalNetSource.build(model, weights, **(NARROW | options))


def published(encoder):
    """The authors' file: a data-parallel model's keys under ``state_dict``, and the head of the segmentation."""
    generator = torch.Generator().manual_seed(1)
    state = {}
    for key, value in encoder.model.state_dict().items():
        noise = torch.rand(value.shape, generator=generator) + 0.5
        state[f"module.{key}"] = noise * 0.1 if value.ndim > 1 else noise if value.is_floating_point() else value
    return {"state_dict": state | {"module.conv_seg.0.weight": torch.zeros(2, 2)}}


@pytest.mark.parametrize("model", ["resnet10", "resnet18", "resnet50"])
def test_a_file_in_the_published_layout_loads(model, tmp_path):
    file = published(build(model))
    path = tmp_path / f"resnet_{model.removeprefix('resnet')}_23dataset.pth"
    torch.save(file, path)
    encoder = build(model, str(tmp_path))
    own = encoder.model.state_dict()
    assert all(torch.equal(own[key.removeprefix("module.")], file["state_dict"][key]) for key in own_keys(file))
    assert encoder.spec.weights == f"pretrained:{state_digest(encoder)}" and encoder.spec.licence == "unknown"


def own_keys(file):
    return [key for key in file["state_dict"] if "conv_seg" not in key]


@pytest.mark.parametrize(("model", "width"), [("resnet10", 64), ("resnet18", 64), ("resnet50", 256)])
def test_an_eighth_of_the_resolution_is_kept(model, width):
    encoder = build(model)
    with torch.no_grad():
        features = encoder(x)
    assert features.grid == (3, 4, 5) and features.tokens.shape == (2, 60, width) and encoder.spec.dim == width
    assert torch.allclose(features.pooled, features.tokens.mean(dim=1), atol=1e-6)


def test_the_last_two_stages_are_dilated():
    encoder = build("resnet10")
    block = encoder.model.layer4[0]
    h = torch.randn(1, 32, 5, 5, 5, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(block.conv1(h), conv3d(h, block.conv1.weight, padding=4, dilation=4))
        third = encoder.model.layer3[0]
        h = h[:, :16]
        assert torch.equal(third.conv1(h), conv3d(h, third.conv1.weight, padding=2, dilation=2))


def test_the_published_widths():
    lines = MedicalNetSource.models()
    assert set(lines) == {f"resnet{depth}" for depth in (10, 18, 34, 50, 101, 152, 200)}
    assert "512 features" in lines["resnet34"] and "2048 features" in lines["resnet101"]


def test_preparation_scores_what_is_above_zero():
    raw = np.random.default_rng(0).random((8, 8, 8), dtype=np.float32) + 1
    raw[:2] = 0
    raw[2] = -5
    found = prepare_volume(raw, (8, 8, 8))
    inside = torch.as_tensor(raw)[None] > 0
    assert found.shape == (1, 8, 8, 8) and not found[~inside].any()
    assert abs(found[inside].mean()) < 1e-5 and abs(found[inside].std(correction=0) - 1) < 1e-5
    doubled = prepare_volume(raw.repeat(2, 0).repeat(2, 1).repeat(2, 2), (8, 8, 8))
    assert torch.allclose(doubled, found, atol=1e-5), "the nearest voxel, never a mixture"
    assert not prepare_volume(np.zeros((4, 4, 4)), (2, 2, 2)).any()
    with pytest.raises(DataError, match=r"\[D, H, W\]"):
        prepare_volume(np.zeros((3, 4)), (2, 2, 2))


def test_what_does_not_fit_is_an_error(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean resnet"):
        build("resnet51")
    with pytest.raises(ConfigError, match="three sizes"):
        build(img_size=(32, 32))
    with pytest.raises(CheckpointError, match="holds none of"):
        build("resnet10", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"medicalnet:resnet10.*@random"):
        build("resnet10", "default")


def test_the_default_weights_are_the_authors_file_of_23_sets(tmp_path, monkeypatch, reachable):
    torch.save(published(build()), tmp_path / "file.pth")
    asked = []

    def download(repository, name):
        asked.append((repository, name))
        return str(tmp_path / "file.pth")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    assert build("resnet10", "default").spec.licence == "MIT"
    assert asked == [("TencentMedicalNet/MedicalNet-Resnet10", "resnet_10_23dataset.pth")]
