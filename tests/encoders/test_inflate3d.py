"""2D ViTs on volumes: what one slice, equal slices and permuted slices must give, windows, padding, and adapters."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from medgraft.checkpoints.weights import state_digest
from medgraft.encoder import DualEncoder, Encoder
from medgraft.encoders.inflate3d import Inflate3dSource, InflatedEncoder, inflate
from medgraft.encoders.parts.slice_attention import attend_across, rotate
from medgraft.encoders.slices import pad_slices
from medgraft.encoders.timm import TimmSource
from medgraft.errors import ConfigError, DataError, IncompatibleError
from medgraft.grafting import graft
from medgraft.plugins import discover
from medgraft.registry import build_adapter, build_encoder

# One per layout of attention and library: packed, split, nn.MultiheadAttention, and a block without attention module.
PLANES = ["timm", "hf_vit", "hf_clip", "mha", "chest"]
every_plane = pytest.mark.parametrize("name", PLANES)
# float64: a few hundred roundings of 1e-16.
EXACT = {"rtol": 1e-10, "atol": 1e-10}


@functools.cache
def plane(name: str) -> Encoder:
    return tiny.fresh(name).double()


def volume(name: str, **options) -> InflatedEncoder:
    tower = inflate(plane(name), **options).towers()["volume"]
    assert isinstance(tower, InflatedEncoder)
    return tower


def slices_for(name: str, count: int, batch: int = 2, seed: int = 0) -> Tensor:
    spec = plane(name).towers()["image"].spec
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, spec.channels, count, *spec.input_size, generator=generator, dtype=torch.float64)


def flat(name: str, x: Tensor) -> list:
    """The 2D model on each slice."""
    tower = plane(name).towers()["image"]
    with torch.no_grad():
        return [tower(x[:, :, s]) for s in range(x.shape[2])]


def by_slice(features, count: int) -> Tensor:
    """Tokens ``[B, S, N, C]`` in the order of the 2D model."""
    n_prefix = features.n_prefix // count
    prefix, places = features.tokens[:, : features.n_prefix], features.tokens[:, features.n_prefix :]
    parts = [part.unflatten(1, (count, -1)) for part in (prefix, places) if part.shape[1]]
    assert n_prefix * count == features.n_prefix
    return torch.cat(parts, dim=2)


# -- the four properties ----------------------------------------------------------------------------------------------


@every_plane
def test_one_slice_is_the_2d_model_to_the_bit(name):
    x = slices_for(name, 1)
    with torch.no_grad():
        found, (wanted,) = volume(name, slices=1)(x), flat(name, x)
    assert torch.equal(found.tokens, wanted.tokens) and torch.equal(found.pooled, wanted.pooled)


@every_plane
def test_equal_slices_without_rotation_give_the_2d_model_in_each(name):
    x = slices_for(name, 1).expand(-1, -1, 3, -1, -1)
    with torch.no_grad():
        found, wanted = volume(name, slices=3, depth_2d=0, rotary=False)(x), flat(name, x)[0]
    for s in range(3):
        torch.testing.assert_close(by_slice(found, 3)[:, s], wanted.tokens, **EXACT)
    torch.testing.assert_close(found.pooled, wanted.pooled, **EXACT)


@every_plane
def test_without_a_3d_block_permuted_slices_give_permuted_tokens(name):
    x, order = slices_for(name, 4), [2, 0, 3, 1]
    tower = volume(name, slices=4, depth_2d=len(plane(name).towers()["image"].attention))
    with torch.no_grad():
        found, permuted = by_slice(tower(x), 4), by_slice(tower(x[:, :, order]), 4)
    torch.testing.assert_close(permuted, found[:, order], **EXACT)


@every_plane
def test_with_rotation_and_a_3d_block_the_order_of_slices_matters(name):
    x, order = slices_for(name, 4), [2, 0, 3, 1]
    tower = volume(name, slices=4, depth_2d=1)
    with torch.no_grad():
        found, permuted = by_slice(tower(x), 4), by_slice(tower(x[:, :, order]), 4)
    assert (permuted - found[:, order]).abs().max() > 1e-6


# -- what it computes -------------------------------------------------------------------------------------------------


def turned(x: Tensor, s: int) -> Tensor:
    """The rotation written out pair by pair."""
    out, d = x.clone(), x.shape[-1]
    for i in range(d // 2):
        angle = s * 10000.0 ** (-2 * i / d)
        a, b = x[..., 2 * i], x[..., 2 * i + 1]
        out[..., 2 * i] = a * math.cos(angle) - b * math.sin(angle)
        out[..., 2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    return out


def test_the_rotation_is_that_of_the_definition():
    x = torch.randn(2, 3, 4, 5, 8, dtype=torch.float64)
    found = rotate(x, torch.arange(4))
    for s in range(4):
        torch.testing.assert_close(found[:, :, s], turned(x[:, :, s], s), **EXACT)
    assert torch.equal(found[:, :, 0], x[:, :, 0])


@settings(deadline=None, max_examples=25)
@given(shift=st.integers(0, 30), a=st.integers(0, 30), b=st.integers(0, 30))
def test_products_depend_on_the_distance_of_slices_alone(shift, a, b):
    q, k = torch.randn(2, 1, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    near = (rotate(q[None], torch.tensor([a])) * rotate(k[None], torch.tensor([b]))).sum()
    far = (rotate(q[None], torch.tensor([a + shift])) * rotate(k[None], torch.tensor([b + shift]))).sum()
    torch.testing.assert_close(near, far, rtol=1e-9, atol=1e-9)


def block_by_hand(tower: InflatedEncoder, x: Tensor, window: int | None) -> Tensor:
    """The last block of the tiny timm ViT on ``[S, N, C]``, attention token by token over the slices it may see."""
    block = tower.plane.model.blocks[-1]
    S, N, C = x.shape
    heads, h = block.attn.num_heads, block.norm1(x)
    q, k, v = block.attn.qkv(h).view(S, N, 3, heads, C // heads).permute(2, 3, 0, 1, 4)
    q = torch.stack([turned(q[:, s], s) for s in range(S)], dim=1)
    k = torch.stack([turned(k[:, s], s) for s in range(S)], dim=1)
    rows = torch.empty(heads, S, N, C // heads, dtype=x.dtype)
    for s in range(S):
        seen = [t for t in range(S) if window is None or abs(t - s) <= window // 2]
        keys, values = k[:, seen].flatten(1, 2), v[:, seen].flatten(1, 2)
        rows[:, s] = torch.softmax(q[:, s] @ keys.transpose(1, 2) * (C // heads) ** -0.5, dim=-1) @ values
    x = x + block.attn.proj(rows.permute(1, 2, 0, 3).flatten(2))
    return tower.plane.model.norm(x + block.mlp(block.norm2(x)))


@pytest.mark.parametrize("window", [None, 1, 3, 5])
def test_a_3d_block_is_the_definition_written_out(window):
    tower, x = volume("timm", slices=4, depth_2d=1, window=window), slices_for("timm", 4, batch=1)
    with torch.no_grad():
        hidden = tower.prefix(x, 2)
        wanted = block_by_hand(tower, hidden[0], window)
        torch.testing.assert_close(by_slice(tower(x), 4)[0], wanted, **EXACT)


@settings(deadline=None, max_examples=30)
@given(
    count=st.integers(1, 7), window=st.sampled_from([1, 3, 5, 9, 15]), padded=st.integers(0, 3), seed=st.integers(0, 99)
)
def test_a_window_is_full_attention_under_a_band(count, window, padded, seed):
    torch.manual_seed(seed)
    q, k, v = torch.randn(3, 2, 2, count, 3, 4, dtype=torch.float64)
    real = torch.arange(count).expand(2, -1) < max(1, count - padded)
    places = torch.arange(count)
    band = (places[:, None] - places).abs() <= window // 2
    seen = (band & real[:, None]).repeat_interleave(3, dim=1).repeat_interleave(3, dim=2)[:, None]
    wanted = F.scaled_dot_product_attention(q.flatten(2, 3), k.flatten(2, 3), v.flatten(2, 3), attn_mask=seen)
    found = attend_across(q, k, v, real, window)
    for b, s in (real & True).nonzero().tolist():
        torch.testing.assert_close(found[b, :, s], wanted.unflatten(2, (count, 3))[b, :, s], **EXACT)


@every_plane
def test_every_parameter_is_the_2d_models_and_it_still_reads_images(name):
    fresh = tiny.fresh(name)
    image, x = fresh.towers()["image"], slices_for(name, 1)[:, :, 0].float()
    before, digest = image(x).tokens, state_digest(image)
    tower = inflate(fresh, slices=2).towers()["volume"]
    assert {id(p) for p in tower.parameters()} == {id(p) for p in image.parameters()}
    tower(slices_for(name, 2).float())
    assert torch.equal(image(x).tokens, before) and state_digest(image) == digest


def test_scores_are_the_mean_attention_of_the_slices_cls_tokens():
    tower, x = volume("timm", slices=3, depth_2d=1), slices_for("timm", 3, batch=1)
    with torch.no_grad():
        features = tower(x, scores=True)
        block, hidden = tower.plane.model.blocks[-1], tower.prefix(x, 2)[0]
        q, k, _ = block.attn.qkv(block.norm1(hidden)).view(3, 17, 3, 3, 16).permute(2, 3, 0, 1, 4)
        q = torch.stack([turned(q[:, s], s) for s in range(3)], dim=1)[:, :, 0]
        k = torch.stack([turned(k[:, s], s) for s in range(3)], dim=1)
        rows = torch.einsum("hsd,htnd->hstn", q / 4, k)
    wanted = torch.softmax(rows.flatten(2), dim=-1).view(3, 3, 3, 17).mean(dim=1)[..., 1:].flatten(1)
    assert features.cls_probs is not None and features.cls_scores is not None
    torch.testing.assert_close(features.cls_probs[0], wanted, **EXACT)
    torch.testing.assert_close(features.cls_scores[0], rows.mean(dim=1)[..., 1:].flatten(1), **EXACT)


# -- padding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"depth_2d": 0}, {"depth_2d": 1}, {"depth_2d": 0, "window": 3}])
@every_plane
def test_padding_changes_nothing(name, options):
    x = slices_for(name, 3)
    short, long = volume(name, slices=3, **options), volume(name, slices=6, **options)
    padded = torch.stack([pad_slices(each, 6) for each in x])
    with torch.no_grad():
        wanted, found = short(x), long(padded)
    assert found.mask is not None and found.mask.sum() == wanted.tokens.shape[:2].numel()
    torch.testing.assert_close(found.pooled, wanted.pooled, **EXACT)
    torch.testing.assert_close(by_slice(found, 6)[:, :3], by_slice(wanted, 3), **EXACT)
    assert found.tokens[~found.mask].eq(0).all()


def test_volumes_of_different_depth_share_a_batch():
    x, tower = slices_for("timm", 5), volume("timm", slices=5)
    batch = torch.stack([x[0], pad_slices(x[1, :, :2], 5)])
    with torch.no_grad():
        together = tower(batch, scores=True)
        long, short = volume("timm", slices=5)(x[:1]), volume("timm", slices=2)(x[1:, :, :2], scores=True)
        hidden = tower.prefix(batch, 2)
        resumed = tower(hidden, start=2)
    torch.testing.assert_close(together.pooled, torch.cat([long.pooled, short.pooled]), **EXACT)
    assert torch.equal(resumed.tokens, together.tokens) and hidden[1, 2:].isnan().all()
    assert together.cls_probs is not None and short.cls_probs is not None
    torch.testing.assert_close(
        together.cls_probs[1].unflatten(1, (5, 16))[:, :2].flatten(1), short.cls_probs[0], **EXACT
    )
    assert together.cls_probs[1].unflatten(1, (5, 16))[:, 2:].eq(0).all()


def test_a_volume_of_padding_alone_is_refused():
    x = slices_for("timm", 2)
    x[1] = float("nan")
    with pytest.raises(ConfigError, match="no slice at all"):
        volume("timm", slices=2)(x)


# -- bad input --------------------------------------------------------------------------------------------------------


def test_more_or_fewer_slices_than_it_takes_are_refused():
    tower = volume("timm", slices=4)
    for count in (3, 5):
        with pytest.raises(ConfigError, match="pad_slices"):
            tower(slices_for("timm", count))


def test_what_cannot_be_inflated_is_refused_with_a_reason():
    with pytest.raises(IncompatibleError, match="needs a ViT"):
        inflate(tiny.shared("timm_cnn"))
    with pytest.raises(IncompatibleError, match="needs images"):
        inflate(tiny.shared("brain"))
    with pytest.raises(ConfigError, match="depth_2d is 9"):
        inflate(plane("timm"), depth_2d=9)
    with pytest.raises(ConfigError, match=r"window: .*odd"):
        inflate(plane("timm"), window=4)
    with pytest.raises(ConfigError, match="slices"):
        inflate(plane("timm"), slices=0)
    with pytest.raises(ConfigError, match="no such option"):
        inflate(plane("timm"), depth=3)


def test_an_attention_with_more_than_products_is_refused():
    normed = TimmSource.build("vit_tiny_patch16_224", "random", depth=2, img_size=64, scale_attn_norm=True)
    with torch.no_grad():
        for block in normed.model.blocks:
            block.attn.norm.weight.mul_(torch.linspace(0.1, 3, len(block.attn.norm.weight)))
    with pytest.raises(IncompatibleError, match="a norm behind it"):
        inflate(normed)


# -- the source -------------------------------------------------------------------------------------------------------


def test_the_source_reads_options_from_the_name():
    built = build_encoder("inflate3d:slices=2,depth_2d=3,rotary=false:embedded:chest@random")
    assert isinstance(built, DualEncoder) and built.spec.modality == "volume+text" and built.logit_scale
    tower = built.towers()["volume"]
    assert isinstance(tower, InflatedEncoder) and tower.depth_2d == 3 and not tower.options.rotary
    assert tower.spec.input_size == (2, 128, 128)
    x = tower.prepare(np.random.default_rng(0).random((20, 24, 16), np.float32))
    assert x.shape == (1, 2, 128, 128) and x.isfinite().all()
    with pytest.raises(DataError, match="at least one slice"):
        tower.prepare(np.zeros((4, 4, 0), np.float32))
    for name, problem in (("slices=", "no option"), ("slices=2", "names no 2D encoder")):
        with pytest.raises(ConfigError, match=problem):
            Inflate3dSource.build(name)


# -- an inflated encoder is an encoder --------------------------------------------------------------------------------

# What reads text, a CNN's input or a 2D image, or makes no sense without one of them.
APART = {"gated_xattn", "zero_shot", "scratch_cnn", "peft"}
ADAPTERS = sorted(name for name, plugin in discover("adapter").items() if plugin.builtin and name not in APART)


@pytest.mark.parametrize("name", ["timm", "mha"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_every_adapter_that_fits_the_2d_model_fits_the_inflated_one(adapter, name):
    if not build_adapter(adapter).supports(tiny.shared(name)):
        pytest.skip("it does not fit the 2D model either")
    tower = inflate(tiny.fresh(name), slices=2, depth_2d=1)
    x = slices_for(name, 2).float()
    before = tower(x)
    torch.manual_seed(0)
    grafted = graft(tower, adapter).train()
    outputs = grafted.encode({"volume": x})
    trained = grafted.trainable_parameters()
    if trained:
        (outputs["volume"].pooled * torch.linspace(-1, 2, outputs["volume"].pooled.shape[1])).sum().backward()
    assert not trained or any(p.grad is not None and bool(p.grad.any()) for p in trained)
    grafted.ungraft()
    assert torch.equal(tower(x).tokens, before.tokens)
