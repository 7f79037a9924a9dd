"""CLIP-Adapter against the equations of its paper, written out."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from grafts import outputs_of

from medgraft.grafting import graft
from medgraft.registry import build_adapter

pytestmark = pytest.mark.usefixtures("seeded")


@pytest.mark.parametrize("name", ["chest", "hf_clip"])
@pytest.mark.parametrize("last_relu", [True, False])
def test_the_embedding_is_the_published_mix(name, last_relu):
    encoder, inputs = tiny.fresh(name), tiny.batch(tiny.fresh(name))
    image, text = outputs_of(encoder, inputs).values()
    f = encoder.towers()["image"].project(image.pooled)
    w = encoder.towers()["text"].project(text.pooled)
    grafted = graft(encoder, "clip_adapter", modality="both", ratio=0.3, text_ratio=0.6, last_relu=last_relu)
    state = grafted.adapters["clip_adapter"].state_dict()
    got = outputs_of(grafted, inputs)
    for tower, start, ratio in (("image", f, 0.3), ("text", w, 0.6)):
        down, up = (state[f"bottleneck.{tower}.{part}.weight"] for part in ("down", "up"))
        bottleneck = (start @ down.T).clamp(min=0) @ up.T
        bottleneck = bottleneck.clamp(min=0) if last_relu else bottleneck
        wanted = ratio * bottleneck + (1 - ratio) * start
        torch.testing.assert_close(got[tower].pooled, wanted)
        torch.testing.assert_close(got[tower].embedding, wanted / wanted.norm(dim=1, keepdim=True))


def test_by_default_only_the_image_has_a_bottleneck_of_a_quarter_of_the_width():
    encoder = tiny.fresh("chest")
    grafted = graft(encoder, "clip_adapter")
    width = encoder.towers()["image"].project(torch.zeros(1, encoder.spec.dim)).shape[1]
    assert grafted.trainable_count() == {"clip_adapter": 2 * width * (width // 4)}
    assert grafted.encode(tiny.batch(encoder))["text"].embedding is None


def test_it_reads_what_another_adapter_made_of_the_embedding():
    encoder = tiny.fresh("chest")
    inputs = tiny.batch(encoder)
    refined = outputs_of(graft(tiny.fresh("chest"), "ace_hgnn"), inputs)["image"].embedding
    torch.manual_seed(0)
    both = graft(encoder, "ace_hgnn+clip_adapter").eval()
    with torch.no_grad():
        found = both.encode(inputs)["image"]
    assert refined is not None and found.embedding is not None
    assert found.embedding.shape == refined.shape
    torch.testing.assert_close(found.embedding, F.normalize(found.pooled, dim=-1))


@pytest.mark.parametrize(
    ("name", "options", "words"), [("mha", {"modality": "text"}, "no text tower"), ("pixels_2d", {}, "no weights")]
)
def test_what_does_not_fit_is_refused(name, options, words):
    assert words in build_adapter("clip_adapter", options).supports(tiny.shared(name)).reason
