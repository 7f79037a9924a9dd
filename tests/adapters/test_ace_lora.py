"""ACE-LoRA is LoRA with the published settings and ACE-HGNN on what it changed."""

from __future__ import annotations

import math

import pytest
import tiny_encoders as tiny
import torch

from medgraft.adapters.ace_lora import AceLora
from medgraft.encoder import EncoderSpec
from medgraft.grafting import Grafted, graft
from medgraft.registry import build_encoder

pytestmark = pytest.mark.usefixtures("seeded")


class BiomedClipShaped(tiny.MhaViT):
    """Twelve attentions of width 768 with a projection to 512, on a device that stores nothing."""

    def __init__(self, modality: str) -> None:
        with torch.device("meta"):
            super().__init__(dim=768, heads=12, depth=12)
            self.head = torch.nn.Linear(768, 512)
        weights = "pretrained:none"  # a random one would be hashed, and there is nothing to hash
        self.spec = EncoderSpec(name="t", modality=modality, input_size=(16, 16), dim=768, heads=12, weights=weights)

    def project(self, tokens):
        return self.head(tokens)


def test_a_tower_pair_shaped_like_biomedclip_trains_the_published_number():
    counts = [sum(graft(BiomedClipShaped(m), "ace_lora").trainable_count().values()) for m in ("image", "text")]
    assert sum(counts) == 442_368 + 526_848


@pytest.mark.slow
def test_biomedclip_trains_the_published_number():
    encoder = build_encoder("open_clip:hf-hub:microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224@random")
    adapter = graft(encoder, "ace_lora").adapters["ace_lora"]
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in adapter.named_children()}
    assert counts == {"lora": 442_368, "hgnn": 526_848}
    assert sum(p.numel() for p in adapter.parameters()) == 969_217


def test_the_default_scaling_is_one_half():
    assert AceLora().lora.config.scaling == 0.5 == 1 / math.sqrt(4)


def test_every_query_key_and_value_of_both_towers_gets_a_branch():
    encoder = tiny.shared("chest")
    grafted = graft(encoder, "ace_lora")
    sites = grafted.coverage()["ace_lora"]
    grafted.ungraft()
    wanted = {f"{tower}.blocks.{i}.attn" for tower, n in (("image", 4), ("text", 2)) for i in range(n)}
    assert {name: set(found) for name, found in sites.items()} == {
        **{p: {f"{each}.{p}" for each in wanted} for p in "qkv"},
        "features": {"image.features", "text.features"},
    }


def test_it_equals_lora_and_ace_hgnn_grafted_together():
    encoder = tiny.fresh("chest")
    inputs = tiny.batch(encoder)
    ace = graft(encoder, "ace_lora")
    with torch.no_grad():
        for parameter in ace.adapters["ace_lora"].lora.parameters():
            parameter.normal_(std=0.05)
    whole = ace.eval().encode(inputs)
    state = {name: part.state_dict() for name, part in ace.adapters["ace_lora"].named_children()}
    ace.ungraft()
    options = {"rank": 4, "alpha": 1.0, "rank_stabilised": True, "targets": ["q", "k", "v"]}
    both = graft(encoder, "lora+ace_hgnn", lora=options)
    both.adapters["lora"].load_state_dict(state["lora"])
    both.adapters["ace_hgnn"].load_state_dict(state["hgnn"])
    parts = both.eval().encode(inputs)
    assert all(torch.equal(parts[name].embedding, whole[name].embedding) for name in whole)


def test_the_similarity_multiplier_starts_at_the_encoders_and_is_trained():
    encoder = tiny.shared("chest")
    grafted = graft(encoder, "ace_lora")
    scale = grafted.logit_scale()
    grafted.ungraft()
    assert isinstance(scale, torch.nn.Parameter) and scale.requires_grad and scale.item() == encoder.logit_scale


@pytest.mark.parametrize(("name", "options"), [("chest", {"train_logit_scale": False}), ("brain", {}), ("timm", {})])
def test_without_a_shared_space_or_by_choice_there_is_no_multiplier_to_train(name, options):
    encoder = tiny.shared(name)
    grafted = graft(encoder, "ace_lora", **options)
    names = list(grafted.adapters.state_dict())
    grafted.ungraft()
    assert not any("scale" in each for each in names)


def test_the_hypergraph_can_be_left_to_one_tower_while_lora_stays_on_both():
    encoder = tiny.shared("chest")
    grafted = graft(encoder, "ace_lora", hypergraph="text")
    adapter = grafted.adapters["ace_lora"]
    grafted.ungraft()
    assert list(adapter.hgnn.layer) == ["text"]
    assert {name.split("/")[0] for name in adapter.lora.delta} == {"image", "text"}


def test_detaching_the_preset_detaches_both_parts():
    encoder = tiny.fresh("mha")
    Grafted(encoder, {"ace": AceLora()}).ungraft()
    assert not encoder._forward_hooks and not encoder._forward_pre_hooks
    assert not any("forward" in block.attn.__dict__ for block in encoder.blocks)
