"""Language models: the library's own tokens without adapters, padding that changes nothing, prompts that do not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from language_folders import FAMILIES, folder_of

from medgraft import build_encoder, graft
from medgraft.encoders.parts.hf.causal import CausalLm
from medgraft.errors import CheckpointError, ConfigError, DataError, UnknownNameError
from medgraft.language_model import Decoding, Prompts

PROMPTS = ["the lungs are", "no", "small left effusion is seen there"]


@pytest.fixture(scope="module", params=FAMILIES)
def pair(request, tmp_path_factory) -> tuple[CausalLm, Any, Any]:
    """A model of each family by its folder, and the library's model and tokenizer of the same."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    root = folder_of(request.param, tmp_path_factory.mktemp(request.param))
    model = build_encoder(f"causal_lm:{request.param}@{root}")
    assert isinstance(model, CausalLm)
    return model, AutoModelForCausalLM.from_pretrained(root).eval(), AutoTokenizer.from_pretrained(root)


def librarys(network: Any, tokenizer: Any, texts: list[str], **settings: Any) -> list[list[int]]:
    tokenizer.padding_side = "left"
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    return network.generate(**given, pad_token_id=0, **settings)[:, given["input_ids"].shape[1] :].tolist()


def cut(row: list[int]) -> tuple[int, ...]:
    return tuple(row[: row.index(2) + 1] if 2 in row else row)


@pytest.mark.parametrize("settings", [{}, {"beams": 3}, {"temperature": 0.8, "top_p": 0.9, "seed": 5}])
def test_generates_the_librarys_tokens(pair, settings):
    model, network, tokenizer = pair
    told = {"max_new_tokens": 12, "do_sample": False, "num_beams": settings.get("beams", 1)}
    if "seed" in settings:
        told |= {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 0}
        torch.manual_seed(5)
    expected = librarys(network, tokenizer, PROMPTS, **told)
    made = model.generate(model.prompts(PROMPTS), Decoding(limit=12, **settings))
    assert list(made.ids) == [cut(row) for row in expected]


def test_a_batch_gives_what_each_prompt_gives_alone(pair):
    model = pair[0]
    together = model.generate(model.prompts(PROMPTS), Decoding(limit=8)).ids
    assert together == tuple(model.generate(model.prompts([text]), Decoding(limit=8)).ids[0] for text in PROMPTS)


def test_soft_tokens_that_are_the_embeddings_of_words_are_those_words(pair):
    model = pair[0]
    ids = torch.tensor([[1, 5, 9, 4, 11, 7, 8]])
    whole, words = Prompts(ids, torch.ones_like(ids, dtype=torch.bool)), ids[:, 1:4]
    rest = Prompts(torch.cat([whole.ids[:, :1], whole.ids[:, 4:]], 1), whole.mask[:, 3:], model.embed(words), lead=1)
    torch.testing.assert_close(model.logits(rest), model.logits(whole))
    assert model.generate(rest, Decoding(limit=8)).ids == model.generate(whole, Decoding(limit=8)).ids


def test_loss_of_answers_does_not_depend_on_padding(pair):
    model = pair[0]
    answers = ["clear", "small left effusion is seen", "normal heart"]
    together = model.answer_loss(model.prompts(PROMPTS), model.answers(answers))
    alone = [model.answer_loss(model.prompts([p]), model.answers([a])) for p, a in zip(PROMPTS, answers, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)
    soft = torch.randn(3, 4, model.spec.dim, generator=torch.Generator().manual_seed(0))
    real = torch.tensor([[True] * 4, [True, True, False, False], [False] * 4])
    padded = model.answer_loss(model.prompts(PROMPTS, soft, real), model.answers(answers))
    one = model.answer_loss(model.prompts(PROMPTS[1:2], soft[1:2, :2]), model.answers(answers[1:2]))
    torch.testing.assert_close(padded[1:2], one, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(padded[2:], together[2:], atol=1e-5, rtol=1e-5)


def test_loss_is_the_librarys(pair):
    model, network, tokenizer = pair
    ids = torch.tensor([tokenizer("the lungs are")["input_ids"] + [7, 8, 2]])
    labels = ids.clone()
    labels[:, :-3] = -100
    expected = network(input_ids=ids, labels=labels).loss
    answer = torch.tensor([[7, 8, 2]])
    got = model.answer_loss(model.prompts(["the lungs are"]), (answer, torch.ones_like(answer, dtype=torch.bool)))
    torch.testing.assert_close(got[0], expected)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> CausalLm:
    model = build_encoder(f"causal_lm:llama@{folder_of('llama', tmp_path_factory.mktemp('one'))}")
    assert isinstance(model, CausalLm)
    return model


def test_a_stop_string_ends_a_text_and_is_left_out(llama):
    free = llama.generate(llama.prompts(PROMPTS[:1]), Decoding(limit=12))
    word = free.texts[0].split()[3]
    made = llama.generate(llama.prompts(PROMPTS[:1]), Decoding(limit=12, stop=(word,)))
    assert made.endings == ("stop",) and word not in made.texts[0]
    assert free.texts[0].startswith(made.texts[0].strip())


def test_generation_ends_at_the_limit_and_at_the_context(llama):
    made = llama.generate(llama.prompts(["the lungs"]), Decoding(limit=1000))
    assert len(made.ids[0]) <= llama.context - 3 and made.endings[0] in ("end", "limit")


@pytest.mark.parametrize("words", [64, 200])
def test_a_prompt_longer_than_the_context_is_refused(llama, words):
    with pytest.raises(DataError, match=rf"places for 64 tokens; a prompt takes {words + 1}"):
        llama.prompts([" ".join(["clear"] * words)])


def test_an_empty_prompt_is_refused_where_nothing_begins_a_text(tmp_path):
    model: Any = build_encoder(f"causal_lm:llama@{folder_of('llama', tmp_path, begins=False)}")
    with pytest.raises(DataError, match="prompt 0 is empty"):
        model.prompts([""])


def test_names_and_folders_that_are_nothing(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean llama"):
        build_encoder("causal_lm:lama@random")
    with pytest.raises(CheckpointError, match="a bare family has no weights"):
        build_encoder("causal_lm:llama")
    with pytest.raises((CheckpointError, ConfigError)):
        build_encoder(f"causal_lm:llama@{tmp_path}")


def test_lora_acts_in_generation_and_leaves_without_a_trace(llama):
    before = llama.logits(llama.prompts(PROMPTS))
    grafted = graft(llama, "lora", rank=2)
    for name, parameter in grafted.named_parameters():
        if "lora_b" in name.lower() or name.endswith(".B"):
            torch.nn.init.normal_(parameter)
    prompts = llama.prompts(PROMPTS)
    loss = llama.answer_loss(prompts, llama.answers(["clear", "small", "normal"])).mean()
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in grafted.trainable_parameters())
    grafted.ungraft()
    torch.testing.assert_close(llama.logits(prompts), before, atol=0, rtol=0)
