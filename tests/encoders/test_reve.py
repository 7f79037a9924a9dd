"""REVE: nothing is fetched for random weights, and its electrodes lie where its weights saw them."""

from __future__ import annotations

import functools
import json
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medgraft.encoders.braindecode import BraindecodeSource
from medgraft.encoders.parts.eeg.reve import FOLDER, HUB, Places, supplied, template_places
from medgraft.errors import CheckpointError
from medgraft.modalities.eeg import TEN_TWENTY, positions
from medgraft.modalities.signal import Recording

pytestmark = pytest.mark.filterwarnings("ignore")

SIX = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")
SMALL: dict[str, Any] = {"depth": 1, "embed_dim": 32, "heads": 2, "head_dim": 8, "seconds": 2, "channels": SIX}


def noise(scale: float = 20.0) -> Recording:
    values = scale * np.random.default_rng(0).standard_normal((19, 800))
    return Recording(values.astype(np.float32), TEN_TWENTY, 200.0)


def built(weights: str = "random", **options: Any) -> Any:
    return BraindecodeSource.build("reve", weights, **{**SMALL, **options})


@functools.cache
def fresh() -> Any:
    return built()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with the weights as the library names them, and the query that the published files have beside."""
    state = {key: value.clone() for key, value in fresh().model.state_dict().items()}
    save_file({**state, "cls_query_token": torch.zeros(1, 1, 32)}, tmp_path / "model.safetensors")
    return tmp_path


def listed(shift: float = 0.0) -> dict[str, list[float]]:
    """Places by names in capitals, as the published list has them, with one electrode more."""
    return {name.upper(): (positions()[name.upper()] + shift).tolist() for name in (*SIX, "Cz")}


def test_random_weights_fetch_nothing_and_leave_the_setting_as_it_was(monkeypatch, tmp_path):
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a connection was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("MNE_DATA", str(tmp_path / "nothing"))
    for before in (None, str(tmp_path)):
        monkeypatch.delenv(FOLDER, raising=False)
        if before is not None:
            monkeypatch.setenv(FOLDER, before)
        encoder = built()
        assert os.environ.get(FOLDER) == before and not any(tmp_path.iterdir())
    expected = torch.tensor(np.stack([positions()[name.upper()] for name in SIX]), dtype=torch.float32)
    assert torch.equal(encoder.places, expected) and "by MNE's template" in encoder.spec.intensity


def test_the_setting_is_as_it_was_when_a_build_fails(monkeypatch):
    monkeypatch.setenv(FOLDER, "mine")
    with pytest.raises(RuntimeError), supplied(Places({"Fp1": (0, 0, 0)}, "")):
        raise RuntimeError
    assert os.environ[FOLDER] == "mine"


def test_places_are_in_the_frame_and_unit_of_the_published_list():
    # What users of the published list print of it, to four digits of a metre.
    published = {
        "TP9": (-0.0856, -0.0465, -0.0457),
        "AF7": (-0.0548, 0.0686, -0.0106),
        "AF8": (0.0557, 0.0697, -0.0108),
    }
    for name, place in template_places(tuple(published)).by_name.items():
        np.testing.assert_allclose(place, published[name], atol=5e-5)


def test_a_list_of_places_beside_the_weights_is_used_and_told(saved):
    x = fresh().prepare(noise())[None]
    plain = built(str(saved))
    (saved / "positions.json").write_text(json.dumps(listed(0.01)))
    for weights in (saved, saved / "model.safetensors"):
        moved = built(str(weights))
        torch.testing.assert_close(moved.places, plain.places + 0.01)
        assert "positions.json (sha256" in moved.spec.intensity and moved.spec.weights != plain.spec.weights
        with torch.no_grad():
            assert not torch.allclose(moved(x).tokens, plain(x).tokens, atol=1e-4)
    with torch.no_grad():
        assert torch.equal(plain(x).tokens, fresh()(x).tokens)


def test_published_weights_come_with_their_list(saved, monkeypatch):
    asked: list[str] = []

    def download(repository: str, file: str) -> str:
        asked.append(f"{repository}/{file}")
        return str(saved / file)

    monkeypatch.setattr("medgraft.encoders.braindecode.demand", lambda *_: None)
    monkeypatch.setattr("medgraft.encoders.parts.loading.demand", lambda *_: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    (saved / "positions.json").write_text(json.dumps(listed(0.01)))
    encoder = built("default")
    assert asked == [f"{HUB}/positions.json", "brain-bzh/reve-base/model.safetensors"]
    torch.testing.assert_close(encoder.places, fresh().places + 0.01)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1, 2", "cannot be read"),
        ("[1, 2]", "no list of places"),
        ("{}", "no place for Fp1"),
        (json.dumps({**listed(), "C4": [0, 1]}), r"\[0, 1\] for C4"),
        (json.dumps({**listed(), "C4": [0, 1, float("nan")]}), "nan.* for C4"),
        (json.dumps({**listed(), "C4": "left"}), "'left' for C4"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_in_one_sentence(saved, text, words):
    (saved / "reve_positions.json").write_text(text)
    with pytest.raises(CheckpointError, match=words) as caught:
        built(str(saved))
    assert "\n" not in str(caught.value) and "reve_positions.json" in str(caught.value)


def test_tokens_are_seconds_of_channels_and_follow_their_order():
    encoder = built(seconds=10).double()
    x = encoder.prepare(noise())[None].double()
    grid = encoder(x).grid
    assert grid == (6, 11)  # patches of 200 samples, each 180 behind the last, fill 2000
    order = [5, 2, 0, 1, 4, 3]
    turned = built(seconds=10, channels=tuple(SIX[i] for i in order)).double()
    with torch.no_grad():
        tokens = encoder(x).tokens.unflatten(1, grid)[:, order].flatten(1, 2)
        # The library takes its RMS norms in single precision whatever it is given.
        torch.testing.assert_close(turned(x[:, order]).tokens, tokens, rtol=0, atol=1e-6)


def test_values_are_z_scores_clipped_at_fifteen():
    recording = noise()
    recording.values[:, 100] = 2e4
    x = fresh().prepare(recording)
    assert float(x.max()) == 15 and float(fresh().prepare(noise()).std(dim=1, unbiased=False).sub(1).abs().max()) < 1e-5


def test_attention_pooling_is_the_librarys_and_its_query_is_trained():
    encoder = built(attention_pooling=True).double()
    x = torch.stack([encoder.prepare(noise(scale)) for scale in (20.0, 30.0)]).double()
    tokens = encoder(x).tokens
    query = encoder.model.cls_query_token[0]
    weights = torch.softmax(tokens @ query.T / 32**0.5, dim=1)
    torch.testing.assert_close(encoder(x).pooled, (weights * tokens).sum(dim=1), rtol=1e-10, atol=1e-10)
    assert encoder.spec.pooling == "attention of a learned query" and fresh().spec.pooling == "mean"
    asked = encoder.model.cls_query_token.requires_grad_()
    grad = torch.autograd.grad(encoder(x).pooled.square().sum(), asked)[0]
    assert bool(grad.any())


def test_sites_are_those_of_a_transformer():
    sites = fresh().sites()
    assert {f"blocks.0.attn.{part}" for part in ("q", "k", "v", "out")} <= sites.keys()
    assert {"blocks.0", "blocks.0.attn", "blocks.0.mlp"} <= sites.keys()
    assert sites["blocks.0.mlp"].entry.endswith("1.net.1") and sites["blocks.0.mlp"].path.endswith("1.net.3")
