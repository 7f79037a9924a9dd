"""Volumes of different depth in one batch: no adapter lets the padding of a short one change what it computes."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import tiny_encoders as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medgraft.adapters.parts.real_slices import by_depth, on_real_slices
from medgraft.adapters.spatial_pooling import SpatialPooling
from medgraft.encoder import Encoder
from medgraft.encoders.inflate3d import inflate
from medgraft.encoders.slices import pad_slices
from medgraft.errors import IncompatibleError
from medgraft.features import Features
from medgraft.grafting import Grafted, graft
from medgraft.plugins import discover
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")
# float64: a few hundred roundings of 1e-16.
EXACT = {"rtol": 1e-9, "atol": 1e-9}
BUILTIN = sorted(name for name, plugin in discover("adapter").items() if plugin.builtin)
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in BUILTIN),
    ("peft:lora", {}),
    ("brain_adapter", {"where": "blocks"}),
    ("linear_probe", {"pooling": "mean"}),
    ("linear_probe", {"pooling": "cls+mean"}),
    ("perceiver_resampler", {"max_frames": 6}),
    ("spatial_pooling", {"pooling": "sequence"}),
    ("spatial_pooling", {"size": 3}),
    ("tgh_moe", {"expert": "ffn_copy", "collapse_below": 0}),
]


@functools.cache
def plane_of(name: str) -> Encoder:
    return tiny.fresh(name).double()


def inflated(name: str, slices: int) -> Encoder:
    return inflate(copy.deepcopy(plane_of(name)), slices=slices, depth_2d=1)


def with_weights_of(other: Grafted | None, grafted: Grafted) -> Grafted:
    """A graft with trained-looking weights: random ones, or those of a graft on an encoder of other depth."""
    theirs = {} if other is None else dict(other.named_parameters())
    with torch.no_grad():
        for name, p in grafted.named_parameters():
            if name in theirs and theirs[name].shape == p.shape:
                p.copy_(theirs[name])
            elif p.requires_grad:
                assert other is None, f"{name} depends on the number of slices"
                p.add_(0.3 * torch.randn_like(p))
    return grafted.double().eval()


def features(grafted: Grafted, volumes: Tensor, words: Tensor | None) -> dict[str, Features]:
    with torch.no_grad():
        return grafted.encode({"volume": volumes} | ({} if words is None else {"text": words}))


@pytest.mark.parametrize("plane", ["timm", "hf_clip"])
@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda value: str(value))
def test_no_adapter_sees_the_padding(name, options, plane):
    encoder = inflated(plane, 3)
    if not (fits := build_adapter(name, options).supports(encoder)):
        pytest.skip(fits.reason)
    short = with_weights_of(None, graft(encoder, build_adapter(name, options)))
    long = with_weights_of(short, graft(inflated(plane, 6), build_adapter(name, options)))
    spec = encoder.towers()["volume"].spec
    x = torch.randn(2, spec.channels, *spec.input_size, dtype=torch.float64)
    words = tiny.batch(plane_of(plane)).get("text")
    wanted = features(short, x, words)
    found = features(long, torch.stack([pad_slices(each, 6) for each in x]), words)
    other = torch.randn(1, spec.channels, 6, *spec.input_size[1:], dtype=torch.float64)
    mixed = features(long, torch.cat([pad_slices(x[0], 6)[None], other]), words)
    for tower, features_of in wanted.items():
        torch.testing.assert_close(found[tower].pooled, features_of.pooled, **EXACT)
        torch.testing.assert_close(mixed[tower].pooled[0], features_of.pooled[0], **EXACT)


def test_a_bottleneck_that_computes_blocks_again_is_refused_where_they_see_other_slices():
    with pytest.raises(IncompatibleError, match="leave recompute out"):
        graft(inflated("timm", 3), build_adapter("brain_adapter", {"recompute": True}))


def test_pooled_tokens_say_which_are_real():
    pooling = SpatialPooling(4, 5).double()
    tokens, depth = torch.randn(3, 6 * 4, 4, dtype=torch.float64), torch.tensor([6, 1, 5])
    mask = (torch.arange(6) < depth[:, None]).repeat_interleave(4, dim=1)
    with torch.no_grad():
        found, grid, real = pooling.of_real(tokens, (6, 2, 2), mask)
        for b, count in enumerate(depth.tolist()):
            wanted, own = pooling(tokens[b : b + 1, : count * 4], (count, 2, 2))
            assert real[b].tolist() == [True] * own[0] + [False] * (3 - own[0])
            torch.testing.assert_close(found[b, real[b]], wanted[0], **EXACT)
    assert grid == (3, 1, 1) and found[~real].eq(0).all()


@settings(deadline=None, max_examples=40)
@given(real=st.lists(st.lists(st.booleans(), min_size=4, max_size=4).filter(any), min_size=1, max_size=5))
def test_real_slices_are_grouped_and_put_back_where_they_were(real):
    flags = torch.tensor(real)
    groups = list(by_depth(flags))
    assert sorted(int(b) for samples, _ in groups for b in samples) == list(range(len(real)))
    for samples, slices in groups:
        for b, own in zip(samples.tolist(), slices.tolist(), strict=True):
            assert own == [s for s in range(4) if real[b][s]]
    maps = torch.randn(len(real), 2, 4, 3, 3)
    seen: list[int] = []

    def doubled(own: Tensor) -> Tensor:
        seen.append(own.shape[0] * own.shape[2])
        return 2 * own

    found = on_real_slices(doubled, maps, flags, padding=-1.0)
    assert sum(seen) == int(flags.sum())
    at = flags[:, None, :, None, None].expand_as(maps)
    assert torch.equal(found[at], 2 * maps[at]) and found[~at].eq(-1).all()
