"""soft_prefix: an image becomes vectors in front of a prompt, and a frozen language model learns to speak of it."""

from __future__ import annotations

import pytest
import torch

from medgraft import graft
from medgraft.adapters.soft_prefix import SoftPrefix
from medgraft.adapters.spatial_pooling import SpatialPooling
from medgraft.errors import IncompatibleError
from medgraft.language_model import Decoding, LanguageModel
from medgraft.testing.tiny import tiny_encoder
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

PROJECTORS = ("spatial", "perceiver", "linear")
SOFT = {"spatial": 6, "perceiver": 3, "linear": 24}
"""Soft tokens of a grid of 4 x 6."""


def pair():
    encoder = LANGUAGE_ENCODERS["language-2d"]()
    model = encoder.towers()["text"]
    assert isinstance(model, LanguageModel)
    return encoder, model


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 16, 24, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("projector", PROJECTORS)
def test_tokens_have_the_width_of_the_language_model(projector):
    encoder, model = pair()
    soft = graft(encoder, "soft_prefix", projector=projector, num_latents=3).encode({"image": images(2)})["image"]
    assert soft.tokens.shape == (2, SOFT[projector], model.spec.dim) and soft.n_prefix == 0
    torch.testing.assert_close(soft.pooled, soft.tokens.mean(dim=1))


def test_spatial_is_m3ds_projector():
    encoder, model = pair()
    plain = encoder.towers()["image"](images(2))
    grafted = graft(encoder, "soft_prefix")
    soft = grafted.encode({"image": images(2)})["image"]
    reference = SpatialPooling(plain.tokens.shape[-1], model.spec.dim)
    state = dict(next(iter(grafted.named_adapters()))[1].state_dict())
    reference.load_state_dict({key.removeprefix("maps.image."): value for key, value in state.items()})
    torch.testing.assert_close(soft.tokens, reference(plain.tokens[:, plain.n_prefix :], plain.grid)[0])


@pytest.mark.parametrize("projector", PROJECTORS)
def test_a_frozen_language_model_learns_to_tell_two_images_apart(projector):
    torch.manual_seed(0)
    encoder, model = pair()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    grafted = graft(encoder, "soft_prefix", projector=projector, num_latents=3).train()
    x, said = images(2) * torch.tensor([1.0, 3.0])[:, None, None, None], ["effusion", "clear"]
    optimizer = torch.optim.Adam(grafted.trainable_parameters(), lr=2e-2)
    answers = model.answers(said)
    for _ in range(200):
        soft = grafted.encode({"image": x})["image"]
        loss = model.answer_loss(
            model.prompts(["what is seen", "what is seen"], soft.tokens, soft.mask), answers
        ).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    grafted.eval()
    soft = grafted.encode({"image": x})["image"]
    prompts = model.prompts(["what is seen"] * 2, soft.tokens.detach())
    own, other = (model.answer_loss(prompts, model.answers(texts)) for texts in (said, said[::-1]))
    assert (own < other.flip(0) - 0.2).all()  # each text is likelier behind its own image than behind the other
    assert len(model.generate(prompts, Decoding(limit=5)).ids) == 2
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items() if name in before)


@pytest.mark.parametrize(("name", "why"), [("dual-2d", "continues none"), ("packed-2d", "needs a visual tower and")])
def test_it_needs_a_language_model(name, why):
    encoder = tiny_encoder(name)
    assert why in SoftPrefix().supports(encoder).reason
    with pytest.raises(IncompatibleError, match=why):
        graft(encoder, "soft_prefix")


def test_the_kits_model_keeps_the_contract():
    _, model = pair()
    prompts = model.prompts(["the lungs are", "no"], torch.randn(2, 3, model.spec.dim))
    together = model.answer_loss(prompts, model.answers(["clear", "focal opacity is seen"]))
    for i, (prompt, answer) in enumerate([("the lungs are", "clear"), ("no", "focal opacity is seen")]):
        alone = model.prompts([prompt], prompts.soft[i : i + 1])  # pyright: ignore[reportOptionalSubscript]
        torch.testing.assert_close(model.answer_loss(alone, model.answers([answer]))[0], together[i])
