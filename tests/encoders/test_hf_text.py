"""Text models of transformers: the library's numbers, padding that changes nothing, files and tokenizers."""

from __future__ import annotations

import pytest
import torch
import transformers

from medgraft.encoders.transformers import TransformersSource
from medgraft.errors import CheckpointError, ConfigError

TINY = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "vocab_size": 60,
    "max_position_embeddings": 16,
}
FAMILIES = ("bert", "roberta", "llama", "mistral", "qwen2")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "mild", "atrophy", "of", "the", "hippocampus"]


def tiny(family, **options):
    forward = {"num_key_value_heads": 2} if family in ("llama", "mistral", "qwen2") else {}
    return TransformersSource.build(family, "random", config=TINY | forward | options)


def ids_of(encoder, real=6):
    ids = torch.randint(4, 58, (2, encoder.spec.input_size[0]), generator=torch.Generator().manual_seed(1))
    ids[0, real:] = encoder.pad_id
    return ids


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_the_librarys_and_padding_changes_nothing(family):
    encoder = tiny(family)
    ids = ids_of(encoder)
    with torch.no_grad():
        features = encoder(ids)
        alone = encoder.model(input_ids=ids[:1, :6]).last_hidden_state
        whole = encoder.model(input_ids=ids[1:]).last_hidden_state
    # float32 sums over a masked row and over a short one.
    torch.testing.assert_close(features.tokens[:1, :6], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.tokens[1:], whole, rtol=1e-4, atol=1e-5)
    place = (0, 0) if family in ("bert", "roberta") else (5, -1)
    assert torch.equal(features.pooled[0], features.tokens[0, place[0]])
    assert torch.equal(features.pooled[1], features.tokens[1, place[1]])
    assert features.mask is not None and features.mask.sum(dim=1).tolist() == [6, ids.shape[1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_projections_are_found(family):
    sites = tiny(family).sites()
    assert {f"blocks.{i}.attn.{p}" for i in (0, 1) for p in ("q", "k", "v", "out")} <= set(sites)


def test_roberta_counts_its_positions_from_behind_the_padding():
    assert tiny("roberta").spec.input_size == (14,) and tiny("bert").spec.input_size == (16,)
    assert tiny("bert", max_position_embeddings=2048).spec.input_size == (512,)


def test_a_folder_of_the_library_with_its_tokenizer(tmp_path):
    model = transformers.BertModel(transformers.BertConfig(**TINY))
    model.save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    encoder = TransformersSource.build("bert", str(tmp_path))
    assert encoder.spec.weights.startswith("pretrained:")
    assert encoder.prepare("atrophy of the hippocampus").tolist() == [2, 6, 7, 8, 9, 3, *[0] * 10]
    assert encoder.prepare("mild " * 40).shape == (16,)
    with torch.no_grad():
        features = encoder(encoder.tokenize(["mild", "mild atrophy of the hippocampus"]))
    assert features.pooled.shape == (2, 24)


def test_a_checkpoint_with_a_language_head_in_half_precision_loads(tmp_path):
    config = transformers.LlamaConfig(**TINY, num_key_value_heads=2)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(tmp_path)
    encoder = TransformersSource.build("llama", str(tmp_path))
    assert {parameter.dtype for parameter in encoder.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        features = encoder(ids_of(encoder))
    assert features.tokens.dtype == features.pooled.dtype == torch.float32


def test_what_is_missing_is_said():
    with pytest.raises(CheckpointError, match="tokenizer could not be loaded"):
        tiny("llama").prepare("text")
    with pytest.raises(CheckpointError, match="no pre-trained weights"):
        TransformersSource.build("llama")
    with pytest.raises(ConfigError, match="token ids"):
        encoder = tiny("bert")
        encoder(torch.zeros(1, 17, dtype=torch.long))
