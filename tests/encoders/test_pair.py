"""Two encoders as one: each half as it was, names with weights of their own, and Brain-Adapter on both."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch

from medgraft.encoder import DualEncoder
from medgraft.encoders.pair import PairSource
from medgraft.errors import ConfigError
from medgraft.grafting import graft
from medgraft.registry import build_encoder

NAME = "pair:embedded:brain@random|embedded:brain"


@pytest.fixture(scope="module")
def pair() -> DualEncoder:
    encoder = build_encoder(NAME)
    assert isinstance(encoder, DualEncoder)
    return encoder


def test_each_half_is_the_encoder_of_its_name(pair):
    halves = {"volume": build_encoder("embedded:brain@random"), "text": build_encoder("embedded:brain")}
    inputs = tiny.batch(pair)
    assert list(pair.towers()) == ["volume", "text"]
    for modality, other in halves.items():
        with torch.no_grad():
            assert torch.equal(
                pair.towers()[modality](inputs[modality]).tokens, other.towers()[modality](inputs[modality]).tokens
            )


def test_what_a_result_says_of_it(pair):
    assert pair.spec.name == NAME and pair.spec.modality == "volume+text" and pair.logit_scale is None
    assert pair.spec.weights.startswith("pretrained:")
    assert build_encoder("pair:embedded:brain|embedded:brain").spec.weights != pair.spec.weights
    assert build_encoder("pair:embedded:brain@random|embedded:brain@random").spec.weights == "random"
    assert build_encoder("pair:embedded:chest|embedded:brain").spec.modality == "image+text"


def test_brain_adapter_gives_the_two_a_common_space():
    grafted = graft(NAME, "brain_adapter", projection_dim=7)
    outputs = grafted.encode(tiny.batch(grafted.encoder))
    assert {features.embedding.shape for features in outputs.values()} == {(2, 7)}
    loss = grafted.extra_loss(outputs)
    assert loss is not None
    loss.backward()
    grads = {name for name, p in grafted.adapters.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"brain_adapter.projection.volume.weight", "brain_adapter.projection.text.weight"} <= grads


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("embedded:brain", "not of the form pair:"),
        ("embedded:brain|", "not of the form pair:"),
        ("embedded:brain||embedded:brain", "not of the form pair:"),
        ("embedded:brain|embedded:brain|embedded:brain", "which another part reads already"),
        ("embedded:brain|pixels:3d", "reads volume, which another part reads already"),
    ],
)
def test_a_name_of_another_form_is_an_error(name, message):
    with pytest.raises(ConfigError, match=message):
        PairSource.build(name)


def test_three_parts_are_three_towers():
    encoder = PairSource.build("embedded:chest|pixels:3d|embedded:brain")
    assert list(encoder.towers()) == ["image", "volume", "text"] and encoder.spec.modality == "image+volume+text"
    assert encoder.shared == () and encoder.logit_scale is None
    part = encoder.only(["image", "text"])
    assert list(part.towers()) == ["image", "text"] and part.tower["text"] is encoder.tower["text"]
    assert {site.tower for site in encoder.sites().values()} == {"image", "volume", "text"}
