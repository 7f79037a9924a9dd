"""qlora: LoRA on every linear map of a language model in four bits, alone or behind a projector that trains first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from language_folders import folder_of

from medgraft import build_encoder, graft
from medgraft.benchmarks.training.phases import Phases
from medgraft.encoder import MultimodalEncoder
from medgraft.encoder.stored import weight_bits
from medgraft.errors import ConfigError, IncompatibleError
from medgraft.registry import build_adapters
from medgraft.testing.tiny import TinyViT

PROMPTS = ["the lungs are", "no"]
WIDE: Any = {"hidden_size": 64, "intermediate_size": 128}


def paired(model: Any) -> MultimodalEncoder:
    visual = TinyViT("packed", 2)
    spec = visual.spec.model_copy(update={"name": "pair", "modality": "image+text"})
    encoder = MultimodalEncoder(spec, {"image": visual, "text": model})
    encoder.freeze()
    return encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return folder_of("llama", tmp_path_factory.mktemp("wide"), **WIDE)


@pytest.fixture
def encoder(folder):
    return paired(build_encoder(f"causal_lm:llama,bits=4@{folder}"))


def test_every_linear_map_of_the_blocks_has_a_branch_and_nothing_else(encoder):
    grafted = graft(encoder, "qlora", rank=2)
    hit = set(grafted.coverage()["qlora"]["*"])
    layer = ("attn.q", "attn.k", "attn.v", "attn.out")
    mlp = ("gate_proj", "up_proj", "down_proj")
    expected = {f"text.blocks.{i}.{name}" for i in range(2) for name in layer}
    expected |= {f"text.model.layers.{i}.mlp.{name}" for i in range(2) for name in mlp}
    assert hit == expected
    widths = {"q": 128, "k": 96, "v": 96, "out": 128, "gate_proj": 192, "up_proj": 192, "down_proj": 192}
    assert grafted.trainable_count()["qlora"] == 2 * 2 * sum(widths.values())  # two blocks, rank 2, in + out
    assert all(p.dtype == torch.float32 for p in grafted.trainable_parameters())


def test_it_learns_through_four_bits_and_leaves_them(encoder):
    model: Any = encoder.towers()["text"]
    prompts = model.prompts(PROMPTS)
    before = model.logits(prompts)
    grafted = graft(encoder, "qlora", rank=4, dropout=0.0).train()
    assert torch.equal(model.logits(prompts), before)
    answers = model.answers(["clear", "effusion"])
    optimizer = torch.optim.Adam(grafted.trainable_parameters(), lr=0.02)
    losses = []
    for _ in range(20):
        loss = model.answer_loss(prompts, answers).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    with pytest.raises(ConfigError, match="cannot merge qlora: it has no form"):
        grafted.merge()
    grafted.ungraft()
    assert torch.equal(model.logits(prompts), before)


def test_it_fits_no_base_of_another_precision(folder):
    model = build_encoder(f"causal_lm:llama@{folder}")
    with pytest.raises(IncompatibleError, match=r"stored in 32 bits, and qlora is LoRA on 4: .*bits=4, or use lora"):
        graft(paired(model), "qlora")
    with pytest.raises(IncompatibleError, match="reads no text"):
        graft(TinyViT("packed", 2), "qlora")


@pytest.mark.parametrize("reader", ["soft_prefix", "xattn"])
def test_what_reads_the_image_trains_first_and_then_both(encoder, reader):
    from medgraft.grafting import Grafted

    model: Any = encoder.towers()["text"]
    small = {"num_latents": 2} if reader == "xattn" else {}
    adapters = build_adapters(f"{reader}+qlora", {reader: {"alone": 0.25, **small}, "qlora": {"rank": 2}})
    grafted = Grafted(encoder, adapters).train()
    embeddings = model.network.get_input_embeddings().weight.clone()
    owner = {id(p): name for name, each in grafted.named_adapters() for p in each.parameters()}
    phases, seen = Phases(grafted, 8), []
    with phases.running():
        for step in range(8):
            assert phases.enter(step) == ((step, 2) if step < 2 else (step - 2, 6))
            seen.append({owner[id(p)] for p in grafted.trainable_parameters()})
            assert all(not p.requires_grad for p in encoder.parameters())
    assert seen == [{reader}] * 2 + [{reader, "qlora"}] * 6
    whole = {name: sum(p.numel() for p in each.parameters()) for name, each in grafted.named_adapters()}
    assert [(each["adapter"], each["stage"], each["steps"], each["trainable"]) for each in phases.summary()] == [
        (reader, "alone", 2, whole[reader]),
        ("qlora", "alone", 2, 0),
        (reader, "together", 6, whole[reader]),
        ("qlora", "together", 6, whole["qlora"]),
    ]
    assert grafted.trainable_count() == whole  # afterwards everything is as it was
    assert torch.equal(model.network.get_input_embeddings().weight, embeddings)
    assert {weight_bits(branch[0]) for branch in adapters["qlora"]._places} == {4}  # pyright: ignore


@pytest.mark.parametrize("reader", ["soft_prefix", "xattn"])
def test_without_an_image_the_base_answers_as_it_did(folder, reader):
    model: Any = build_encoder(f"causal_lm:llama@{folder}")
    encoder, before = paired(model), model.logits(model.prompts(PROMPTS))
    grafted = graft(encoder, reader, num_latents=2)
    with torch.no_grad():
        for parameter in grafted.trainable_parameters():  # trained, whatever the training
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    grafted.encode({"image": torch.rand(2, 1, 16, 24)})
    grafted.encode({})
    assert torch.equal(model.logits(model.prompts(PROMPTS)), before)


def test_adapters_that_would_never_train_are_refused(encoder, monkeypatch):
    from medgraft.adapters.soft_prefix import SoftPrefix
    from medgraft.grafting import Grafted
    from medgraft.schedule import Phase

    monkeypatch.setattr(SoftPrefix, "phases", lambda self: tuple(Phase(n, share=0.5, joined=False) for n in "ab"))
    grafted = Grafted(encoder, build_adapters("soft_prefix+qlora"))
    with pytest.raises(ConfigError, match="trains alone in all of its phases"):
        Phases(grafted, 8)
