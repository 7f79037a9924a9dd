"""BrainIAC v2: the published key layout, its two ways to pool, and the published numbers of weights."""

from __future__ import annotations

import pytest
import torch
from monai.networks.nets.vit import ViT
from safetensors.torch import save_file

from medgraft.checkpoints.weights import state_digest
from medgraft.encoders.brainiac import BrainIacSource
from medgraft.errors import CheckpointError, UnknownNameError

SMALL = {"img_size": (32, 32, 48), "hidden_size": 24, "mlp_dim": 40, "num_layers": 2, "num_heads": 2}
x = torch.randn(2, 1, *SMALL["img_size"], generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def library():
    """MONAI's ViT as the authors build it, every weight set."""
    model = ViT(in_channels=1, patch_size=16, **SMALL)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def lightning(state):
    """The authors' checkpoint: encoder and projection head, under ``state_dict``, epochs beside it."""
    head = {"projection_head.0.weight": torch.zeros(3, 3)}
    return {"state_dict": {f"backbone.{key}": value for key, value in state.items()} | head, "epoch": 3}


def old(state):
    """Without the norm of a cross-attention, which older releases of MONAI do not have."""
    return {key: value for key, value in state.items() if "norm_cross_attn" not in key}


@pytest.mark.parametrize("file", ["BrainIAC.ckpt", "backbone.safetensors"])
@pytest.mark.parametrize("strip", [old, dict])
def test_a_file_in_the_published_layout_loads(library, file, strip, tmp_path):
    state = strip(library.state_dict())
    path = tmp_path / file
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(lightning(state), path)
    encoder = BrainIacSource.build("v2", str(tmp_path), **SMALL)
    with torch.no_grad():
        features, expected = encoder(x), library(x)[0]
    assert torch.equal(features.tokens, expected)
    assert encoder.spec.weights == f"pretrained:{state_digest(encoder)}" and "ADNI" in encoder.spec.cohorts


def test_the_feature_is_the_first_patch_or_the_mean():
    first, mean = (BrainIacSource.build(model, "random", **SMALL) for model in ("v2", "v2_mean"))
    with torch.no_grad():
        a, b = first(x), mean(x)
    assert torch.equal(a.tokens, b.tokens) and a.n_prefix == b.n_prefix == 0 and a.grid == (2, 2, 3)
    assert torch.equal(a.pooled, a.tokens[:, 0]) and torch.equal(b.pooled, b.tokens.mean(dim=1))
    assert (first.spec.pooling, mean.spec.pooling) == ("first patch token", "mean")


def test_the_published_size():
    with torch.device("meta"):
        state = ViT(in_channels=1, img_size=(96, 96, 96), patch_size=16).state_dict()
    named = old(state)
    assert len(named) == 137 and named["patch_embedding.position_embeddings"].shape == (1, 216, 768)
    assert sum(value.numel() for value in named.values()) == 88_340_736  # 88.34 million


def test_a_volume_is_scored_over_what_is_not_zero(volume):
    found = BrainIacSource.build("v2", "random", **SMALL).prepare(volume)
    inside = found != 0
    assert found.shape == (1, 32, 32, 48) and not inside[:, :5].any()
    assert abs(found[inside].mean()) < 1e-4 and abs(found[inside].std() - 1) < 1e-3


def test_what_does_not_fit_is_an_error(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean v2"):
        BrainIacSource.build("v3", "random")
    with pytest.raises(CheckpointError, match=r"brainiac:v2.*@random"):
        BrainIacSource.build("v2", **SMALL)
    with pytest.raises(CheckpointError, match="holds none of"):
        BrainIacSource.build("v2", str(tmp_path), **SMALL)
