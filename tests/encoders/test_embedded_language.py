"""causal_lm:embedded: the language model that comes with the package, its tokenizer, and what it can do alone."""

from __future__ import annotations

import math
import shutil
from itertools import islice
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from medgraft import build_encoder, graft
from medgraft.benchmarks.pretrain.corpus.mixture import SHARES, documents
from medgraft.benchmarks.pretrain.packing import losses, packed
from medgraft.benchmarks.pretrain.reading import reading
from medgraft.checkpoints.weights import file_digest
from medgraft.encoders.causal_lm import CausalLmSource
from medgraft.encoders.parts import shipped
from medgraft.encoders.parts.hf import embedded_language
from medgraft.encoders.parts.hf.causal import CausalLm
from medgraft.encoders.parts.shipped import read_card, weights_folder
from medgraft.errors import CheckpointError, ConfigError, DataError
from medgraft.language_model import Decoding

PROMPTS = ["Describe the chest radiograph.", "Is there a pneumothorax?", "Which is larger, 12 or 30?"]
FRESH = 4711
"""A seed of the corpus that neither training nor the card's held-out texts have."""


@pytest.fixture(scope="module")
def model() -> CausalLm:
    made = build_encoder("causal_lm:embedded")
    assert isinstance(made, CausalLm)
    return made


def test_files_are_those_of_the_card_and_small():
    card, folder = read_card("language"), weights_folder()
    weights, words = folder / "language.safetensors", folder / embedded_language.TOKENIZER / "tokenizer.json"
    assert file_digest(weights) == card["sha256"] and file_digest(words) == card["tokenizer_sha256"]
    assert weights.stat().st_size <= 9_000_000
    with safe_open(weights, "pt") as tensors:
        assert {str(tensors.get_tensor(name).dtype) for name in tensors.keys()} == {"torch.bfloat16"}  # noqa: SIM118
    assert {"run", "date", "log", "held_out_perplexity", "cpu_seconds"} <= card.keys()
    assert card["held_out_perplexity"].keys() == SHARES.keys()
    assert card["held_out_reading"].keys() == {"told", "not told"}


def test_it_says_what_it_is(model):
    assert model.spec.name == "causal_lm:embedded" and model.spec.licence == "Apache-2.0"
    assert model.spec.weights.startswith("pretrained:") and "phantom chest (pretrain)" in model.spec.cohorts
    assert sum(p.numel() for p in model.network.parameters()) == read_card("language")["parameters"]
    assert model.network.config.vocab_size == len(model.words)
    assert model.network.get_output_embeddings().weight is model.network.get_input_embeddings().weight


def test_files_that_are_not_the_right_ones_are_refused(tmp_path, monkeypatch):
    for path in weights_folder().glob("language*"):
        copy = shutil.copytree if path.is_dir() else shutil.copy
        copy(path, tmp_path / path.name)
    for module in (shipped, embedded_language):
        monkeypatch.setattr(module, "weights_folder", lambda: tmp_path)
    damaged = tmp_path / "language.safetensors"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match="sha256"):
        build_encoder("causal_lm:embedded")
    damaged.write_bytes(whole)
    with pytest.raises(CheckpointError, match="sha256"):
        CausalLmSource.build("embedded", sha256="0" * 64)
    words = tmp_path / embedded_language.TOKENIZER / "tokenizer.json"
    words.write_text(words.read_text(encoding="utf-8").replace("pleural", "plural", 1), encoding="utf-8")
    with pytest.raises(CheckpointError, match="is not the tokenizer"):
        build_encoder("causal_lm:embedded")
    with pytest.raises(ConfigError, match="of its own"):
        CausalLmSource.build("embedded", config={"hidden_size": 8})


def test_fresh_weights_are_the_same_each_time_and_others_are_refused(tmp_path):
    one, two = (build_encoder("causal_lm:embedded@random").state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)
    torch.save({"model.norm.weight": torch.ones(3)}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match="does not fit causal_lm:embedded"):
        build_encoder(f"causal_lm:embedded@{tmp_path / 'other.pt'}")


@settings(max_examples=40, deadline=None)
@given(st.text())
def test_the_tokenizer_gives_back_any_text(model, text):
    ids = model.words(text, add_special_tokens=False)["input_ids"]
    assert model.text_of(ids) == text and max(ids, default=0) < len(model.words)


@pytest.mark.parametrize(
    "text", ["", "größer als 12 mm", "右肺", "</s> <s><pad>", "🫁 A.\n\tB.", "\x00\x7f", "  two  "]
)
def test_the_tokenizer_gives_back_texts_of_all_kinds(model, text):
    ids = model.words(text, add_special_tokens=False)["input_ids"]
    assert model.text_of(ids) == text
    assert not set(ids) & {model.words.bos_token_id, model.words.eos_token_id, model.pad_id}
    assert model.words(text)["input_ids"] == [model.words.bos_token_id, *ids]


