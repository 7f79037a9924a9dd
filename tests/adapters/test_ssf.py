"""SSF against its equations, merged and not, and which layers it reaches."""

from __future__ import annotations

import plain_blocks as plain
import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from torch import nn

from medgraft.adapters.ssf import Ssf
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("rank", [2, 3])
def test_every_operation_is_followed_by_a_scale_and_a_shift(rank):
    tower = plain.PlainTower(rank)
    adapter = Ssf()
    x = tower.images()
    grafted = plain.grafted_on(tower, adapter)
    got = grafted(x).tokens
    grafted.ungraft()
    numbers = adapter.state_dict()

    def ssf(y, name, axis=-1):
        gamma, beta = (numbers[f"scale_shift.{name}.{part}"] for part in ("gamma", "beta"))
        return (y.movedim(axis, -1) * gamma + beta).movedim(-1, axis)

    y = ssf(tower.patches(x), "patches", 1).flatten(2).transpose(1, 2)
    y = torch.cat([tower.cls.expand(len(x), -1, -1), y], dim=1)
    for i, module in enumerate(tower.blocks):
        b = f"blocks/{i}"
        mixed = module.attend(ssf(module.qkv(ssf(module.norm1(y), f"{b}/norm1")), f"{b}/attn/q"))
        y = y + ssf(module.proj(mixed), f"{b}/attn/out")
        inside = F.gelu(ssf(module.fc1(ssf(module.norm2(y), f"{b}/norm2")), f"{b}/fc1"))
        y = y + ssf(module.fc2(inside), f"{b}/fc2")
    torch.testing.assert_close(got, ssf(tower.norm(y), "norm"), **plain.EXACT)


def test_the_number_of_parameters_is_twice_that_of_the_outputs():
    grafted = Grafted(plain.PlainTower(), {"it": Ssf()})
    per_block = 12 + 36 + 12 + 12 + 24 + 12
    assert grafted.trainable_count()["it"] == 2 * (12 + 2 * per_block + 12)


@pytest.mark.parametrize("name", ["timm", "hf_vit", "mha", "timm_cnn"])
def test_merging_gives_the_numbers_and_unmerging_the_bits(name):
    encoder = tiny.fresh(name).double()
    x = next(iter(tiny.batch(encoder).values())).double()
    weights = {key: value.clone() for key, value in encoder.state_dict().items()}
    grafted = plain.grafted_on(encoder, Ssf())
    with torch.no_grad():
        wanted = grafted(x).pooled
        grafted.merge()
        merged = grafted(x).pooled
        changed = {key for key, value in encoder.state_dict().items() if not torch.equal(value, weights[key])}
        grafted.unmerge()
        unmerged = grafted(x).pooled
    torch.testing.assert_close(merged, wanted, **plain.EXACT)
    assert changed and torch.equal(unmerged, wanted)
    assert all(torch.equal(value, weights[key]) for key, value in encoder.state_dict().items())


def test_a_shift_without_a_bias_stays_when_merged():
    tower = plain.PlainTower(depth=1)
    tower.blocks[0].qkv = nn.Linear(12, 36, bias=False).double()
    x = tower.images()
    grafted = plain.grafted_on(tower, Ssf(Ssf.Config(targets=("q",))))
    wanted = grafted(x).tokens
    grafted.merge()
    torch.testing.assert_close(grafted(x).tokens, wanted, **plain.EXACT)


def test_merged_values_are_neither_merged_again_nor_loaded_over():
    adapter = Ssf()
    grafted = plain.grafted_on(plain.PlainTower(), adapter)
    grafted.merge()
    with pytest.raises(ConfigError, match="merged already"):
        adapter.merge()
    with pytest.raises(ConfigError, match="unmerge before loading"):
        adapter.load_state_dict(adapter.state_dict())


def test_a_projection_that_no_feature_depends_on_is_left_out_and_alone_an_error():
    tower = plain.PlainTower()
    hit = {site for found in graft(tower, "ssf").ungraft().sites() for site in [found]}
    assert "unused" in hit
    adapter = Ssf()
    Grafted(tower, {"it": adapter}).ungraft()
    assert "unused" not in adapter.scale_shift and "norm" in adapter.scale_shift
    with pytest.raises(IncompatibleError, match="'unused' matches unused, which no feature depends on"):
        graft(tower, "ssf", targets=("unused",))


def test_the_start_of_the_authors_code_is_an_option():
    adapter = Ssf(Ssf.Config(std=0.02))
    Grafted(plain.PlainTower(dim=48), {"it": adapter})
    assert not adapter.identity_at_init and Ssf().identity_at_init
    gamma = torch.cat([p.detach() for n, p in adapter.named_parameters() if n.endswith("gamma")])
    # Some hundred draws: the deviation of their deviation is 0.02 / sqrt(2 n).
    assert abs(gamma.mean() - 1) < 0.005 and abs(gamma.std() - 0.02) < 0.004


def test_the_last_blocks_alone_leave_the_cache_before_them():
    grafted = Grafted(plain.PlainTower(depth=4), {"it": Ssf(Ssf.Config(depth="half_up"))})
    assert grafted.first_stage() == {"image": 3}


def test_a_fused_attention_is_scaled_inside_and_behind():
    encoder = tiny.fresh("mha").double()
    adapter = Ssf(Ssf.Config(targets=("blocks.0.attn*",)))
    x = tiny.batch(encoder)["image"].double()
    grafted = plain.grafted_on(encoder, adapter)
    got = grafted(x).tokens
    grafted.ungraft()
    inner, outer = adapter.scale_shift["blocks/0/attn/q"], adapter.scale_shift["blocks/0/attn"]
    attn = encoder.blocks[0].attn
    with torch.no_grad():
        for weight, bias, by in (
            (attn.in_proj_weight, attn.in_proj_bias, inner),
            (attn.out_proj.weight, attn.out_proj.bias, outer),
        ):
            weight.mul_(by.gamma[:, None])
            bias.mul_(by.gamma).add_(by.beta)
    torch.testing.assert_close(got, encoder(x).tokens, **plain.EXACT)
