"""SwinUNETR-SSL: the published key layout, and Hounsfield units."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets.swin_unetr import SwinTransformer, SwinUNETR

from medgraft.checkpoints.weights import state_digest
from medgraft.encoders.swin_unetr import FILE, SwinUnetrSource
from medgraft.errors import CheckpointError, ConfigError, DataError, UnknownNameError

SMALL = {"img_size": (32, 32, 64), "feature_size": 12, "depths": (1, 1, 1, 1)}
x = torch.rand(2, 1, 32, 32, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def library():
    model = SwinTransformer(1, 12, (7, 7, 7), (2, 2, 2), (1, 1, 1, 1), (3, 6, 12, 24), spatial_dims=3)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def published(state):
    """``model_swinvit.pt``: a data-parallel model, MLPs as in the original Swin, heads of the pre-training tasks."""
    named = {f"module.{key.replace('mlp.linear', 'mlp.fc')}": value for key, value in state.items()}
    heads = ("rotation_head.weight", "contrastive_head.bias", "convTrans3d.weight", "norm.weight")
    return {"state_dict": named | {f"module.{key}": torch.zeros(2) for key in heads}, "epoch": 1}


def test_a_file_in_the_published_layout_loads(library, tmp_path):
    torch.save(published(library.state_dict()), tmp_path / FILE)
    encoder = SwinUnetrSource.build("ssl", str(tmp_path), **SMALL)
    with torch.no_grad():
        features, expected = encoder(x), library(x)[-1]
    assert torch.equal(features.tokens, expected.flatten(2).transpose(1, 2))
    assert features.grid == (1, 1, 2) and encoder.spec.dim == 192
    assert encoder.spec.weights == f"pretrained:{state_digest(encoder)}"


def test_the_published_file_is_read_as_monai_reads_it(library, tmp_path):
    whole = SwinUNETR(in_channels=1, out_channels=2, feature_size=12, depths=(1, 1, 1, 1))
    file = published(library.state_dict())
    whole.load_from(file)
    torch.save(file, tmp_path / FILE)
    own = SwinUnetrSource.build("ssl", str(tmp_path / FILE), **SMALL).model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in whole.swinViT.state_dict().items())


def test_a_key_that_is_missing_is_named(library, tmp_path):
    file = published(library.state_dict())
    del file["state_dict"]["module.layers3.0.blocks.0.mlp.fc1.bias"]
    torch.save(file, tmp_path / FILE)
    with pytest.raises(CheckpointError, match=r"missing: layers3\.0\.blocks\.0\.mlp\.linear1\.bias"):
        SwinUnetrSource.build("ssl", str(tmp_path), **SMALL)


def test_hounsfield_units_are_cut_and_scaled():
    raw = np.linspace(-3000, 3000, 32 * 32 * 64, dtype=np.float32).reshape(32, 32, 64)
    found = SwinUnetrSource.build("ssl", "random", **SMALL).prepare(raw)[0]
    assert found.min() == 0 and found.max() == 1
    wanted = (torch.as_tensor(raw) + 1000) / 2000
    assert torch.allclose(found, wanted.clamp(0, 1), atol=1e-6)
    unit = SwinUnetrSource.build("ssl_unit", "random", **SMALL).prepare(raw)[0]
    assert torch.allclose(unit, (torch.as_tensor(raw) + 3000) / 6000, atol=1e-6)
    other = SwinUnetrSource.build("ssl", "random", **SMALL).prepare(np.full((7, 8, 9), 500.0))
    assert other.shape == (1, 32, 32, 64) and torch.allclose(other, torch.tensor(0.75))


def test_what_does_not_fit_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="multiples of 32"):
        SwinUnetrSource.build("ssl", "random", img_size=(32, 32, 40))
    with pytest.raises(UnknownNameError, match="did you mean ssl"):
        SwinUnetrSource.build("sssl", "random")
    with pytest.raises(DataError, match=r"\[D, H, W\]"):
        SwinUnetrSource.build("ssl", "random", **SMALL).prepare(np.zeros((3, 3)))
    with pytest.raises(CheckpointError, match="holds none of"):
        SwinUnetrSource.build("ssl", str(tmp_path), **SMALL)
