"""The spectral adapter against its equation, what it leaves alone, and which encoders it refuses."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F

from medgraft.adapters.channel_mixing import ChannelMixing
from medgraft.adapters.spectral import Spectral, SpectralBottleneck
from medgraft.encoders.braindecode import BraindecodeSource
from medgraft.errors import IncompatibleError
from medgraft.grafting import Grafted, graft
from medgraft.testing.tiny_signal import CHANNELS, SIGNAL_ENCODERS, STEPS

SIX = ("Fp1", "Fp2", "C3", "C4", "O1", "O2")
TINY_EEG: dict[str, dict[str, Any]] = {
    "labram": {"num_layers": 2, "seconds": 2, "channels": SIX},
    "cbramod": {"n_layer": 2, "dim_feedforward": 64, "seconds": 2, "channels": SIX},
    "biot": {"num_layers": 2, "embed_dim": 32, "num_heads": 2, "seconds": 2},
    "reve": {"depth": 2, "embed_dim": 32, "heads": 2, "head_dim": 8, "seconds": 4, "channels": SIX},
    "eegpt": {"depth": 2, "embed_dim": 32, "num_heads": 2, "seconds": 1, "channels": SIX},
    "bendr": {"seconds": 3, "encoder_h": 32, "contextualizer_hidden": 64, "transformer_layers": 1},
    "luna": {"depth": 2, "embed_dim": 16, "seconds": 5, "channels": SIX},
    "eegnet": {"seconds": 2, "channels": SIX},
}
pytestmark = [pytest.mark.usefixtures("seeded"), pytest.mark.filterwarnings("ignore")]
EXACT: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}


@functools.cache
def small(name: str, **options: Any) -> Any:
    return BraindecodeSource.build(name, "random", **{**TINY_EEG[name], **options})


def mixing(**options: Any) -> ChannelMixing:
    return ChannelMixing(ChannelMixing.Config(**options))


def drawn(gains: Any, steps: int = 6, width: int = 4) -> SpectralBottleneck:
    module = SpectralBottleneck(5, width, steps, gains, 2, torch.zeros(1, dtype=torch.float64))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("steps", [5, 6])
@pytest.mark.parametrize("gains", ["complex", "bands"])
def test_a_filter_is_that_of_the_equation(gains, steps):
    module, x = drawn(gains, steps), torch.randn(2, 5, 3, steps, dtype=torch.float64)
    inside = torch.einsum("bcet,rc->bret", x, module.down.weight) + module.down.bias[:, None, None]
    spectrum = torch.fft.rfft(inside, dim=-1)
    if gains == "complex":
        gain = torch.view_as_complex(module.gain)
    else:  # of three or four frequencies the first two are the first band
        gain = torch.stack([module.gain[:, k * 2 // (steps // 2 + 1)] for k in range(steps // 2 + 1)], dim=1)
    filtered = F.gelu(torch.fft.irfft(spectrum * gain[:, None], n=steps, dim=-1))
    expected = torch.einsum("bret,cr->bcet", filtered, module.up.weight) + module.up.bias[:, None, None]
    torch.testing.assert_close(module(x), expected, **EXACT)


def test_it_is_a_circular_convolution_along_time_the_same_for_every_channel():
    module, x = drawn("complex"), torch.randn(2, 5, 3, 6, dtype=torch.float64)
    torch.testing.assert_close(module(x.roll(2, dims=-1)), module(x).roll(2, dims=-1), **EXACT)
    torch.testing.assert_close(module(x[:, :, [2, 0, 1]]), module(x)[:, :, [2, 0, 1]], **EXACT)
    changed = x.clone()
    changed[:, :, 1] += 1
    moved = (module(changed) - module(x)).abs().amax(dim=(0, 1, 3))
    assert moved[1] > 1e-3 and not moved[[0, 2]].any()


@pytest.mark.parametrize(
    ("options", "each"),
    [
        ({"width": 4}, 2 * 32 * 4 + 4 + 32 + 2 * 4 * (STEPS // 2 + 1)),
        ({"width": 4, "gains": "bands", "bands": 2}, 2 * 32 * 4 + 4 + 32 + 4 * 2),
        ({"width": 4, "gains": "bands", "bands": 99}, 2 * 32 * 4 + 4 + 32 + 4 * (STEPS // 2 + 1)),
    ],
)
def test_the_number_of_parameters_is_that_of_the_formula(options, each):
    grafted = graft(SIGNAL_ENCODERS["packed-signal"](), Spectral(Spectral.Config(**options)))
    assert sum(grafted.trainable_count().values()) == 2 * each


@pytest.mark.parametrize("adapter", [Spectral, ChannelMixing])
@pytest.mark.parametrize("name", ["labram", "cbramod", "biot", "reve"])
def test_it_starts_as_nothing_learns_on_networks_of_eeg_and_comes_off(name, adapter):
    encoder = small(name)
    x = torch.randn(2, encoder.spec.channels, *encoder.spec.input_size)
    with torch.no_grad():
        before = encoder(x)
    grafted = graft(encoder, adapter()).train()
    features = grafted.encode({"signal": x})["signal"]
    torch.testing.assert_close(features.tokens, before.tokens, rtol=0, atol=0)
    # Not the sum: of tokens behind a layer norm it has no gradient.
    (features.tokens * torch.linspace(-1, 2, features.tokens.shape[-1])).sum().backward()
    assert all(p.grad is not None for p in grafted.trainable_parameters())
    written = [p for n, p in grafted.named_parameters() if n.endswith((".up.weight", ".write"))]
    assert written and all(bool(p.grad is not None and p.grad.any()) for p in written)
    grafted.ungraft()
    with torch.no_grad():
        assert torch.equal(encoder(x).tokens, before.tokens)


@pytest.mark.parametrize("adapter", [Spectral, ChannelMixing])
@pytest.mark.parametrize("name", ["eegpt", "luna", "bendr", "eegnet", "labram:drop", "image"])
def test_tokens_without_a_grid_of_channels_and_time_are_refused(name, adapter):
    model, _, missing = name.partition(":")
    encoder = tiny.fresh("timm") if name == "image" else small(model, **({"missing": missing} if missing else {}))
    answer = adapter().supports(encoder)
    assert not answer and "grid of channels and time" in answer.reason and "\n" not in answer.reason
    with pytest.raises(IncompatibleError, match="grid of channels and time"):
        Grafted(encoder, {"it": adapter()})


def test_a_window_of_one_token_has_no_frequencies():
    with pytest.raises(IncompatibleError, match="take a longer window"):
        graft(small("cbramod", seconds=1), Spectral())


def test_mixing_needs_channels_enough_and_groups_that_divide():
    with pytest.raises(IncompatibleError, match=f"rank 4 exceeds the {CHANNELS} channels"):
        graft(SIGNAL_ENCODERS["packed-signal"](), mixing(rank=4))
    with pytest.raises(IncompatibleError, match="3 groups do not divide the width 32"):
        graft(SIGNAL_ENCODERS["packed-signal"](), mixing(groups=3))
