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
    grafted = graft(encoder, "ace_lora", text_dropout=0.1)
    adapter = grafted.adapters["ace_lora"]
    assert len(grafted.coverage()["ace_lora"]["text_dropout"]) == 13  # the embeddings and twelve MLPs
    ids = torch.zeros(2, 256, dtype=torch.long)
    ids[:, :5] = torch.tensor([2, 900, 901, 902, 3])
    with torch.no_grad():
        first, second = grafted.train().encode({"text": ids})["text"].pooled
        quiet, same = grafted.eval().encode({"text": ids})["text"].pooled
    torch.testing.assert_close(quiet, same)
    assert (first - second).abs().max() > 1e-3  # equal texts, other masks
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in adapter.named_children()}
    assert counts == {"lora": 442_368, "hgnn": 526_848, "text_dropout": 0}
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


def test_without_a_hypergraph_it_is_lora_and_the_multiplier_and_changes_nothing_at_first():
    encoder = tiny.fresh("chest")
    inputs = tiny.batch(encoder)
    with torch.no_grad():
        plain = {name: tower(inputs[name]) for name, tower in encoder.towers().items()}
        grafted = graft(encoder, "ace_lora", hypergraph="none").eval()
        after = grafted.encode(inputs)
    adapter = grafted.adapters["ace_lora"]
    assert adapter.identity_at_init and not AceLora().identity_at_init
    assert {name.split(".")[0] for name in adapter.state_dict()} == {"lora", "scale"}
    assert all(torch.equal(after[name].pooled, plain[name].pooled) for name in plain)
    assert adapter.prompt_ensemble(2) is None


def test_every_option_of_the_hypergraph_reaches_it():
    from medgraft.adapters.ace_hgnn import AceHgnnAdapter

    options = {
        "hidden_dim": 9, "top_k": 2, "graph": "gatv2", "cls_attention": "logits", "return_tokens": True,
        "prompt_ensemble": "tokens",
    }  # fmt: skip
    built = AceLora(AceLora.Config(hypergraph="text", **options)).hgnn
    assert built.config == AceHgnnAdapter.Config(modality="text", **options)
    assert set(AceHgnnAdapter.Config.model_fields) == {*options, "modality"}


@pytest.mark.parametrize("test_scale", ["trained", "encoder"])
def test_the_multiplier_in_evaluation_is_the_trained_one_or_the_encoders(test_scale):
    encoder = tiny.fresh("chest")
    grafted = graft(encoder, "ace_lora", test_scale=test_scale)
    trained = grafted.adapters["ace_lora"].scale
    with torch.no_grad():
        trained.add_(1)
    assert grafted.train().logit_scale() is trained
    used = grafted.eval().logit_scale()
    assert used is trained if test_scale == "trained" else used == encoder.logit_scale != trained.item()


def test_text_dropout_acts_after_embeddings_and_mlps_in_training_only():
    encoder = tiny.fresh("chest")
    inputs = tiny.batch(encoder)
    options = {"hypergraph": "none", "dropout": 0.0}
    grafted = graft(encoder, "ace_lora", text_dropout=0.5, **options)
    hit = grafted.coverage()["ace_lora"]["text_dropout"]
    blocks = len(encoder.towers()["text"].attention)
    assert len(hit) == 1 + blocks and all(".mlp" in site for site in hit[1:])
    grafted.eval()
    with torch.no_grad():
        quiet = grafted.encode(inputs)["text"].pooled
        grafted.train()
        noisy = [grafted.encode(inputs)["text"].pooled for _ in range(2)]
        image = grafted.encode({"image": inputs["image"]})["image"].pooled
        grafted.ungraft()
        plain = encoder.towers()["text"](inputs["text"]).pooled
        bare = encoder.towers()["image"](inputs["image"]).pooled
    assert torch.equal(quiet, plain) and torch.equal(image, bare)
    assert not torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], plain)


def test_text_dropout_without_a_text_tower_does_nothing():
    grafted = graft(tiny.fresh("timm"), "ace_lora", text_dropout=0.5)
    assert "text_dropout" not in grafted.coverage()["ace_lora"]
