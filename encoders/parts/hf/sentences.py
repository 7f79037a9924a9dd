"""Folders of sentence-transformers: how a text's tokens become its one vector.

A folder lists its parts in ``modules.json``: the model, the pooling (``1_Pooling/config.json``), maybe linear maps
(``2_Dense``) and a division by the length (``2_Normalize``). Reimers and Gurevych, "Sentence-BERT", EMNLP 2019.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.checkpoints.weights import read_weights
from medgraft.errors import CheckpointError

MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean over the root of the length",
    "pooling_mode_weightedmean_tokens": "mean weighted by place",
    "pooling_mode_lasttoken": "last token",
}
"""Options of ``1_Pooling/config.json`` -> the rule's name in :class:`medgraft.encoder.EncoderSpec`."""

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "Tanh": nn.Tanh,
    "Identity": nn.Identity,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    "Sigmoid": nn.Sigmoid,
}


@dataclass(frozen=True)
class Sentences:
    """What a folder says of its vectors.

    Attributes:
        pooling: A value of :data:`MODES`.
        dense: Linear maps with what follows each, or ``None``.
        unit: Vectors are divided by their length.
        length: Tokens of a text at most; ``None`` for as many as the model has places.
    """

    pooling: str
    dense: nn.Sequential | None = None
    unit: bool = False
    length: int | None = None

    @property
    def told(self) -> str:
        """The rule in words, which also tells results apart that share weights."""
        parts = [
            self.pooling,
            *(["linear map"] if self.dense is not None else []),
            *(["unit length"] if self.unit else []),
        ]
        return ", ".join(parts)


def read_sentences(folder: Path | None) -> Sentences | None:
    """What a folder of sentence-transformers says; ``None`` for any other folder.

    Raises:
        CheckpointError: It has a part, a pooling or an activation that is not known.
    """
    if folder is None or not (folder / "modules.json").is_file():
        return None
    pooling, dense, unit = "", list[nn.Module](), False
    for part in _json(folder / "modules.json"):
        kind, place = str(part.get("type", "")).rpartition(".")[2], folder / str(part.get("path", ""))
        if kind == "Pooling":
            pooling = _pooling(_json(place / "config.json"), place)
        elif kind == "Dense":
            dense += _dense(place)
        elif kind == "Normalize":
            unit = True
        elif kind not in ("Transformer", "Dropout"):
            raise CheckpointError(
                f"{folder} has a part {kind!r}, which is not known; they are Pooling, Dense, Normalize"
            )
    if not pooling:
        raise CheckpointError(f"{folder} names no pooling in its modules.json; a Transformer part alone has no vector")
    settings = folder / "sentence_bert_config.json"
    length = _json(settings).get("max_seq_length") if settings.is_file() else None
    return Sentences(pooling, nn.Sequential(*dense) if dense else None, unit, int(length) if length else None)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _pooling(config: dict[str, Any], place: Path) -> str:
    modes = [rule for option, rule in MODES.items() if config.get(option)]
    if named := config.get("pooling_mode"):  # as newer releases write it
        modes = [MODES.get(f"pooling_mode_{each}", "") for each in ([named] if isinstance(named, str) else named)]
        modes = ["cls" if each == "" and named == "cls" else each for each in modes]
    if len(modes) != 1 or not modes[0]:
        asked = " and ".join(modes) or "no pooling that is known"
        raise CheckpointError(f"{place} asks for {asked}; one of {', '.join(MODES.values())} is read")
    if config.get("include_prompt") is False:
        raise CheckpointError(f"{place} leaves the tokens of a prompt out, and texts have none here")
    return modes[0]


def _dense(place: Path) -> list[nn.Module]:
    config = _json(place / "config.json")
    activation = str(config.get("activation_function", "torch.nn.Tanh")).rpartition(".")[2]
    if activation not in ACTIVATIONS:
        raise CheckpointError(f"{place} has the activation {activation!r}; known are {', '.join(ACTIVATIONS)}")
    linear = nn.Linear(int(config["in_features"]), int(config["out_features"]), bool(config.get("bias", True)))
    file = next((place / name for name in ("model.safetensors", "pytorch_model.bin") if (place / name).is_file()), None)
    if file is None:
        raise CheckpointError(f"{place} holds neither model.safetensors nor pytorch_model.bin")
    state = {key.removeprefix("linear."): value for key, value in read_weights(file).items()}
    if {key: value.shape for key, value in state.items()} != {k: v.shape for k, v in linear.state_dict().items()}:
        raise CheckpointError(f"{file} does not fit: it holds {', '.join(sorted(state))}")
    linear.load_state_dict(state)
    return [linear, ACTIVATIONS[activation]()]


def pooled(tokens: Tensor, mask: Tensor, rule: str) -> Tensor:
    """One vector of each text, ``[B, C]``.

    Args:
        tokens: ``[B, L, C]``.
        mask: ``bool [B, L]``, true for the tokens of the text; the first one always is.
        rule: A value of :data:`MODES`.
    """
    weight = mask[..., None].to(tokens.dtype)
    if rule == "cls":
        return tokens[:, 0]
    if rule == "max":
        return tokens.masked_fill(~mask[..., None], -1e9).amax(dim=1)
    if rule == "last token":
        places = torch.arange(tokens.shape[1], device=tokens.device).expand_as(mask)
        return tokens[torch.arange(len(tokens), device=tokens.device), places.masked_fill(~mask, 0).amax(dim=1)]
    if rule == "mean weighted by place":
        weight = weight * torch.arange(1, tokens.shape[1] + 1, device=tokens.device, dtype=tokens.dtype)[:, None]
    total = weight.sum(1).clamp(min=1e-9)
    if rule == "mean over the root of the length":
        total = total.sqrt()
    return (tokens * weight).sum(1) / total


def vector(tokens: Tensor, mask: Tensor, sentences: Sentences) -> Tensor:
    """The vector of each text, ``[B, D]``, of tokens ``[B, L, C]`` with a mask ``[B, L]``."""
    made = pooled(tokens, mask, sentences.pooling)
    if sentences.dense is not None:
        made = sentences.dense(made)
    return F.normalize(made, dim=-1) if sentences.unit else made
