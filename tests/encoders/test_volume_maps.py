"""Encoders of volumes on PET and on maps of diffusion: how the first layer takes several maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from medgraft import graft
from medgraft.encoder import Encoder
from medgraft.encoders.dmri import DmriSource, parse
from medgraft.encoders.parts.volume_maps import MapsEncoder, widen_first
from medgraft.encoders.pet import PetSource
from medgraft.errors import ConfigError, DataError, IncompatibleError
from medgraft.modality import find_modality
from medgraft.plugins import discover
from medgraft.registry import build_adapter, build_encoder

BASE = "embedded:brain@random"


@pytest.fixture(scope="module")
def volume() -> Encoder:
    return build_encoder(BASE).towers()["volume"]


@pytest.fixture(scope="module")
def three() -> Encoder:
    return build_encoder(f"dmri:maps=3:{BASE}")


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(2, 1, 64, 80, 64, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_identical_maps_give_the_features_of_one(volume, three, x):
    assert isinstance(three, MapsEncoder) and three.widened
    features, expected = three(x.expand(-1, 3, -1, -1, -1)), volume(x)
    torch.testing.assert_close(features.tokens, expected.tokens, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.pooled, expected.pooled, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_the_first_layer_is_linear_in_the_maps(volume, three, x):
    """Different maps are read as their mean is, until the weights of the first layer are trained apart."""
    maps = torch.cat([x, 2 * x, x.flip(2)], dim=1)
    expected = volume(maps.mean(dim=1, keepdim=True)).pooled
    torch.testing.assert_close(three(maps).pooled, expected, rtol=1e-3, atol=1e-4)
    first = next(module for module in three.modules() if isinstance(module, nn.Conv3d))
    assert first.in_channels == 3 and torch.equal(first.weight[:, 0], first.weight[:, 2])


@torch.no_grad()
def test_without_a_convolution_their_mean_is_read():
    pixels, maps = build_encoder("pixels:3d"), build_encoder("dmri:pixels:3d")
    assert isinstance(maps, MapsEncoder) and not maps.widened
    x = torch.randn(1, 2, 64, 80, 64)
    torch.testing.assert_close(maps(x).pooled, pixels(x.mean(dim=1, keepdim=True)).pooled)


def test_layers_that_are_read_beside_the_first_are_not_widened(volume):
    class Branched(Encoder):
        def __init__(self) -> None:
            super().__init__(volume.spec)
            self.first, self.beside = nn.Conv3d(1, 2, 3), nn.Conv3d(1, 2, 3)

    branched = Branched()
    assert not widen_first(branched, 2) and branched.first.in_channels == 1 and branched.spec.channels == 1


def test_every_map_is_prepared_alone(volume, three):
    raw = np.random.default_rng(0).random((3, 20, 24, 20), np.float32)
    expected = torch.cat([volume.prepare(each) for each in raw])
    assert torch.equal(three.prepare(raw), expected)
    units = raw * np.array([1, 1e-3, 7], np.float32)[:, None, None, None]
    torch.testing.assert_close(three.prepare(units), expected, rtol=1e-4, atol=1e-4)  # each is scaled by its own mean


def test_pet_is_read_as_a_volume(volume, x):
    pet = build_encoder(f"pet:{BASE}")
    assert pet.spec.modality == "pet" and pet.spec.channels == 1 and list(pet.towers()) == ["pet"]
    with torch.no_grad():
        assert torch.equal(pet(x).pooled, volume(x).pooled)
        scored, expected = pet(x, scores=True), volume(x, scores=True)
    assert torch.equal(scored.cls_scores, expected.cls_scores)
    assert pet.block_paths() == [f"volume.{path}" for path in volume.block_paths()]


def test_stages_give_what_the_whole_gives(three, x):
    maps = torch.cat([x, -x, 0.5 * x], dim=1)
    with torch.no_grad():
        for stage in range(three.n_stages):
            again = three(three.prefix(maps, stage), start=stage)
            torch.testing.assert_close(again.pooled, three(maps).pooled, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("adapter", ["lora", "adaptformer", "houlsby"])
def test_adapters_attach_and_train(adapter, x):
    grafted = graft(f"dmri:{BASE}", adapter)
    grafted.train()
    grafted(torch.cat([x, -x], dim=1)).pooled.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in grafted.trainable_parameters())


@pytest.mark.parametrize("name", [f"pet:{BASE}", f"dmri:{BASE}", f"fmri:{BASE}"])
def test_an_adapter_fits_maps_where_it_fits_volumes(volume, name):
    """None may ask for a volume by its name: what counts is the grid of the tokens."""
    maps = build_encoder(name)
    for adapter, plugin in discover("adapter").items():
        if plugin.builtin and adapter != "peft":  # which must be told its method
            by_maps, by_volume = (build_adapter(adapter, {}).supports(each) for each in (maps, volume))
            assert bool(by_maps) == bool(by_volume), f"{adapter}: {by_maps.reason or by_volume.reason}"


def test_three_encoders_stand_side_by_side():
    whole = build_encoder(f"pair:{BASE}|pet:{BASE}|dmri:maps=4:{BASE}")
    assert list(whole.towers()) == ["volume", "pet", "dmri"]
    assert whole.towers()["dmri"].spec.channels == 4 and whole.spec.weights == "random"


@pytest.mark.parametrize(
    ("call", "error", "said"),
    [
        (lambda: build_encoder("pet:embedded:chest"), IncompatibleError, "image and text; pet needs an encoder of"),
        (lambda: parse("maps=0:pixels:3d"), ConfigError, "maps"),
        (lambda: parse("channels=2:pixels:3d"), ConfigError, "its options are: maps"),
        (lambda: DmriSource.make("pixels:3d", "default", "0" * 64), ConfigError, "by its own name"),
        (lambda: PetSource.make("pixels:3d", "default", "0" * 64), ConfigError, "by its own name"),
        (lambda: build_encoder("dmri:pixels:3d").prepare(np.ones((3, 9, 9, 9), np.float32)), DataError, "maps=3"),
        (lambda: build_encoder("dmri:pixels:3d")(torch.zeros(1, 1, 64, 80, 64)), ConfigError, r"\[B, 2, D, H, W\]"),
        (lambda: find_modality("dmri").check(np.ones((4, 4, 4), np.float32)), DataError, r"\[M, D, H, W\]"),
        (lambda: find_modality("pet").check(np.ones((2, 4, 4, 4), np.float32)), DataError, "tracer uptake"),
    ],
)
def test_what_does_not_fit_is_said(call, error, said):
    with pytest.raises(error, match=said):
        call()
