"""Folders of sentence-transformers: pooling, linear maps and lengths as they say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from medgraft.encoders.transformers import TransformersSource
from medgraft.errors import CheckpointError
from medgraft.fast.short_texts import text_lengths

CONFIG = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "vocab_size": 60,
    "max_position_embeddings": 20,
}
MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def folder(path: Path, mode: dict[str, Any], *, unit: bool = False, dense: nn.Linear | None = None, **settings: Any):
    """A small BERT in a folder as sentence-transformers leaves one; gives the library's model too."""
    torch.manual_seed(0)
    tower: Any = TransformersSource.build("bert", "random", config=CONFIG)
    network = tower.model.eval()
    network.save_pretrained(path)
    parts = ["", "1_Pooling", *(["2_Dense"] if dense else []), *(["3_Normalize"] if unit else [])]
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *(["Normalize"] if unit else [])]
    listed = [{"path": p, "type": f"sentence_transformers.models.{k}"} for p, k in zip(parts, kinds, strict=True)]
    (path / "modules.json").write_text(json.dumps(listed))
    (path / "1_Pooling").mkdir()
    (path / "1_Pooling/config.json").write_text(json.dumps(mode))
    (path / "sentence_bert_config.json").write_text(json.dumps(settings))
    if dense is not None:
        (path / "2_Dense").mkdir()
        facts = {
            "in_features": 16,
            "out_features": dense.out_features,
            "bias": True,
            "activation_function": "torch.nn.Tanh",
        }
        (path / "2_Dense/config.json").write_text(json.dumps(facts))
        torch.save({f"linear.{k}": v for k, v in dense.state_dict().items()}, path / "2_Dense/pytorch_model.bin")
    return network


IDS = torch.tensor([[2, 5, 9, 11, 3, 0, 0, 0], [2, 7, 3, 0, 0, 0, 0, 0], [2, 4, 5, 6, 7, 8, 9, 3]])


def expected(tokens: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """Each text by itself, from its own tokens."""
    rows = []
    for row, real in zip(tokens, mask, strict=True):
        own = row[real]
        n = len(own)
        places = torch.arange(1, n + 1, dtype=own.dtype)[:, None]
        rows.append(
            {
                "cls_token": lambda own=own: own[0],
                "mean_tokens": lambda own=own: own.mean(0),
                "max_tokens": lambda own=own: own.max(0).values,
                "mean_sqrt_len_tokens": lambda own=own, n=n: own.sum(0) / n**0.5,
                "weightedmean_tokens": lambda own=own, places=places: (own * places).sum(0) / places.sum(),
                "lasttoken": lambda own=own: own[-1],
            }[mode]()
        )
    return torch.stack(rows)


@pytest.mark.parametrize("mode", MODES)
def test_texts_are_pooled_as_the_folder_says(mode, tmp_path):
    modes = {f"pooling_mode_{each}": each == mode for each in MODES}
    network = folder(tmp_path, modes, max_seq_length=12)
    tower: Any = TransformersSource.build("bert", str(tmp_path))
    assert tower.spec.input_size == (12,)
    with torch.no_grad():
        mask = IDS != 0
        tokens = network(input_ids=IDS, attention_mask=mask.long()).last_hidden_state
        whole = torch.nn.functional.pad(IDS, (0, 4))
        assert torch.allclose(tower(whole).pooled, expected(tokens, mask, mode), rtol=1e-5, atol=1e-6)
        assert torch.allclose(tower(IDS).pooled, expected(tokens, mask, mode), rtol=1e-5, atol=1e-6)
    assert text_lengths(tower, whole).tolist() == [5, 3, 8]


def test_a_linear_map_and_unit_length_follow(tmp_path):
    torch.manual_seed(1)
    dense = nn.Linear(16, 6)
    network = folder(tmp_path, {"pooling_mode_mean_tokens": True}, unit=True, dense=dense)
    tower: Any = TransformersSource.build(str(tmp_path))
    assert tower.spec.pooling == "mean, linear map, unit length" and tower.spec.input_size == (20,)
    mask = IDS != 0
    with torch.no_grad():
        tokens = network(input_ids=IDS, attention_mask=mask.long()).last_hidden_state
        made = torch.tanh(dense(expected(tokens, mask, "mean_tokens")))
        assert torch.allclose(tower(IDS).pooled, made / made.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)
    assert not any(parameter.requires_grad for parameter in tower.parameters())


def test_results_tell_the_poolings_of_one_models_weights_apart(tmp_path):
    folder(tmp_path / "mean", {"pooling_mode_mean_tokens": True})
    folder(tmp_path / "cls", {"pooling_mode_cls_token": True})
    digests = {TransformersSource.build("bert", str(tmp_path / each)).spec.weights for each in ("mean", "cls")}
    (tmp_path / "mean/modules.json").unlink()
    plain = TransformersSource.build("bert", str(tmp_path / "mean"))
    assert plain.spec.pooling == "cls" and len(digests | {plain.spec.weights}) == 3


@pytest.mark.parametrize(
    ("mode", "parts", "words"),
    [
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}, None, "asks for cls and mean"),
        ({}, None, "no pooling that is known"),
        ({"pooling_mode_mean_tokens": True}, [{"path": "", "type": "x.Transformer"}], "names no pooling"),
        ({"pooling_mode_mean_tokens": True}, [{"path": "", "type": "x.CNN"}], "a part 'CNN'"),
    ],
)
def test_what_a_folder_says_and_is_not_known(mode, parts, words, tmp_path):
    folder(tmp_path, mode)
    if parts is not None:
        (tmp_path / "modules.json").write_text(json.dumps(parts))
    with pytest.raises(CheckpointError, match=words):
        TransformersSource.build("bert", str(tmp_path))