def test_numbers_are_read_digit_by_digit(model):
    pieces = [model.text_of([i]) for i in model.words("measuring 1,250.5 mm", add_special_tokens=False)["input_ids"]]
    assert [piece for piece in pieces if any(letter.isdigit() for letter in piece)] == list("12505")


def test_perplexity_of_fresh_texts(model):
    words = model.words.backend_tokenizer
    for place, part in enumerate(SHARES):
        rows = packed(islice(documents(FRESH, place, part), 8), words, 8, 512, model.pad_id)
        with torch.no_grad():
            got = math.exp(float(losses(model.network, rows)[0].mean()))
        stated = read_card("language")["held_out_perplexity"][part]
        assert got < 1.5 * stated + 0.3, part  # eight documents of a part differ from two hundred
    assert len(model.words) / 20 > max(read_card("language")["held_out_perplexity"].values())


def test_packing_learns_what_the_harness_asks(model):
    texts = list(islice(documents(FRESH, 0, "phantom films"), 4))
    texts = [text for text in texts if len(text.turns) == 1]
    prompts, answers = zip(*(text.turns[0] for text in texts), strict=True)
    asked = model.answer_loss(model.prompts(prompts), model.answers(answers))
    each, of = losses(model.network, packed(iter(texts), model.words.backend_tokenizer, 4, 512, model.pad_id))
    learnt = torch.stack([each[of == number].mean() for number in range(len(texts))])
    torch.testing.assert_close(asked, learnt, atol=2e-4, rtol=1e-4)


def test_greedy_decoding_is_the_librarys(model):
    tokenizer = model.words
    tokenizer.padding_side = "left"
    batch = tokenizer(PROMPTS, padding=True, return_tensors="pt")
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    made = model.network.generate(**given, max_new_tokens=24, do_sample=False)[:, given["input_ids"].shape[1] :]
    expected = [row[: row.index(2) + 1] if 2 in row else row for row in made.tolist()]
    got = model.generate(model.prompts(PROMPTS), Decoding(limit=24))
    assert [list(ids) for ids in got.ids] == expected


def test_it_writes_reports_and_ends_them(model):
    made = model.generate(model.prompts(PROMPTS[:2]), Decoding(limit=160))
    assert made.endings == ("end", "end") and "." in made.texts[0]


def test_it_answers_a_question_of_yes_or_no_by_one_of_them(model):
    made = model.generate(model.prompts(["Is there a pneumothorax?", "Does the image show edema?"]), Decoding(limit=16))
    assert set(made.texts) <= {"Yes", "No"}


def test_a_prompt_that_does_not_fit_is_refused(model):
    with pytest.raises(DataError, match=f"places for {model.context} tokens"):
        model.prompts(["1" * (model.context + 1)])


@pytest.mark.parametrize("adapter", ["soft_prefix", "xattn"])
def test_it_looks_at_what_the_embedded_encoders_see(adapter):
    pair: Any = build_encoder("pair:embedded:chest|causal_lm:embedded")
    grafted = graft(pair, adapter)
    films = torch.randn(2, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    seen = grafted.encode({"image": films})
    (_, each), language = next(iter(grafted.named_adapters())), pair.towers()["text"]
    if adapter == "soft_prefix":
        soft, _ = each.soft_tokens(seen)
        assert soft.shape == (2, 16, language.spec.dim)  # 8 x 8 places, 2 x 2 pooled
        loss = language.answer_loss(language.prompts(PROMPTS[:2], soft), language.answers(["No.", "No."]))
    else:
        for name, parameter in each.named_parameters():
            if name.endswith("_gate"):
                torch.nn.init.constant_(parameter, 0.5)
        with each.looking_at(seen):
            loss = language.answer_loss(language.prompts(PROMPTS[:2]), language.answers(["No.", "No."]))
    loss.sum().backward()
    assert loss[0] != loss[1] and all(p.grad is not None for p in grafted.trainable_parameters())
    grafted.ungraft()


def test_it_reads_what_the_prompt_tells(model):
    """Sides, sizes, places and diameters of findings that the prompt lists, and what it answers without the list."""
    found = reading(model.network, model.words.backend_tokenizer, FRESH, 60)
    assert found["told"] > found["not told"] + 0.2, found
    card = read_card("language")["held_out_reading"]
    assert abs(found["told"] - card["told"]) < 0.2, "three standard errors of 60 questions"
