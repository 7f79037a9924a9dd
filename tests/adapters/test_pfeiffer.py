"""Pfeiffer adapters against their formula, their number of parameters, and where they sit."""

from __future__ import annotations

import plain_blocks as plain
import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F

from medgraft.adapters.pfeiffer import Pfeiffer
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("rank", [2, 3])
def test_a_block_is_that_of_the_paper(rank):
    tower = plain.PlainTower(rank)
    adapter = Pfeiffer()
    x = tower.images()
    grafted = plain.grafted_on(tower, adapter)
    got = grafted(x).tokens
    numbers = adapter.state_dict()

    def block(i, module, y):
        y = y + module.attn(module.norm1(y))
        h = module.mlp(module.norm2(y))
        down, up = (f"bottleneck.blocks/{i}/mlp.{part}" for part in ("down", "up"))
        inside = F.relu(h @ numbers[f"{down}.weight"].T + numbers[f"{down}.bias"])
        return y + h + inside @ numbers[f"{up}.weight"].T + numbers[f"{up}.bias"]

    grafted.ungraft()
    torch.testing.assert_close(got, plain.by_hand(tower, x, block), **plain.EXACT)


@pytest.mark.parametrize(("reduction", "width"), [(1, 48), (2, 24), (16, 8), (1000, 8)])
def test_the_number_of_parameters_follows_the_reduction(reduction, width):
    grafted = Grafted(plain.PlainTower(dim=48), {"it": Pfeiffer(Pfeiffer.Config(reduction=reduction))})
    assert grafted.trainable_count()["it"] == 2 * (2 * width * 48 + 48 + width)


def test_one_branch_alone_changes_its_block_and_what_follows():
    encoder = tiny.fresh("timm")
    x = tiny.batch(encoder)["image"]
    wanted = encoder.prefix(x, 2)
    grafted = plain.grafted_on(encoder, Pfeiffer(Pfeiffer.Config(targets=("blocks.1.mlp",))))
    assert grafted.coverage()["it"] == {"blocks.1.mlp": ["blocks.1.mlp"]}
    assert grafted.first_stage() == {"image": 2} and torch.equal(encoder.prefix(x, 2), wanted)


def test_a_text_tower_that_names_no_blocks_is_covered_too():
    encoder = tiny.fresh("hf_clip").towers()["text"]
    assert graft(encoder, "pfeiffer").coverage()["pfeiffer"] == {"*.mlp": ["blocks.0.mlp", "blocks.1.mlp"]}
