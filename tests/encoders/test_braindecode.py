"""braindecode's networks of EEG: the library's numbers, recordings brought to what each was trained on, bad input."""

from __future__ import annotations

import functools
import sys
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medgraft.encoders.braindecode import BraindecodeSource
from medgraft.encoders.parts.eeg import networks
from medgraft.encoders.parts.eeg.electrodes import channel_map
from medgraft.encoders.parts.eeg.networks import BIPOLAR, NETWORKS
from medgraft.encoders.parts.eeg.recordings import resampled
from medgraft.errors import CheckpointError, ConfigError, DataError, IncompatibleError, MedgraftError
from medgraft.grafting import graft
from medgraft.modalities.eeg import TEN_TWENTY, electrode, positions
from medgraft.modalities.signal import Recording
from medgraft.registry import build_encoder

pytestmark = pytest.mark.filterwarnings("ignore")

SIX = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")
TINY: dict[str, dict[str, Any]] = {
    "labram": {"num_layers": 2, "seconds": 2, "channels": SIX},
    "cbramod": {"n_layer": 2, "dim_feedforward": 64, "seconds": 2, "channels": SIX},
    "eegpt": {"depth": 2, "embed_dim": 32, "num_heads": 2, "seconds": 1, "channels": SIX},
    "biot": {"num_layers": 2, "embed_dim": 32, "num_heads": 2, "seconds": 2},
    "bendr": {"seconds": 3, "encoder_h": 32, "contextualizer_hidden": 64, "transformer_layers": 2},
    "luna": {"depth": 2, "embed_dim": 16, "seconds": 5, "channels": SIX},
    "reve": {"depth": 2, "embed_dim": 32, "heads": 2, "head_dim": 8, "seconds": 2, "channels": SIX},
    "signal_jepa": {"seconds": 4, "transformer__num_encoder_layers": 1, "channels": SIX},
    "codebrain": {"seconds": 2, "channels": SIX, "num_res_layers": 1},
    "eegdino": {"seconds": 2, "channels": SIX, "n_layer": 2},
    "eegnet": {"seconds": 2, "channels": SIX},
    "eegnex": {"seconds": 2, "channels": SIX},
    "shallow": {"seconds": 2, "channels": SIX},
    "deep4": {"seconds": 3, "channels": SIX},
    "conformer": {"seconds": 2, "channels": SIX},
}
TRANSFORMERS = ("labram", "cbramod", "eegpt", "biot", "bendr", "luna", "reve")


def noise(seconds: float = 6.0, rate: float = 200.0, names: tuple[str, ...] = TEN_TWENTY, seed: int = 0) -> Recording:
    values = 20 * np.random.default_rng(seed).standard_normal((len(names), round(seconds * rate)))
    return Recording(values.astype(np.float32), names, rate)


@functools.cache
def tiny(name: str) -> Any:
    return BraindecodeSource.build(name, "random", **TINY[name])


