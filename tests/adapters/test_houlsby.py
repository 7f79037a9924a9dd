"""Houlsby adapters against their formula, their number of parameters, and where they sit."""

from __future__ import annotations

import plain_blocks as plain
import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.adapters.houlsby import Houlsby
from medgraft.errors import IncompatibleError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("rank", [2, 3])
def test_a_block_is_that_of_the_paper(rank):
    tower = plain.PlainTower(rank)
    adapter = Houlsby(Houlsby.Config(width=5))
    x = tower.images()
    grafted = plain.grafted_on(tower, adapter)
    got = grafted(x).tokens
    numbers = {key: value.detach() for key, value in adapter.state_dict().items()}

    def serial(h, name):
        inside = h @ numbers[f"{name}.down.weight"].T + numbers[f"{name}.down.bias"]
        return h + F.gelu(inside) @ numbers[f"{name}.up.weight"].T + numbers[f"{name}.up.bias"]

    def norm(y, i, which):
        weight, bias = (numbers[f"norm.blocks/{i}/{which}/{part}"] for part in ("weight", "bias"))
        return F.layer_norm(y, y.shape[-1:], weight, bias)

    def block(i, module, y):
        y = y + serial(module.attn(norm(y, i, "norm1")), f"bottleneck.blocks/{i}/attn")
        return y + serial(module.mlp(norm(y, i, "norm2")), f"bottleneck.blocks/{i}/mlp")

    grafted.ungraft()
    torch.testing.assert_close(got, plain.by_hand(tower, x, block), **plain.EXACT)


@settings(max_examples=8, deadline=None)
@given(width=st.integers(1, 40), norms=st.booleans())
def test_the_number_of_parameters_is_that_of_the_paper(width, norms):
    tower = plain.PlainTower()
    d, blocks = tower.spec.dim, len(tower.blocks)
    grafted = Grafted(tower, {"it": Houlsby(Houlsby.Config(width=width, norms=norms))})
    assert grafted.trainable_count()["it"] == blocks * (2 * (2 * width * d + d + width) + norms * 2 * 2 * d)
    grafted.ungraft()


def test_the_start_is_near_the_identity_and_a_deviation_of_zero_is_it():
    encoder = tiny.fresh("timm")
    x = tiny.batch(encoder)["image"]
    with torch.no_grad():
        before = encoder(x).pooled
        near = graft(encoder, "houlsby").eval()
        change = (near(x).pooled - before).norm() / before.norm()
        drawn = torch.cat([p.flatten() for n, p in near.adapters.named_parameters() if n.endswith("down.weight")])
        near.ungraft()
        exact = graft(encoder, "houlsby", std=0.0).eval()
        assert torch.equal(exact(x).pooled, before)
        assert exact.adapters["houlsby"].identity_at_init
    assert 0 < change < 0.05
    # A normal cut at two deviations has 0.88 of the deviation.
    assert drawn.abs().max() <= 0.02 and abs(drawn.std() - 0.0088) < 5e-4


@pytest.mark.parametrize("name", ["chest", "timm", "hf_vit", "hf_clip", "mha", "brain"])
def test_every_block_of_every_library_has_both_branches(name):
    encoder = tiny.fresh(name)
    hits = graft(encoder, "houlsby").coverage()["houlsby"]
    blocks = sum(len(tower.attention) for tower in encoder.towers().values())
    assert {pattern: len(found) for pattern, found in hits.items()} == {
        "*.attn": blocks,
        "*.mlp": blocks,
        "norms": 2 * blocks,
    }


def test_in_the_last_block_only_that_block_changes_and_the_cache_stops_before_it():
    tower = plain.PlainTower()
    x = tower.images()
    inside, before = [tower.prefix(x, stage) for stage in (1, 2)], tower(x).tokens
    grafted = plain.grafted_on(tower, Houlsby(Houlsby.Config(depth="half_up")))
    assert grafted.first_stage() == {"image": 2}
    assert {site.split(".")[1] for found in grafted.coverage()["it"].values() for site in found} == {"1"}
    assert all(torch.equal(tower.prefix(x, stage), wanted) for stage, wanted in zip((1, 2), inside, strict=True))
    assert not torch.allclose(grafted(x).tokens, before, atol=1e-3)
    assert torch.equal(grafted(inside[1], start=2).tokens, grafted(x).tokens)


def test_an_encoder_without_blocks_is_refused_in_words():
    with pytest.raises(IncompatibleError, match="attention or MLP of a transformer block, and this encoder has none"):
        graft(tiny.fresh("timm_cnn"), "houlsby")


def test_a_pattern_that_hits_no_branch_is_an_error():
    with pytest.raises(IncompatibleError, match=r"'q' matches blocks.0.attn.q and the like, but no attention or MLP"):
        graft(tiny.fresh("timm"), "houlsby", targets=("*.mlp", "q"))
