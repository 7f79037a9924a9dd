"""xattn: a language model's blocks look at an image; what they see stays for its call, or for one generation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from language_folders import folder_of

from medgraft import build_encoder, graft
from medgraft.adapters.xattn import Xattn
from medgraft.encoder import MultimodalEncoder
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.grafting import Grafted
from medgraft.language_model import Decoding
from medgraft.testing.tiny import TinyViT, tiny_encoder
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

PROMPTS = ["the lungs are", "no", "small left effusion is seen there"]


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 16, 24, generator=torch.Generator().manual_seed(0))


def opened(grafted: Grafted) -> Xattn:
    """The adapter, with gates that are open."""
    adapter = next(iter(grafted.named_adapters()))[1]
    assert isinstance(adapter, Xattn)
    for name, parameter in adapter.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.constant_(parameter, 0.7)
    return adapter


@pytest.fixture(scope="module", params=["llama", "gpt2", "opt"])
def model(request, tmp_path_factory) -> Any:
    root: Path = tmp_path_factory.mktemp(request.param)
    return build_encoder(f"causal_lm:{request.param}@{folder_of(request.param, root)}")


@pytest.fixture
def grafted(model):
    visual = TinyViT("packed", 2)
    spec = visual.spec.model_copy(update={"name": "pair", "modality": "image+text"})
    torch.manual_seed(0)
    made = graft(MultimodalEncoder(spec, {"image": visual, "text": model}), "xattn", head_dim=4, heads=2, num_latents=3)
    yield made.eval()
    made.ungraft()


def test_closed_gates_change_nothing(grafted, model):
    prompts, answers = model.prompts(PROMPTS), model.answers(["clear"] * 3)
    (_, adapter), seen = next(iter(grafted.named_adapters())), grafted.encode({"image": images(3)})
    with adapter.looking_at(seen):
        inside = model.logits(prompts, answers)
    grafted.encode({})
    assert torch.equal(inside, model.logits(prompts, answers))


def test_what_is_cached_while_decoding_is_what_the_whole_text_gives(grafted, model):
    adapter = opened(grafted)
    prompts = model.prompts(PROMPTS)
    with adapter.looking_at(grafted.encode({"image": images(3)})):
        made = model.generate(prompts, Decoding(limit=8))
        ids: list[list[int]] = [[], [], []]
        for _ in range(8):  # greedy, from the whole text so far, one text by one
            for row, drawn in enumerate(ids):
                if drawn and drawn[-1] in model.end_ids:
                    continue
                one = model.prompts([PROMPTS[row]])
                so_far = torch.tensor([drawn], dtype=torch.long)
                with adapter.looking_at(grafted.encode({"image": images(3)[row : row + 1]})):
                    drawn.append(int(model.logits(one, (so_far, torch.ones_like(so_far).bool()))[0, -1].argmax()))
    assert made.ids == tuple(map(tuple, ids))


def test_each_beam_sees_its_own_image(grafted, model):
    adapter, how = opened(grafted), Decoding(limit=6, beams=3)
    with adapter.looking_at(grafted.encode({"image": images(3)})):
        together = model.generate(model.prompts(PROMPTS), how).ids
    for row in range(3):
        with adapter.looking_at(grafted.encode({"image": images(3)[row : row + 1]})):
            assert model.generate(model.prompts(PROMPTS[row : row + 1]), how).ids[0] == together[row]


def test_text_of_a_call_sees_the_image_of_that_call_alone(grafted, model):
    opened(grafted)
    ids = model.tokenize(PROMPTS)
    plain = grafted.encode({"text": ids})["text"].tokens
    seeing = grafted.encode({"image": images(3), "text": ids})["text"].tokens
    assert not torch.allclose(plain, seeing)
    assert torch.equal(grafted.encode({"text": ids})["text"].tokens, plain)
    with pytest.raises(ConfigError, match="3 texts, but 2 images"):
        grafted.encode({"image": images(2), "text": ids})


def test_a_block_is_the_published_one(grafted, model):
    adapter = opened(grafted)
    seen = grafted.encode({"image": images(3)})
    media = adapter.resampler(seen["image"].tokens[:, None, None, seen["image"].n_prefix :])
    x = torch.randn(3, 5, model.spec.dim)
    layer = adapter.layers["0"]
    read = layer.attn
    q = read.to_q(read.norm(x)).unflatten(-1, (2, 4)).transpose(1, 2)
    k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in read.to_kv(media[:, 0]).chunk(2, dim=-1))
    mixed = torch.softmax(q @ k.transpose(-1, -2) / 2, dim=-1) @ v
    expected = x + torch.tanh(layer.attn_gate) * read.to_out(mixed.transpose(1, 2).flatten(2))
    expected = expected + torch.tanh(layer.ff_gate) * layer.ff(expected)
    with adapter.looking_at(seen):
        torch.testing.assert_close(adapter._reading("0")(x), expected)


def test_every_says_before_which_blocks():
    adapter = next(iter(graft(LANGUAGE_ENCODERS["language-2d"](), "xattn", every=2).named_adapters()))[1]
    assert list(adapter.layers) == ["0"]  # pyright: ignore


def test_it_needs_a_language_model():
    with pytest.raises(IncompatibleError, match="continues none"):
        graft(tiny_encoder("dual-2d"), "xattn")
