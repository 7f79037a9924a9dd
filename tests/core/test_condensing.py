"""What adapters make of frozen features before their first parameter: computed once, it changes nothing."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch

from medgraft.features import Features
from medgraft.grafting import Grafted, graft
from medgraft.plugins import discover
from medgraft.registry import build_adapters


def rows(grafted: Grafted) -> dict[str, Features]:
    """Features of the bare towers, as a cache holds them."""
    inputs = tiny.batch(grafted.encoder)
    found = {}
    for name, tower in grafted.towers().items():
        x = inputs[name].double() if inputs[name].is_floating_point() else inputs[name]
        with torch.no_grad():
            found[name] = tower.forward(x, scores=bool(tower.attention) and tower.has_cls)
    return found


def double(adapter: str, encoder: str = "chest", **options: object) -> Grafted:
    torch.manual_seed(0)
    return graft(tiny.fresh(encoder).double(), adapter, **options).double()


@pytest.mark.parametrize("adapter", sorted(set(discover("adapter")) - {"qlora"}))  # four bits are no double
def test_what_is_condensed_gives_what_the_features_give(adapter):
    try:
        grafted = double(adapter)
    except Exception as error:
        if type(error).__name__ != "IncompatibleError":
            raise
        others = {"brain_adapter": "brain", "soft_prefix": "language", "xattn": "language", "blind": "language"}
        others |= dict.fromkeys(("spectral", "channel_mixing"), "signal")
        grafted = double(adapter, others.get(adapter, "pixels_2d"))
    condensers, whole = grafted.condensers(), rows(grafted)
    for name, condenser in condensers.items():
        small = condenser.apply(whole[name])
        assert small.condensed == condenser.key and small.tokens.numel() <= whole[name].tokens.numel()
        expected = grafted.towers()[name](whole[name])
        found = grafted.towers()[name](small)
        torch.testing.assert_close(found.pooled, expected.pooled, rtol=1e-12, atol=1e-12)
        if grafted.trainable_parameters():
            for a, b in zip(*(gradients(grafted, each) for each in (found, expected)), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def gradients(grafted: Grafted, features: Features) -> list[torch.Tensor]:
    parameters = grafted.trainable_parameters()
    found = torch.autograd.grad(features.pooled.sin().sum(), parameters, allow_unused=True)
    return [torch.zeros(()) if gradient is None else gradient for gradient in found]


@pytest.mark.parametrize(
    ("adapter", "options"),
    [("ace_hgnn", {}), ("linear_probe", {"pooling": "cls+mean"}), ("perceiver_resampler", {"modality": "both"})],
)
def test_these_adapters_condense_both_towers(adapter, options):
    assert set(double(adapter, **options).condensers()) == {"image", "text"}


@pytest.mark.parametrize(
    ("adapter", "options"),
    [
        ("ace_hgnn", {"return_tokens": True}),
        ("ace_hgnn", {"graph": "gat"}),
        ("ace_lora", {}),
        ("perceiver_resampler", {"max_frames": 2}),
        ("lora", {}),
    ],
)
def test_these_have_nothing_to_condense(adapter, options):
    assert double(adapter, **options).condensers() == {}


def test_the_key_tells_options_apart():
    keys = {double("ace_hgnn", top_k=k).condensers()["image"].key for k in (2, 3)}
    keys |= {double("linear_probe", pooling=p).condensers()["image"].key for p in ("encoder", "mean")}
    assert len(keys) == 4


def test_a_tower_whose_features_two_adapters_read_is_not_condensed():
    both = build_adapters("linear_probe+ace_hgnn", {})
    assert Grafted(tiny.fresh("chest"), both).condensers() == {}
