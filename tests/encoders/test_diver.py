"""The source ``diver``: recordings, electrodes that are missing, adapters on its blocks, names and files."""

from __future__ import annotations

import functools
import unittest

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

from medgraft import graft
from medgraft.encoders.diver import DiverSource, DiverTower, places_of
from medgraft.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from medgraft.modalities.eeg import TEN_TWENTY
from medgraft.modalities.signal import Recording
from medgraft.registry import build_encoder, check_encoder
from medgraft.testing import check_adapter

SIX = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")


def noise(names=TEN_TWENTY, seconds=3.0, rate=250.0, seed=0, loud=20.0) -> Recording:
    values = loud * np.random.default_rng(seed).standard_normal((len(names), round(seconds * rate)))
    return Recording(values.astype(np.float32), names, rate)


def small(**options) -> DiverTower:
    encoder = DiverSource.build("tiny", "random", **{"channels": SIX, **options})
    assert isinstance(encoder, DiverTower)
    return encoder


@functools.cache
def tiny(missing: str = "interpolate") -> DiverTower:
    return small(missing=missing)


# -- recordings -------------------------------------------------------------------------------------------------------


def test_a_recording_is_brought_to_500_hz_and_clipped_at_200_microvolts():
    x = tiny().prepare(noise(SIX, loud=150.0))
    assert x.shape == (6, 1000) and float(x.max()) == 200 and float(x.min()) == -200
    quiet = noise(SIX, rate=500.0)
    assert torch.equal(tiny().prepare(quiet), torch.from_numpy(quiet.values[:, :1000]))
    volts = Recording(quiet.values / np.float32(1e6), SIX, 500.0)
    assert_close(small(unit="V").prepare(volts), tiny().prepare(quiet))


def test_places_are_millimetres_and_differences_have_none():
    places = places_of(("T7", "t4", "Cz", "Fp1-F7"))
    assert places[0, 0] < -60 and places[1, 0] > 60 and places[2, 2] > 60 and np.isnan(places[3]).all()
    assert 60 < np.linalg.norm(places[2]) < 150


def test_features_are_the_networks_tokens_registers_first():
    x = torch.stack([tiny().prepare(noise(seed=seed)) for seed in range(2)])
    with torch.no_grad():
        features, tokens = tiny()(x), tiny().model(x, torch.from_numpy(places_of(SIX)))
    assert torch.equal(features.tokens, tokens)
    assert (features.n_prefix, features.grid) == (1 + 6 + 2, (6, 2))
    assert_close(features.pooled, tokens[:, 9:].mean(dim=1))


def test_the_order_of_the_electrodes_does_not_matter():
    turned = SIX[3:] + SIX[:3]
    other = small(channels=turned)
    with torch.no_grad():
        a = tiny()(tiny().prepare(noise())[None])
        b = other(other.prepare(noise())[None])
    assert_close(a.pooled, b.pooled, rtol=1e-4, atol=1e-5)  # sums in another order, single precision


def test_electrodes_that_are_dropped_leave_the_network_of_the_others():
    encoder, rest = tiny("drop"), ("Fp1", "C3", "C4", "O2")
    whole, part = noise(SIX), noise(SIX)
    part = Recording(part.values[[0, 2, 3, 5]], rest, part.rate)
    x = torch.stack([encoder.prepare(whole), encoder.prepare(part)]).double()
    assert x[1].isnan().any(dim=1).tolist() == [False, True, False, False, True, False]
    twin, alone = small(missing="drop").double(), small(channels=rest).double()
    with torch.no_grad():
        features, few, full = twin(x), alone(x[1:, [0, 2, 3, 5]]), twin(x[:1])
    assert features.mask[0].all() and features.n_prefix == 9 and features.tokens.shape == (2, 21, 64)
    assert_close(features.tokens[1][features.mask[1]], few.tokens[0], rtol=1e-9, atol=1e-9)
    assert_close(features.pooled, torch.cat([full.pooled, few.pooled]), rtol=1e-9, atol=1e-9)
    assert features.mask[1].tolist() == [True, *(c in rest for c in SIX), True, True] + [
        channel in rest for channel in SIX for _ in range(2)
    ]


def test_a_recording_without_any_of_its_electrodes_is_refused():
    with pytest.raises(DataError, match="none of the electrodes Fp1, Fp2, C3"):
        tiny("drop").prepare(noise(("Fz", "Cz", "Pz")))


def test_bipolar_recordings_of_any_montage_are_taken():
    names = ("Fp1-F7", "C3-P3", "O2-P4")
    encoder = small(channels=names)
    features = encoder(encoder.prepare(noise(names))[None])
    assert features.grid == (3, 2) and features.tokens.isfinite().all()


def test_short_patches_stand_in_the_name():
    encoder = build_encoder("diver:tiny,patch=50,seconds=0.5@random")
    assert encoder.spec.input_size == (250,) and encoder.spec.name == "diver:tiny,patch=50,seconds=0.5"
    assert encoder(encoder.prepare(noise())[None]).grid == (19, 5)


# -- adapters ---------------------------------------------------------------------------------------------------------

# Options do not depend on the encoder, and compiling would take longer than all other rules together.
ELSEWHERE = {"values_out_of_range_are_refused", "compilation_agrees"}


def test_lora_keeps_every_rule_on_it_and_merges():
    passed = []
    for check in check_adapter("lora", encoders={"diver": small}):
        if str(check) not in ELSEWHERE:
            try:
                check()
            except unittest.SkipTest:
                continue
            passed.append(str(check))
    assert len(passed) > 25 and "merging_changes_no_output" in passed, passed


def test_every_block_has_lora_on_queries_and_values():
    assert graft(small(), "lora", rank=4).trainable_count()["lora"] == 2 * 2 * 4 * (64 + 64)


# -- names and files --------------------------------------------------------------------------------------------------


def test_a_file_of_its_own_loads_and_another_is_refused(tmp_path):
    encoder = small()
    state = {name: (value + 0.1).contiguous() for name, value in encoder.model.state_dict().items()}
    save_file(state, tmp_path / "model.safetensors")
    loaded = DiverSource.build("tiny", str(tmp_path), channels=SIX)
    assert isinstance(loaded, DiverTower)
    assert all(torch.equal(value, state[name]) for name, value in loaded.model.state_dict().items())
    assert loaded.spec.weights.startswith("pretrained:") and loaded.spec.licence == "unknown"
    with pytest.raises(CheckpointError, match="of another shape"):
        DiverSource.build("tiny", str(tmp_path), patch=50, channels=SIX)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"patch": 250}, ConfigError, "patch"),
        ({"seconds": 1.5}, ConfigError, "whole number of patches"),
        ({"channels": "Fp1"}, ConfigError, "list of different electrodes"),
        ({"channels": ("Fp1", "Q17")}, DataError, "does not know: Q17"),
        ({"unit": "nV"}, ConfigError, "unit"),
        ({"dim": 100}, ConfigError, "multiple of 64"),
        ({"depths": 3}, ConfigError, "depths"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_sentence(options, error, words):
    with pytest.raises(error, match=words) as caught:
        small(**options)
    assert "\n" not in str(caught.value)


def test_names_are_checked():
    assert check_encoder("diver:base,missing=drop@random").model == "base,missing=drop"
    with pytest.raises(UnknownNameError, match="did you mean base"):
        check_encoder("diver:bas@random")
    with pytest.raises(CheckpointError, match="no weights that can be fetched"):
        DiverSource.build("tiny")
