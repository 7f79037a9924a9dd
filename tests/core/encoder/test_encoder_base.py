"""What the base class of encoders does for all of them: freezing, stages, and the CLS row of the attention."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch

from medgraft.adapters.lora import Lora
from medgraft.encoder import DualEncoder, Encoder, EncoderSpec
from medgraft.encoder.attention import AttentionLayout, capture_cls_rows
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")
SPEC = EncoderSpec(name="test:bare", modality="image", input_size=(4,), dim=4, weights="none")


@pytest.mark.parametrize("method", ["encode", "prepare"])
def test_what_a_subclass_must_implement_says_so(method):
    with pytest.raises(TypeError, match=rf"Encoder must implement {method}\(\)"):
        getattr(Encoder(SPEC), method)(torch.zeros(1))


@pytest.mark.parametrize("raw", ["a chest film", [[1.0]], {"image": torch.zeros(1, 1, 64, 64)}, None])
def test_what_is_no_batch_is_refused_by_its_type(raw):
    with pytest.raises(ConfigError, match=f"takes a prepared batch, got a {type(raw).__name__}; make one with prepare"):
        tiny.shared("chest").towers()["image"](raw)


def test_an_encoder_without_stages_can_only_be_run_whole():
    x = torch.zeros(1)
    assert Encoder(SPEC).prefix(x, 0) is x
    with pytest.raises(ConfigError, match="test:bare can only be run whole; it has no stage 1"):
        Encoder(SPEC).prefix(x, 1)


@pytest.mark.parametrize("mode", [True, False])
def test_an_encoder_never_leaves_evaluation_mode(mode):
    encoder = tiny.MhaViT().train(mode)
    assert not any(module.training for module in encoder.modules())


def test_an_encoder_without_weights_lies_on_the_cpu():
    assert Encoder(SPEC).device == torch.device("cpu")


def test_a_dual_encoder_serves_as_its_first_tower():
    encoder = tiny.shared("chest")
    x = tiny.batch(encoder)["image"]
    assert isinstance(encoder, DualEncoder) and list(encoder.towers()) == ["image", "text"]
    assert torch.equal(encoder(x).pooled, encoder.towers()["image"](x).pooled)


def test_an_unknown_fact_about_an_encoder_is_refused():
    with pytest.raises(ValueError, match="colour"):
        EncoderSpec(**SPEC.model_dump(), colour="red")


# -- the CLS row ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"), [("timm_cnn", "no attention"), ("pixels_2d", "no attention"), ("clip text", "no CLS")]
)
def test_scores_of_an_encoder_without_them_are_an_error(name, reason):
    encoder = tiny.shared("hf_clip").towers()["text"] if name == "clip text" else tiny.shared(name)
    with pytest.raises(ConfigError, match=reason):
        encoder(next(iter(tiny.batch(encoder).values())), scores=True)


def test_asking_for_scores_changes_nothing_else():
    encoder = tiny.shared("timm")
    x = tiny.batch(encoder)["image"]
    plain, asked = encoder(x), encoder(x, scores=True)
    assert torch.equal(plain.tokens, asked.tokens) and plain.cls_scores is None


@pytest.mark.parametrize("name", ["chest", "timm", "hf_vit", "mha"])
def test_nothing_is_left_of_a_capture(name):
    encoder = tiny.shared(name)
    encoder(next(iter(tiny.batch(encoder).values())), scores=True)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.modules())


def test_a_capture_that_fails_is_removed_too():
    encoder = tiny.shared("timm")
    with pytest.raises(ConfigError), capture_cls_rows(encoder, encoder.attention[-1]):
        encoder(torch.zeros(1, 1, 3, 3))
    assert not any(module._forward_hooks for module in encoder.modules())


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_row_of_a_fused_attention_is_the_one_that_it_uses(batch_first):
    encoder = tiny.MhaViT(depth=1, batch_first=batch_first)
    x = torch.randn(2, 1, 16, 16)
    block = encoder.blocks[0]
    hidden = block.norm1(encoder.prefix(x, 1))
    h = hidden if batch_first else hidden.transpose(0, 1)
    weights = block.attn(h, h, h, need_weights=True, average_attn_weights=False)[1]
    # float32: one softmax of 17 numbers in two implementations.
    torch.testing.assert_close(encoder(x, scores=True).cls_probs, weights[:, :, 0, 1:], rtol=1e-5, atol=1e-6)


def test_probabilities_are_the_softmax_of_the_scores_with_the_prefix_left_out():
    encoder = tiny.shared("chest").towers()["image"]
    features = encoder(tiny.batch(encoder)["image"], scores=True)
    whole = torch.softmax(features.cls_scores, dim=-1)
    share = features.cls_probs.sum(dim=-1, keepdim=True)
    assert (share < 1).all()
    torch.testing.assert_close(features.cls_probs / share, whole, rtol=1e-5, atol=1e-7)


def test_padding_has_a_score_of_minus_infinity_and_no_probability():
    encoder = tiny.shared("chest").towers()["text"]
    features = encoder(tiny.batch(encoder)["text"], scores=True)
    padding = ~features.mask[:, None, 1:].expand_as(features.cls_scores)
    assert padding.any() and torch.isneginf(features.cls_scores[padding]).all()
    assert not features.cls_probs[padding].any() and features.cls_scores[~padding].isfinite().all()


@pytest.mark.parametrize("name", ["chest", "timm", "hf_vit", "mha"])
def test_the_row_follows_what_lora_did_to_the_last_block(name):
    encoder = tiny.fresh(name)
    x = next(iter(tiny.batch(encoder).values()))
    tower = next(iter(encoder.towers().values()))
    block = len(tower.attention) - 1
    grafted = Grafted(encoder, {"lora": Lora(Lora.Config(targets=(f"*blocks.{block}.attn.[qk]",)))}).eval()
    before = grafted(x, scores=True).cls_scores
    with torch.no_grad():
        for parameter in grafted.adapters.parameters():
            parameter.normal_(std=0.1)
        unmerged = grafted(x, scores=True).cls_scores
        grafted.merge()
        merged = grafted(x, scores=True).cls_scores
    assert (unmerged - before).abs().max() > 1e-3
    # float32: (W + BA)x against Wx + BAx, scores up to some tens.
    torch.testing.assert_close(unmerged, merged, rtol=1e-4, atol=1e-4)


def test_the_scale_and_the_transform_of_a_layout_are_applied():
    encoder = tiny.MhaViT(depth=1)
    x = torch.randn(2, 1, 16, 16)
    plain = encoder(x, scores=True).cls_scores
    layout = encoder.attention[0]
    facts = {key: getattr(layout, key) for key in ("style", "path", "heads", "dim")}
    encoder.attention = [AttentionLayout(**facts, scale=1.0, transform=lambda q, k: (2 * q, 3 * k))]
    # float32: a factor of six, and of the square root of a head's width of eight.
    torch.testing.assert_close(encoder(x, scores=True).cls_scores, plain * 6 * 8**0.5, rtol=1e-5, atol=1e-5)


def test_a_graft_on_one_tower_alone_works():
    tower = tiny.fresh("chest").towers()["text"]
    grafted = graft(tower, "ace_lora")
    assert grafted(tiny.batch(tower)["text"]).embedding.shape == (2, 128)
    assert grafted.first_stage() == {"text": 0}
