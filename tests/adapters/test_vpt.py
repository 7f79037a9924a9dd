"""VPT against its equations in both modes, and what prompts must not touch."""

from __future__ import annotations

import math

import plain_blocks as plain
import pytest
import tiny_encoders as tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.adapters.vpt import Vpt
from medgraft.errors import IncompatibleError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


def test_deep_prompts_enter_every_block_and_are_dropped_behind_it():
    tower = plain.PlainTower(3)
    adapter = Vpt(Vpt.Config(prompts=3))
    x = tower.images()
    grafted = plain.grafted_on(tower, adapter)
    got = grafted(x).tokens
    grafted.ungraft()

    def block(i, module, y):
        prompts = adapter.prompt[f"blocks/{i}"].expand(len(y), -1, -1)
        y = module(torch.cat([y[:, :1], prompts, y[:, 1:]], dim=1))
        return torch.cat([y[:, :1], y[:, 4:]], dim=1)

    torch.testing.assert_close(got, plain.by_hand(tower, x, block), **plain.EXACT)


def test_shallow_prompts_go_through_all_blocks():
    tower = plain.PlainTower()
    adapter = Vpt(Vpt.Config(prompts=3, mode="shallow"))
    x = tower.images()
    grafted = plain.grafted_on(tower, adapter)
    assert [*adapter.prompt] == ["blocks/0"]
    got = grafted(x).tokens
    grafted.ungraft()
    y = tower.prefix(x, 1)
    y = torch.cat([y[:, :1], adapter.prompt["blocks/0"].expand(len(y), -1, -1), y[:, 1:]], dim=1)
    for module in tower.blocks:
        y = module(y)
    torch.testing.assert_close(got, tower.norm(torch.cat([y[:, :1], y[:, 4:]], dim=1)), **plain.EXACT)


@settings(max_examples=8, deadline=None)
@given(prompts=st.integers(1, 20), deep=st.booleans())
def test_the_number_of_parameters_is_that_of_the_paper(prompts, deep):
    mode = "deep" if deep else "shallow"
    grafted = Grafted(plain.PlainTower(), {"it": Vpt(Vpt.Config(prompts=prompts, mode=mode))})
    assert grafted.trainable_count()["it"] == prompts * 12 * (2 if deep else 1)
    grafted.ungraft()


def test_a_fresh_graft_is_not_the_encoder_and_starts_within_the_bound():
    encoder = tiny.fresh("timm")
    x = tiny.batch(encoder)["image"]
    before = encoder(x).pooled
    grafted = graft(encoder, "vpt").eval()
    assert not torch.allclose(grafted(x).pooled, before)
    drawn = torch.cat([p.detach().flatten() for p in grafted.adapters.parameters()])
    bound = math.sqrt(3 / 48)
    assert drawn.abs().max() <= bound and abs(drawn.std() - bound / math.sqrt(3)) < 0.02


@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_tokens_grid_and_scores_are_those_of_the_patches(mode):
    encoder = tiny.fresh("timm")
    x = tiny.batch(encoder)["image"]
    before = encoder(x, scores=True)
    after = graft(encoder, "vpt", mode=mode).eval()(x, scores=True)
    for part in ("tokens", "pooled", "cls_scores", "cls_probs"):
        assert getattr(after, part).shape == getattr(before, part).shape
    assert (after.n_prefix, after.grid) == (before.n_prefix, before.grid)
    assert (after.cls_probs.sum(dim=-1) < 1).all()


def test_the_scores_are_those_of_a_run_with_prompts():
    tower = plain.PlainTower(depth=1)
    adapter = Vpt(Vpt.Config(prompts=2))
    x = tower.images()
    grafted = plain.grafted_on(tower, adapter)
    got = grafted(x, scores=True)
    y = tower.prefix(x, 1)
    module = tower.blocks[0]
    y = torch.cat([y[:, :1], adapter.prompt["blocks/0"].expand(len(y), -1, -1), y[:, 1:]], dim=1)
    B, N, C = y.shape
    q, k, _ = module.qkv(module.norm1(y)).view(B, N, 3, 2, C // 2).permute(2, 0, 3, 1, 4)
    scores = (q[:, :, :1] @ k.transpose(-1, -2)).squeeze(2) * (C // 2) ** -0.5
    torch.testing.assert_close(got.cls_scores, scores[..., 3:], **plain.EXACT)
    torch.testing.assert_close(got.cls_probs, scores.softmax(dim=-1)[..., 3:], **plain.EXACT)


@pytest.mark.parametrize("mode", ["deep", "shallow"])
def test_the_last_blocks_alone_leave_the_cache_before_them(mode):
    tower = plain.PlainTower(depth=4)
    x = tower.images()
    hidden = tower.prefix(x, 3)
    grafted = plain.grafted_on(tower, Vpt(Vpt.Config(mode=mode, depth="half_up")))
    assert grafted.first_stage() == {"image": 3}
    assert torch.equal(tower.prefix(x, 3), hidden)
    assert torch.equal(grafted(hidden, start=3).tokens, grafted(x).tokens)


def test_a_text_tower_stays_as_it_is():
    encoder = tiny.fresh("chest")
    hits = graft(encoder, "vpt").coverage()["vpt"]
    assert [site for found in hits.values() for site in found] == [f"image.blocks.{i}" for i in range(4)]


@pytest.mark.parametrize("name", ["timm_cnn", "text"])
def test_what_has_no_blocks_of_an_image_is_refused(name):
    encoder = tiny.fresh("chest").towers()["text"] if name == "text" else tiny.fresh(name)
    with pytest.raises(IncompatibleError, match="each transformer block of an image or volume tower"):
        graft(encoder, "vpt")


def test_rotary_positions_are_refused():
    tower = plain.PlainTower()
    tower.rotary = True
    with pytest.raises(IncompatibleError, match="turns tokens by their place"):
        graft(tower, "vpt")