def library_network(name: str) -> Any:
    """The library's network, with a classifier and weights that differ from every fresh one's."""
    options = {key: value for key, value in TINY[name].items() if key not in ("seconds", "channels")}
    preparation = tiny(name).preparation
    model = networks.network(NETWORKS[name], preparation, options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(0.02 * torch.rand(value.shape, generator=generator))
    return model.eval()


def of_library(name: str, model: Any, x: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Tokens and pooled features as the library's own forward gives them, where it gives them."""
    if name == "labram":
        features = model(x, return_features=True, ch_names=list(SIX))
        return torch.cat([features["cls_token"][:, None], features["features"]], dim=1), features["cls_token"]
    if name in ("biot", "bendr"):
        return None, model(x, return_features=True)["features"]
    if name == "eegpt":
        return model(x, return_features=True)["features"].reshape(len(x), -1, 32), None
    if name in ("cbramod", "signal_jepa", "codebrain", "eegdino"):
        return model(x, return_features=True)["features"].reshape(len(x), -1, tiny(name).spec.dim), None
    if name == "luna":
        return model(x), None
    if name == "reve":
        places = model.default_pos.to(x.dtype).expand(len(x), -1, -1)
        return model(x, pos=places, return_features=True)["features"].flatten(1, 2), None
    out = model(x)
    return None, out if out.ndim == 2 else out.flatten(2).mean(dim=2)


@pytest.mark.parametrize("name", TINY)
def test_a_file_of_the_librarys_network_gives_the_librarys_numbers(name, tmp_path):
    model = library_network(name)
    state = {f"model.{key}": value.clone().contiguous() for key, value in model.state_dict().items()}
    state["model.final_layer.weight"] = torch.zeros(2, 7)  # of the classifier that the file was trained with
    save_file(state, tmp_path / "model.safetensors")
    encoder = BraindecodeSource.build(name, str(tmp_path), **TINY[name])
    x = torch.stack([encoder.prepare(noise(seed=i)) for i in range(2)])
    single = name == "codebrain"  # the library's state spaces make float32 whatever they are given
    if not single:
        x, model, encoder = x.double(), model.double(), encoder.double()
    with torch.no_grad():
        features, (tokens, pooled) = encoder(x), of_library(name, model, x)
    assert tokens is not None or pooled is not None
    if tokens is not None:
        torch.testing.assert_close(features.tokens, tokens, rtol=0 if single else 1e-8, atol=1e-6 if single else 1e-8)
    if pooled is not None:
        torch.testing.assert_close(features.pooled, pooled, rtol=1e-8, atol=1e-8)
    assert features.tokens.shape[-1] == encoder.spec.dim and encoder.spec.weights.startswith("pretrained:")


@pytest.mark.parametrize("adapter", ["lora", "houlsby", "adaptformer", "bitfit"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_adapters_train_on_every_transformer_and_leave_it_as_it_was(name, adapter):
    encoder = tiny(name)
    x = torch.stack([encoder.prepare(noise(seed=i)) for i in range(2)])
    with torch.no_grad():
        before = encoder(x).tokens
    grafted = graft(encoder, adapter).train()
    features = grafted.encode({"signal": x})["signal"]
    parts = [(each * torch.linspace(-1, 2, each.shape[-1])).sum() for each in (features.tokens, features.pooled)]
    torch.stack(parts).sum().backward()
    gradients = [p.grad for p in grafted.trainable_parameters()]
    assert (
        gradients and all(g is not None for g in gradients) and any(bool(g.any()) for g in gradients if g is not None)
    )
    grafted.ungraft()
    with torch.no_grad():
        assert torch.equal(encoder(x).tokens, before)


def test_lora_reaches_both_attentions_of_a_criss_cross_block():
    grafted = graft(tiny("cbramod"), "lora")
    names = " ".join(key for key, _ in grafted.named_parameters() if "lora" in key.lower() or "/" in key)
    assert "spatial" in names and "temporal" in names
    grafted.ungraft()


# -- weights ----------------------------------------------------------------------------------------------------------


def test_labrams_published_names_and_its_table_of_sixteen_seconds_load(tmp_path):
    model = library_network("labram")
    long = torch.randn(1, 16, 200)
    state = {}
    for key, value in model.state_dict().items():
        key = key.replace("position_embedding", "pos_embed").replace("temporal_embedding", "time_embed")
        key = key.replace("patch_embed.temporal_conv", "patch_embed").replace("mlp.0.", "mlp.fc1.")
        state[f"student.{key}".replace("mlp.2.", "mlp.fc2.")] = value.clone()
    state["student.time_embed"] = long
    state["student.mask_token"], state["logit_scale"] = torch.zeros(1, 1, 200), torch.zeros(1)
    torch.save({"model": state}, tmp_path / "labram.pth")
    encoder: Any = BraindecodeSource.build("labram", str(tmp_path / "labram.pth"), **TINY["labram"])
    assert torch.equal(encoder.model.temporal_embedding, long[:, :3])
    assert torch.equal(encoder.model.blocks[1].attn.qkv.weight, model.blocks[1].attn.qkv.weight)


def test_weights_that_do_not_fit_and_weights_that_are_not_here_are_refused(tmp_path):
    save_file({"something.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors"):
        BraindecodeSource.build("labram", str(tmp_path / "other.safetensors"), **TINY["labram"])
    with pytest.raises(CheckpointError, match=r"braindecode:cbramod.*@/path"):
        BraindecodeSource.build("cbramod", "default")
    with pytest.raises(CheckpointError, match="no weights of it are published"):
        BraindecodeSource.build("eegnet", "default")


def test_without_the_library_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "braindecode", None)
    monkeypatch.setitem(sys.modules, "braindecode.models", None)
    with pytest.raises(ConfigError, match=r"pip install 'medgraft\[eeg\]'"):
        BraindecodeSource.build("labram", "random")


# -- recordings -------------------------------------------------------------------------------------------------------


def test_the_order_of_the_channels_and_their_older_names_do_not_matter():
    encoder, recording = tiny("labram"), noise()
    older = {"T7": "EEG T3-REF", "T8": "T4", "P7": "T5", "P8": "T6", "Fp1": "FP1", "Cz": "Cz."}
    order = np.random.default_rng(1).permutation(19)
    names = tuple(str(older.get(recording.channels[i], recording.channels[i])) for i in order)
    other = Recording(recording.values[order], names, recording.rate)
    assert torch.equal(encoder.prepare(other), encoder.prepare(recording))


@pytest.mark.parametrize(("unit", "factor"), [("uV", 1.0), ("mV", 1e-3), ("V", 1e-6)])
def test_units_are_what_the_option_says(unit, factor):
    recording = noise()
    encoder = BraindecodeSource.build("labram", "random", unit=unit, **TINY["labram"])
    given = Recording(recording.values * np.float32(factor), recording.channels, recording.rate)
    index = [TEN_TWENTY.index(name) for name in SIX]
    expected = torch.from_numpy(recording.values[index, :400]) / 100
    torch.testing.assert_close(encoder.prepare(given), expected, rtol=1e-5, atol=1e-6)
    assert f"recorded in {unit}" in encoder.spec.intensity and "microvolts / 100" in encoder.spec.intensity


@pytest.mark.parametrize("factor", [1e-6, 1e-3, 1e3, 1e6])
def test_microvolts_that_no_eeg_has_are_refused(factor):
    recording = noise()
    wrong = Recording(recording.values * np.float32(factor), recording.channels, recording.rate)
    with pytest.raises(DataError, match=r"standard deviation of .* microvolts"):
        tiny("labram").prepare(wrong)


def test_volts_taken_for_microvolts_are_told_by_name():
    recording = noise()
    with pytest.raises(DataError, match="say unit='V'"):
        tiny("labram").prepare(Recording(recording.values * np.float32(1e-6), recording.channels, recording.rate))


@pytest.mark.parametrize("rate", [128.0, 250.0, 256.0, 500.0, 512.0, 1000.0, 999.7])
def test_a_resampled_sine_is_the_sine_at_the_other_rate(rate):
    time = np.arange(round(6 * rate)) / rate
    values = np.sin(2 * np.pi * 10 * time)[None] + 3
    result = resampled(values, rate, 200.0)[0]
    inside = slice(100, 1000)
    expected = np.sin(2 * np.pi * 10 * np.arange(len(result)) / 200.0) + 3
    # The filter's pass band ripples by a thousandth; 999.7 Hz is taken as a ratio that is off by 1e-6.
    np.testing.assert_allclose(result[inside], expected[inside], atol=5e-3)


def test_what_the_lower_rate_cannot_hold_is_filtered_out():
    time = np.arange(3000) / 500
    result = resampled(np.sin(2 * np.pi * 180 * time)[None], 500.0, 200.0)[0]
    assert np.abs(result[100:-100]).max() < 0.01


def test_long_recordings_are_cut_and_short_ones_end_in_zeros():
    encoder = tiny("labram")
    long, short = encoder.prepare(noise(6)), encoder.prepare(noise(1.25))
    recording = noise(6)
    cut = Recording(recording.values[:, :400], recording.channels, recording.rate)
    assert torch.equal(encoder.prepare(cut), long) and long.shape == short.shape == (6, 400)
    assert bool((short[:, 250:] == 0).all()) and bool((short[:, :250] != 0).any())


def test_missing_electrodes_are_mnes_spherical_splines():
    import mne

    from medgraft.encoders.parts.eeg.electrodes import head_centre

    recording = noise(2)
    kept = [i for i, name in enumerate(TEN_TWENTY) if name not in ("C3", "O2")]
    matrix = channel_map(tuple(TEN_TWENTY[i] for i in kept), SIX, "interpolate")
    info = mne.create_info(list(TEN_TWENTY), 200.0, "eeg")
    places = {name: positions()[name.upper()] for name in TEN_TWENTY}
    info.set_montage(mne.channels.make_dig_montage(places, coord_frame="head"))
    raw: Any = mne.io.RawArray(recording.values.astype(np.float64), info, verbose="ERROR")
    raw.info["bads"] = ["C3", "O2"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        raw.interpolate_bads(origin=head_centre(), verbose="ERROR")
    np.testing.assert_allclose(matrix @ recording.values[kept], raw.get_data(picks=list(SIX)), atol=1e-9)


def test_a_smooth_field_is_found_again_where_an_electrode_is_missing():
    field = np.array([positions()[name.upper()][0] for name in TEN_TWENTY])  # left to right
    for name in ("C3", "Pz", "F4"):
        kept = [i for i, each in enumerate(TEN_TWENTY) if each != name]
        weights = channel_map(tuple(TEN_TWENTY[i] for i in kept), (name,), "interpolate")
        assert abs(float((weights @ field[kept])[0]) - field[TEN_TWENTY.index(name)]) < 0.01  # of +-0.085 m


def test_flat_and_saturated_channels_count_as_missing():
    recording = noise()
    values, index = recording.values.copy(), TEN_TWENTY.index("C3")
    kept = [i for i in range(19) if i != index]
    without = Recording(values[kept], tuple(TEN_TWENTY[i] for i in kept), 200.0)
    flat, stuck = values.copy(), values.copy()
    flat[index] = 7.0
    stuck[index] = np.clip(stuck[index], -np.inf, 10.0)
    encoder = tiny("labram")
    for changed in (flat, stuck):
        assert torch.equal(encoder.prepare(Recording(changed, TEN_TWENTY, 200.0)), encoder.prepare(without))
    strict = BraindecodeSource.build("labram", "random", missing="refuse", **TINY["labram"])
    strict.prepare(recording)
    with pytest.raises(DataError, match="lacks C3"):
        strict.prepare(without)


@pytest.mark.parametrize("name", ["labram", "cbramod", "reve"])
def test_dropped_channels_are_as_if_the_network_never_had_them(name):
    encoder = BraindecodeSource.build(name, "random", missing="drop", **TINY[name])
    four = ("Fp1", "C3", "C4", "O2")
    narrow = BraindecodeSource.build(name, "random", **{**TINY[name], "channels": four})
    whole, part = noise(seed=1), noise(names=four, seed=2)
    samples = [encoder.prepare(each) for each in (part, whole, noise(names=four, seed=3))]
    x, encoder, narrow = torch.stack(samples).double(), encoder.double(), narrow.double()
    assert encoder.n_stages == 1 and bool(x[0, 1].isnan().all())
    with torch.no_grad():
        features, alone, full = encoder(x), narrow(narrow.prepare(part)[None].double()), encoder(x[1:2])
    torch.testing.assert_close(features.pooled[:1], alone.pooled, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(features.tokens[0][features.mask[0]], alone.tokens[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(features.tokens[1:2], full.tokens, rtol=1e-9, atol=1e-9)
    assert bool(features.mask[1].all()) and not bool(features.mask[0].all())


def test_biots_differences_come_from_electrodes_or_from_a_bipolar_recording():
    encoder, recording = tiny("biot"), noise()
    index = {name.upper(): i for i, name in enumerate(TEN_TWENTY)}
    ends = [electrode(name).split("-") for name in BIPOLAR]
    values = np.stack([recording.values[index[a]] - recording.values[index[b]] for a, b in ends])
    bipolar = Recording(values, BIPOLAR, 200.0)
    torch.testing.assert_close(encoder.prepare(bipolar), encoder.prepare(recording), rtol=1e-4, atol=1e-5)
    turned = Recording(np.concatenate([-values[:1], values[1:]]), ("F7-Fp1", *BIPOLAR[1:]), 200.0)
    assert torch.equal(encoder.prepare(turned), encoder.prepare(bipolar))
    top = torch.quantile(encoder.prepare(recording).double().abs(), 0.95, dim=1)
    torch.testing.assert_close(top, torch.ones(16).double(), rtol=1e-5, atol=1e-5)


def test_bendrs_channels_share_one_scale_and_end_in_a_scale_of_zero():
    x = tiny("bendr").prepare(noise())
    assert x.shape == (20, 768) and float(x[:19].min()) == -1 and float(x[:19].max()) == 1
    assert bool((x[19] == 0).all()) and tiny("bendr").channels[19] == "SCALE"


def test_eegpt_is_given_the_average_reference_in_millivolts():
    x = tiny("eegpt").prepare(noise(rate=256.0))
    assert float(x.mean(dim=0).abs().max()) < 1e-6
    assert 0.01 < float(x.std()) < 0.03


def test_auxiliary_channels_are_left_out():
    recording = noise()
    more = Recording(np.concatenate([recording.values, recording.values[:2] * 50]), (*TEN_TWENTY, "ECG", "EOG1"), 200.0)
    assert torch.equal(tiny("labram").prepare(more), tiny("labram").prepare(recording))


BAD: dict[str, tuple[Any, str]] = {
    "unknown names": (noise(names=("Fp1", "Fp2", "C3", "Q17")), "does not know: Q17"),
    "one electrode twice": (noise(names=("T3", "T7", "C3", "C4")), "two channels for T7"),
    "bipolar": (noise(names=BIPOLAR), "bipolar"),
    "too few to interpolate": (noise(names=("Fp1", "C3")), "cannot be interpolated from 2"),
    "no rate": (Recording(noise().values, TEN_TWENTY, None), "one rate"),  # type: ignore[arg-type]  # as a reader may give it
    "several rates": (Recording(noise().values, TEN_TWENTY, (200.0, 100.0)), "resample"),  # type: ignore[arg-type]  # as a reader may give it
    "rate of zero": (Recording(noise().values, TEN_TWENTY, 0.0), "0"),
    "rate without an end": (Recording(noise().values, TEN_TWENTY, float("nan")), "nan"),
    "rate far off": (Recording(noise().values, TEN_TWENTY, 1e6), "cannot be brought"),
    "all flat": (Recording(np.zeros((19, 900), np.float32), TEN_TWENTY, 200.0), "no signal"),
    "one sample": (Recording(np.ones((19, 1), np.float32), TEN_TWENTY, 200.0), "two samples"),
    "names missing": (Recording(noise().values, TEN_TWENTY[:5], 200.0), "channels"),
    "not finite": (Recording(np.full((19, 900), np.nan, np.float32), TEN_TWENTY, 200.0), ""),
    "an array": (noise().values, "ndarray"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_eeg_of_the_network_is_refused_in_one_sentence(case):
    raw, words = BAD[case]
    with pytest.raises(DataError, match=words) as caught:
        tiny("labram").prepare(raw)
    assert "\n" not in str(caught.value)


OPTIONS: dict[str, tuple[str, dict[str, Any], str]] = {
    "unit": ("labram", {"unit": "nV"}, "nV"),
    "missing": ("labram", {"missing": "zero"}, "zero"),
    "drop of a fixed list": ("bendr", {"missing": "drop"}, "none can be left out"),
    "channels of a fixed list": ("bendr", {"channels": SIX}, "no others"),
    "channel that it was not trained on": ("eegpt", {"channels": ("Fp1", "Iz")}, "not trained on Iz"),
    "channel without a place": ("reve", {"channels": ("Fp1", "Q17")}, "has none for Q17"),
    "difference without a place": ("luna", {"channels": BIPOLAR}, "has none for Fp1-F7"),
    "channel twice": ("labram", {"channels": ("Fp1", "Fp1")}, "different"),
    "channels as one word": ("labram", {"channels": "Fp1"}, "list"),
    "part of a patch": ("labram", {"seconds": 1.5}, "whole number"),
    "no time": ("eegnet", {"seconds": 0}, "greater than 0"),
    "unknown option": ("labram", {"depth_of": 3}, "depth_of"),
}


def test_options_may_stand_in_the_name_and_are_part_of_it():
    named = build_encoder("braindecode:eegnet,unit=V,seconds=2@random")
    built = BraindecodeSource.build("eegnet", "random", unit="V", seconds=2)
    assert named.spec == built.spec and named.spec.name == "braindecode:eegnet,unit=V,seconds=2"
    for name, words in (("eegnet,unit=nV", "nV"), ("eegnet,units=V", "units"), ("eegnett", "did you mean eegnet")):
        with pytest.raises(MedgraftError, match=words):
            build_encoder(f"braindecode:{name}@random")


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_do_not_fit_are_refused_in_one_sentence(case):
    name, options, words = OPTIONS[case]
    with pytest.raises(ConfigError, match=words):
        BraindecodeSource.build(name, "random", **options)


def test_a_specialist_has_no_attention_and_says_so():
    with pytest.raises(IncompatibleError):
        graft(tiny("eegnet"), "houlsby")
