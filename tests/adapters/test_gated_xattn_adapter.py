"""Text that reads the image of its own sample, on the tiny dual encoders."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

from medgraft.adapters.gated_xattn import GatedXattn
from medgraft.errors import ConfigError
from medgraft.grafting import Grafted, graft

pytestmark = pytest.mark.usefixtures("seeded")


def opened(encoder, **options) -> Grafted:
    grafted = graft(encoder, "gated_xattn", **options)
    with torch.no_grad():
        for block in grafted.adapters["gated_xattn"].blocks:
            block.attn_gate.fill_(0.7)
            block.ff_gate.fill_(-0.4)
    return grafted


@torch.no_grad()
def text_of(grafted, inputs):
    return grafted.encode(inputs)["text"]


@pytest.mark.parametrize("options", [{}, {"depth": 2}, {"resampler_depth": 1, "num_latents": 3}])
@pytest.mark.parametrize("name", ["brain", "hf_clip"])
def test_text_reads_the_image_of_its_own_sample(name, options):
    encoder = tiny.shared(name)
    inputs = tiny.batch(encoder)
    visual = next(key for key in inputs if key != "text")
    plain = encoder.towers()["text"](inputs["text"])
    grafted = opened(encoder, **options)
    try:
        first = text_of(grafted, inputs)
        other = inputs | {visual: torch.stack([inputs[visual][0], inputs[visual][1].flip(-1)])}
        second = text_of(grafted, other)
    finally:
        grafted.ungraft()
    assert torch.equal(first.pooled[0], second.pooled[0])
    assert not torch.allclose(first.pooled[1], second.pooled[1], atol=1e-6)
    assert not torch.allclose(first.tokens, plain.tokens, atol=1e-3)
    if plain.mask is not None and not plain.mask.all():
        assert torch.equal(first.tokens[~plain.mask], plain.tokens[~plain.mask])


def test_pooling_before_the_blocks_equals_pooling_after():
    encoder = tiny.shared("brain")
    grafted = opened(encoder)
    features = text_of(grafted, tiny.batch(encoder))
    grafted.ungraft()
    assert_close(features.pooled, features.tokens[:, 0])


def test_no_image_outlives_its_call():
    encoder = tiny.shared("brain")
    inputs = tiny.batch(encoder)
    plain = encoder.towers()["text"](inputs["text"])
    grafted = opened(encoder)
    try:
        grafted.encode({"volume": inputs["volume"]})
        alone = text_of(grafted, {"text": inputs["text"]})
        assert torch.equal(alone.tokens, plain.tokens) and torch.equal(alone.pooled, plain.pooled)
        with pytest.raises(ConfigError, match="the image before the text"):
            grafted.encode({"text": inputs["text"], "volume": inputs["volume"]})
        with pytest.raises(ConfigError, match="1 texts, but 2 images"):
            grafted.encode({"volume": inputs["volume"], "text": inputs["text"][:1]})
        assert not torch.equal(text_of(grafted, inputs).pooled, plain.pooled)
    finally:
        grafted.ungraft()
    assert "towers" not in encoder.__dict__


def test_the_embedding_shared_with_images_does_not_see_them():
    encoder = tiny.shared("chest")
    inputs = tiny.batch(encoder)
    tower = encoder.towers()["text"]
    plain = F.normalize(tower.project(tower(inputs["text"]).pooled), dim=-1)
    grafted = opened(encoder)
    features = text_of(grafted, inputs)
    grafted.ungraft()
    assert torch.equal(features.embedding, plain) and not torch.allclose(features.pooled, tower(inputs["text"]).pooled)


def test_a_head_on_the_text_learns_what_only_the_image_shows():
    encoder = tiny.shared("brain")
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8) % 2
    volumes = torch.randn(8, 1, *encoder.towers()["volume"].spec.input_size, generator=generator)
    inputs = {"volume": volumes + 2 * labels.view(-1, 1, 1, 1, 1), "text": tiny.batch(encoder, 1)["text"].repeat(8, 1)}
    with torch.no_grad():
        frozen = encoder.towers()["volume"](inputs["volume"]), encoder.towers()["text"](inputs["text"])
    kept = dict(zip(("volume", "text"), frozen, strict=True))
    grafted = graft(encoder, "gated_xattn", head=nn.Linear(128, 2))
    adapter = grafted.adapters["gated_xattn"]
    groups = [{"params": [p], "lr": 1e-3 * adapter.learning_rate_scale(k)} for k, p in adapter.named_parameters()]
    optimizer = torch.optim.AdamW([*groups, {"params": grafted.head.parameters(), "lr": 1e-2}])
    losses = []
    for _ in range(30):
        loss = F.cross_entropy(grafted.head(grafted.encode(kept)["text"].pooled), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    grafted.ungraft()
    assert losses[-1] < 0.2 < 0.6 < losses[0]


@pytest.mark.parametrize("name", ["timm", "mha", "pixels_2d"])
def test_it_needs_two_modalities(name):
    assert "needs a visual and a text tower" in GatedXattn().supports(tiny.shared(name)).reason
