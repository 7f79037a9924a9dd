"""3D-Neuro-SimCLR: the published key layout, the stem's stride, the crop and the masked scores."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.networks.nets import resnet

from medgraft.checkpoints.weights import state_digest
from medgraft.encoders import neuro_simclr
from medgraft.encoders.neuro_simclr import NeuroSimClrSource, prepare_volume
from medgraft.errors import CheckpointError, DataError, UnknownNameError

SMALL = {"img_size": (24, 32, 32), "widen_factor": 0.125}
x = torch.randn(2, 1, 24, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def library():
    model = resnet.resnet18(spatial_dims=3, n_input_channels=1, feed_forward=False, widen_factor=0.125)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=generator) * 0.2 + 0.05)
    return model.eval()


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_file_in_the_published_layout_loads(library, prefix, tmp_path):
    state = {f"{prefix}encoder.{key}": value for key, value in library.state_dict().items()}
    state |= {f"{prefix}projector.0.weight": torch.zeros(4, 4)}
    torch.save({"epoch": 7, "model_state_dict": state, "optimizer_state_dict": {}}, tmp_path / neuro_simclr.FILE)
    encoder = NeuroSimClrSource.build("t1", str(tmp_path), **SMALL)
    with torch.no_grad():
        features, expected = encoder(x), library(x)
    assert torch.equal(features.pooled, expected) and encoder.spec.dim == 64
    assert features.grid == (2, 2, 2), "a stem of stride 1, a pooling and three stages of stride 2"
    assert encoder.spec.weights == f"pretrained:{state_digest(encoder)}" and "ADNI" in encoder.spec.cohorts


def test_the_default_weights_are_the_authors_release(library, tmp_path, monkeypatch, reachable):
    state = {f"encoder.{key}": value for key, value in library.state_dict().items()}

    def download(url, path, progress):
        assert url.endswith("/releases/download/v1.0.0/simclr_3d_brain_foundation.tar")
        torch.save({"model_state_dict": state}, path)

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    first = NeuroSimClrSource.build("t1", **SMALL)
    monkeypatch.setattr(torch.hub, "download_url_to_file", None)  # kept, not fetched again
    assert state_digest(NeuroSimClrSource.build("t1", **SMALL)) == state_digest(first)
    assert first.spec.licence == "MIT"


def test_without_a_network_the_default_is_an_error_with_a_remedy(tmp_path, monkeypatch, reachable):
    def refuse(url, path, progress):
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    with pytest.raises(CheckpointError, match=r"neuro_simclr:t1.*no route to host.*@random"):
        NeuroSimClrSource.build("t1", **SMALL)


def test_the_grid_of_the_template_is_cropped_as_published():
    raw = np.zeros((193, 229, 193), np.float32)
    raw[50, 100, 60] = 1.0  # x, y, z
    raw[60:70, 110:120, 70:80] = 2.0
    found = prepare_volume(raw)
    assert found.shape == (1, 150, 192, 192)
    assert found[0, 60 - 10, 100 - 19, 50 - 1] == found.min() < 0 and found[0, 65, 95, 65] == found.max() > 0
    assert int((found != 0).sum()) == 1001


@settings(max_examples=20, deadline=None)
@given(shape=st.tuples(*[st.integers(2, 20)] * 3), seed=st.integers(0, 9))
def test_any_other_volume_is_scored_and_centred(shape, seed):
    raw = np.random.default_rng(seed).random(shape, dtype=np.float32) + 0.5
    found = prepare_volume(np.pad(raw, 3), (12, 16, 14))[0]
    assert found.shape == (12, 16, 14) and torch.isfinite(found).all()
    inside = found != 0
    if int(inside.sum()) > 8:
        assert abs(found[inside].mean()) < 1e-3
    filled = [length for length, axis in zip((12, 16, 14), range(3), strict=True) if covers(inside, axis) >= length - 1]
    assert filled, "one axis is filled"


def covers(inside, axis):
    other = tuple(each for each in range(3) if each != axis)
    return int(inside.any(dim=other[1]).any(dim=other[0]).sum())


def test_an_empty_volume_stays_empty_and_others_are_refused():
    assert not prepare_volume(np.zeros((4, 5, 6)), (3, 3, 3)).any()
    with pytest.raises(DataError, match=r"\[x, y, z\]"):
        prepare_volume(np.zeros((4, 5)), (3, 3, 3))
    with pytest.raises(UnknownNameError, match="neuro_simclr encoder"):
        NeuroSimClrSource.build("t2", "random")
