"""CLIP-LoRA: our LoRA with the published settings and nothing else."""

from __future__ import annotations

import math

import pytest
import tiny_encoders as tiny
import torch
from grafts import outputs_of, tensors

from medgraft.adapters.lora import Lora, LoraDelta
from medgraft.grafting import graft
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")


def test_the_defaults_are_the_published_ones():
    config = build_adapter("clip_lora").config
    assert isinstance(config, Lora.Config)
    assert (config.rank, config.dropout, config.targets, config.depth) == (2, 0.25, ("q", "k", "v"), "all")
    assert config.scaling == pytest.approx(1 / math.sqrt(2))


@pytest.mark.parametrize("name", ["chest", "hf_clip"])
def test_it_is_lora_with_these_options_in_both_towers(name):
    encoder, inputs = tiny.fresh(name), tiny.batch(tiny.fresh(name))
    ours = graft(encoder, "clip_lora")
    adapter = ours.adapters["clip_lora"]
    deltas = [module for module in adapter.modules() if isinstance(module, LoraDelta)]
    with torch.no_grad():
        for delta in deltas:
            delta.B.normal_()
    state, got = adapter.state_dict(), tensors(outputs_of(ours, inputs))
    same = graft(tiny.fresh(name), "lora", rank=2, alpha=1, rank_stabilised=True, targets=("q", "k", "v"))
    same.adapters["lora"].load_state_dict(state)
    torch.testing.assert_close(got, tensors(outputs_of(same, inputs)))
    hits = [site for sites in ours.coverage()["clip_lora"].values() for site in sites]
    blocks = sum(len(tower.attention) for tower in encoder.towers().values())
    assert len(set(hits)) == 3 * blocks and {site.partition(".")[0] for site in hits} == {"image", "text"}


def test_one_tower_can_be_chosen():
    grafted = graft(tiny.fresh("chest"), "clip_lora", targets=("text.*.attn.q", "text.*.attn.k", "text.*.attn.v"))
    assert {site.partition(".")[0] for sites in grafted.coverage()["clip_lora"].values() for site in sites} == {"text"}
