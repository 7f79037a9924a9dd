"""Bad input for language models: a clear sentence each, or behaviour with a bound; padding that changes nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from language_folders import folder_of

from medgraft import build_encoder, graft
from medgraft.encoder import MultimodalEncoder
from medgraft.encoders.parts.hf.cache import Growing
from medgraft.errors import CheckpointError, ConfigError, DataError, IncompatibleError
from medgraft.language_model import Decoding, LanguageModel, Prompts
from medgraft.testing.tiny import TinyViT
from medgraft.testing.tiny_language import LANGUAGE_ENCODERS

how: Any = Decoding
PROMPTS = ["the lungs are", "no", "small left effusion is seen there"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Any:
    return build_encoder(f"causal_lm:llama@{folder_of('llama', tmp_path_factory.mktemp('one'))}")


def without(root, *names: str):
    """A folder whose tokenizer and configuration name none of some special tokens."""
    for file in ("tokenizer_config.json", "config.json", "generation_config.json", "special_tokens_map.json"):
        path = root / file
        if path.exists():
            facts = json.loads(path.read_text())
            kept = {key: value for key, value in facts.items() if not any(key.startswith(name) for name in names)}
            path.write_text(json.dumps(kept))
    return root


def test_a_model_without_padding_and_end_decodes_a_batch_to_the_limit(tmp_path):
    model: Any = build_encoder(f"causal_lm:gpt2@{without(folder_of('gpt2', tmp_path), 'pad', 'eos')}")
    model.end_ids = ()  # GPT-2's own configuration has one by default
    made = model.generate(model.prompts(PROMPTS), how(limit=7))
    assert [len(ids) for ids in made.ids] == [7] * 3 and set(made.endings) == {"limit"}
    alone = [model.generate(model.prompts([text]), how(limit=7)).ids[0] for text in PROMPTS]
    assert list(made.ids) == alone
    _, real = model.answers(["clear", "small left"])
    assert real.sum(dim=1).tolist() == [1, 2]  # no end to learn


def test_what_repeats_for_ever_ends_at_the_limit_and_at_the_context(model, monkeypatch):
    monkeypatch.setattr(model, "end_ids", ())
    monkeypatch.setattr(model.network.generation_config, "eos_token_id", None)
    made = model.generate(model.prompts(["no"]), how(limit=9))
    assert made.endings == ("limit",) and len(made.ids[0]) == 9
    made = model.generate(model.prompts(["no"]), how(limit=100_000))
    assert made.endings == ("limit",) and len(made.ids[0]) == model.context - 2
    with pytest.raises(ConfigError, match="limit"):
        model.generate(model.prompts(["no"]), {"limit": 0})


def test_a_tokenizer_of_another_vocabulary_is_refused(tmp_path):
    root = folder_of("llama", tmp_path)
    words = json.loads((root / "tokenizer.json").read_text())
    words["model"]["vocab"] |= {f"word{i}": len(words["model"]["vocab"]) + i for i in range(40)}
    (root / "tokenizer.json").write_text(json.dumps(words))
    model: Any = build_encoder(f"causal_lm:llama@{root}")
    with pytest.raises(CheckpointError, match=r"its tokenizer makes token 25 and the model knows 22 tokens"):
        model.prompts(["word3 is seen"])
    with pytest.raises(CheckpointError, match=r"makes token 61"):
        model.answers(["clear", "word39"])
    assert model.prompts(["clear"]).length == 2  # words that both know are words


def test_soft_tokens_that_leave_no_room_are_refused(model):
    soft = torch.zeros(1, model.context - 2, model.spec.dim)
    with pytest.raises(DataError, match=rf"places for 64 tokens; a prompt takes {model.context} and 1 are to follow"):
        model.prompts(["no"], soft)
    fits = model.prompts(["no"], soft[:, :-1])
    assert len(model.generate(fits, how(limit=50)).ids[0]) == 1
    with pytest.raises(DataError, match="are to follow"):
        model.logits(fits, model.answers(["clear small left"]))


def test_more_or_fewer_images_than_texts_are_refused(model):
    with pytest.raises(ConfigError, match=r"soft tokens must be \[3, S, C\], got \[2, 4, 32\]"):
        model.prompts(PROMPTS, torch.zeros(2, 4, 32))
    with pytest.raises(ConfigError, match=r"soft tokens must be vectors of 32 numbers, as the words are, got 16"):
        model.logits(model.prompts(PROMPTS, torch.zeros(3, 4, 16)))


def test_a_model_whose_blocks_cannot_be_found_takes_soft_tokens_alone():
    encoder: Any = LANGUAGE_ENCODERS["language-2d"]()
    text = encoder.towers()["text"]
    text.block_paths = list
    with pytest.raises(IncompatibleError, match="blocks of tiny:language cannot be found; soft_prefix needs none"):
        graft(encoder, "xattn")
    assert graft(encoder, "soft_prefix").trainable_count()["soft_prefix"] > 0


def test_an_empty_prompt_behind_an_image_is_one(model):
    soft = torch.randn(1, 3, model.spec.dim, generator=torch.Generator().manual_seed(0))
    assert len(model.generate(model.prompts([""], soft), how(limit=2)).ids[0]) >= 1
    nothing = Prompts(torch.zeros(1, 0, dtype=torch.long), torch.zeros(1, 0, dtype=torch.bool))
    with pytest.raises(DataError, match="prompt 0 is empty"):
        model.generate(nothing)


@pytest.mark.parametrize("adapter", ["soft_prefix", "xattn"])
def test_padding_changes_no_loss_behind_an_image(model, adapter):
    visual = TinyViT("packed", 2)
    spec = visual.spec.model_copy(update={"name": "pair", "modality": "image+text"})
    torch.manual_seed(0)
    grafted = graft(MultimodalEncoder(spec, {"image": visual, "text": model}), adapter, num_latents=3)
    reader: Any = next(iter(grafted.named_adapters()))[1]
    for name, parameter in reader.named_parameters():
        if name.endswith("_gate"):
            torch.nn.init.constant_(parameter, 0.7)
    answers = ["clear", "small left effusion is seen", "normal heart"]

    def losses(rows: list[int]) -> torch.Tensor:
        images = torch.rand(3, 1, 16, 24, generator=torch.Generator().manual_seed(0))[rows]
        seen, texts = grafted.encode({"image": images}), [PROMPTS[i] for i in rows]
        given = model.answers([answers[i] for i in rows])
        if adapter == "soft_prefix":
            return model.answer_loss(model.prompts(texts, *reader.soft_tokens(seen)), given)
        with reader.looking_at(seen):
            return model.answer_loss(model.prompts(texts), given)

    together = losses([0, 1, 2])
    torch.testing.assert_close(together, torch.cat([losses([i]) for i in range(3)]), atol=1e-5, rtol=1e-5)
    grafted.ungraft()


def test_rows_are_appended_without_a_trace_of_what_was_there():
    torch.manual_seed(0)
    growing, held, whole = Growing(), torch.tensor([]), torch.zeros(4, 2, 0, 3)
    for step, n in enumerate((5, 1, 1, 3, 1, 20, 1)):
        new = torch.randn(len(whole), 2, n, 3)
        held, whole = growing.append(held, new), torch.cat([whole, new], dim=2)
        assert torch.equal(held, whole)
        if step == 2:  # a search by beams keeps some of the rows
            held, whole = held.index_select(0, torch.tensor([1, 1, 0, 3])), whole[[1, 1, 0, 3]]


def test_the_contract_says_what_is_missing():
    with pytest.raises(TypeError, match="LanguageModel must implement generate"):
        LanguageModel.generate(object.__new__(LanguageModel), None)  # type: ignore[arg-type]
