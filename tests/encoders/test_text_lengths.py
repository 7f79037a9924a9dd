"""Every text tower: cut to the longest text as with all of its padding, or it says that it needs its whole context."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import test_contract as contract
import test_hf_general as general
import torch
import transformers

from medgraft.encoder import TextEncoder
from medgraft.encoders.open_clip import OpenClipSource
from medgraft.encoders.parts.hf.text import ANY_LENGTH, reads_any_length
from medgraft.encoders.transformers import TransformersSource
from medgraft.errors import ConfigError

TEXT = general.TEXT
MORE = {
    "bert": TEXT,
    "roberta": TEXT | {"max_position_embeddings": 18},
    "camembert": TEXT | {"max_position_embeddings": 18},
    "gemma": general.GROUPED | {"head_dim": 6},
    "qwen2": general.GROUPED,
}
"""Architectures without a case of their own elsewhere."""
FAMILIES = {name: case.config for name, case in general.TEXTS.items()} | MORE
WHOLE = {
    "nystromformer": TEXT,
    "convbert": TEXT | {"embedding_size": 24},
    "longformer": TEXT | {"attention_window": 4, "max_position_embeddings": 18},
}
"""Architectures that read padding, or of which nobody has shown that they do not."""
PAIRS = ["embedded-chest-text", "hf-clip-text", "open-clip-text", "open-clip-bert", "hf-bert", "hf-llama"]


def stirred(tower: TextEncoder) -> TextEncoder:
    """In float64, with biases and norms that are not trivial."""
    torch.manual_seed(0)
    tower = copy.deepcopy(tower)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    return tower.double()  # pyright: ignore[reportReturnType]


def family(name: str) -> TextEncoder:
    config = copy.deepcopy({**FAMILIES, **WHOLE}[name])
    return TransformersSource.build(name, "random", config=config)  # pyright: ignore[reportReturnType]


def texts(tower: TextEncoder, lengths: list[int]) -> torch.Tensor:
    """Texts that begin with 58 and end with 59, an end token of CLIP's, where they have room for both."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(4, 55, (len(lengths), tower.spec.input_size[0]), generator=generator)
    ids[:, 0] = 58
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1] = 59
        row[length:] = tower.pad_id
    return ids


def check_cut(tower: TextEncoder, atol: float) -> None:
    assert tower.any_length
    ids = texts(tower, [2, 5, 3])
    with torch.no_grad():
        whole = tower(ids, scores=tower.has_scores)
        for columns in (5, 6, tower.spec.input_size[0]):
            cut = tower(ids[:, :columns], scores=tower.has_scores)
            assert cut.mask is not None and whole.mask is not None and cut.tokens.shape[1] == columns
            assert torch.equal(cut.mask, whole.mask[:, :columns])
            assert torch.allclose(cut.pooled, whole.pooled, rtol=0, atol=atol)
            assert torch.allclose(cut.tokens[cut.mask], whole.tokens[whole.mask], rtol=0, atol=atol)
            if whole.cls_probs is not None:
                assert torch.allclose(cut.cls_probs, whole.cls_probs[..., : columns - 1], rtol=0, atol=atol)
        alone = tower(ids[:1, :2])
        assert torch.allclose(alone.pooled, whole.pooled[:1], rtol=0, atol=atol)


@pytest.mark.parametrize("name", PAIRS)
def test_a_tower_of_a_pair_gives_the_same_for_a_cut_batch(name):
    tower = contract.tower_of(name)
    assert isinstance(tower, TextEncoder)
    check_cut(stirred(tower), 1e-6 if name in ("hf-bert", "hf-llama") else 1e-10)  # features of a TextModel are float32


@pytest.mark.parametrize("name", FAMILIES)
def test_an_architecture_gives_the_same_for_a_cut_batch(name):
    check_cut(stirred(family(name)), 2e-6)


def test_every_architecture_that_may_be_cut_is_tested():
    models: list[Any] = [family(name).model for name in FAMILIES]
    assert {model.config.get_text_config().model_type for model in models} == ANY_LENGTH


@pytest.mark.parametrize("name", WHOLE)
def test_an_architecture_that_nobody_vouches_for_keeps_its_context(name):
    tower = family(name)
    assert not tower.any_length
    with pytest.raises(ConfigError, match=r"int64 \[B, 1[46]\]"):
        tower(texts(tower, [3])[:, :4])


def test_rotations_that_depend_on_the_length_keep_the_context():
    def config(kind: str) -> transformers.LlamaConfig:
        parameters = {"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0}
        return transformers.LlamaConfig(**TEXT, rope_parameters=parameters)  # pyright: ignore

    assert reads_any_length(config("linear")) and not reads_any_length(config("dynamic"))


@pytest.mark.parametrize("name", ["hf-siglip-text", "open-clip-siglip-text"])
def test_what_pools_the_last_position_keeps_its_context(name):
    tower = contract.tower_of(name)
    assert isinstance(tower, TextEncoder) and not tower.any_length


@pytest.mark.parametrize(
    ("options", "any_length"),
    [
        ({}, True),
        ({"pool_type": "eos", "eos_id": 59}, True),
        ({"embed_cls": True, "pad_id": 1}, False),
        ({"pool_type": "first", "no_causal_mask": True}, False),
        ({"pool_type": "last"}, False),
    ],
)
def test_forms_of_open_clips_own_text_transformer(options, any_length):
    config = {**contract.OPEN_CLIP, "text_cfg": {**contract.CLIP_TEXT, **options}}
    tower = OpenClipSource.build("tiny", "random", config=config).towers()["text"]
    assert isinstance(tower, TextEncoder) and tower.any_length == any_length
    if any_length:
        check_cut(stirred(tower), 1e-10)


@pytest.mark.parametrize(("pooler", "any_length"), [("mean_pooler", True), ("max_pooler", False)])
def test_poolers_of_a_bert_inside_open_clip(pooler, any_length):
    config = contract.bert_pair()
    config["text_cfg"]["hf_pooler_type"] = pooler
    tower = OpenClipSource.build("tiny", "random", config=config).towers()["text"]
    assert isinstance(tower, TextEncoder) and tower.any_length == any_length
    if any_length:
        check_cut(stirred(tower), 1e-10)
