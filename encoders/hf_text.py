"""Text models of transformers as text encoders: the BERT kind and the LLaMA kind."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgraft.encoder import EncoderSpec
from medgraft.encoders.hf_towers import find_layers, split_layouts
from medgraft.encoders.loading import LazyTokenizer, LibraryText
from medgraft.errors import CheckpointError
from medgraft.features import Features

LENGTH = 512
"""Tokens of a text at most, as in M3D (Bai et al., 2024, arXiv 2404.00578); fewer where the model has fewer places."""


def spec_of_text(name: str, source: str | Path, config: Any, pooling: str) -> EncoderSpec:
    """Facts of a text model.

    Args:
        name: Full name of the encoder.
        source: Where its weights come from.
        config: The library's configuration.
        pooling: ``cls`` or ``last``.
    """
    places = int(config.max_position_embeddings)
    if config.model_type == "roberta":
        places -= int(config.pad_token_id) + 1  # its positions start behind the id of the padding
    return EncoderSpec(
        name=name,
        modality="text",
        input_size=(min(places, LENGTH),),
        dim=config.hidden_size,
        heads=config.num_attention_heads,
        pooling="cls" if pooling == "cls" else "last token",
        licence="Apache-2.0" if source == "random" else "see the model card",
        weights="random",
    )


class TextModel(LibraryText):
    """A text model without a head; ``pooled`` is its first token, or the last real one of a model that reads forwards.

    Half-precision weights stay as they are stored, the features are float32.

    Args:
        spec: Facts.
        model: The library's model.
        tokenizer: Hub id or local folder of the tokenizer; ``None`` where there is none.
    """

    def __init__(self, spec: EncoderSpec, model: Any, tokenizer: str | None) -> None:
        padding = model.config.pad_token_id
        pad_id = 0 if padding is None or padding < 0 else int(padding)
        length = spec.input_size[0]
        super().__init__(spec, LazyTokenizer(spec.name, partial(read_tokenizer, tokenizer, length, pad_id)), pad_id)
        self.has_cls = spec.pooling == "cls"
        self.model: Any = model
        layers = find_layers(model)
        self.set_blocks(f"model.{layers}")
        self.attention = split_layouts(model, layers, spec.heads)

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of token ids ``[B, L]``, padding masked."""
        mask = self.checked(x) != self.pad_id
        mask[:, 0] = True  # a text of padding alone still has a place to read
        tokens = self.model(input_ids=x, attention_mask=mask.long()).last_hidden_state.float()
        if self.has_cls:
            return Features(tokens, tokens[:, 0], 1, (tokens.shape[1] - 1,), mask=mask)
        places = torch.arange(x.shape[1], device=x.device).expand_as(x)
        last = places.masked_fill(~mask, 0).amax(dim=1)
        pooled = tokens[torch.arange(len(x), device=x.device), last]
        return Features(tokens, pooled, 0, (tokens.shape[1],), mask=mask)


def read_tokenizer(place: str | None, length: int, pad_id: int) -> Any:
    """A function from a text to token ids ``int64 [L]``, cut or padded on the right.

    Raises:
        CheckpointError: There is no tokenizer.
    """
    from transformers import AutoTokenizer

    if place is None:
        raise CheckpointError("a bare family has none of its own")
    tokenizer = AutoTokenizer.from_pretrained(place)

    def tokenize(text: str) -> Tensor:
        ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
        return torch.tensor([*ids, *[pad_id] * (length - len(ids))])

    return tokenize
