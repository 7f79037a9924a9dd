"""Text models of transformers as text encoders: those that read both ways, those that read forwards, and encoders."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import EncoderSpec
from medgraft.encoders.parts.hf.families import Family
from medgraft.encoders.parts.hf.layers import (
    find_attention,
    find_stack,
    heads_of,
    plain_linears,
    rotation_noted,
    with_scores,
)
from medgraft.encoders.parts.hf.sentences import Sentences, vector
from medgraft.encoders.parts.loading import LazyTokenizer, LibraryText, reason
from medgraft.errors import IncompatibleError, MedgraftError
from medgraft.features import Features

LENGTH = 512
"""Tokens of a text at most, as in M3D (Bai et al., 2024, arXiv 2404.00578); fewer where the model has fewer places."""
POOLING = {"cls": "cls", "last": "last token", "mean": "mean"}
ANY_LENGTH = frozenset(
    {
        *("albert", "bert", "bloom", "camembert", "deberta", "deberta-v2", "distilbert", "electra", "gemma", "gemma2"),
        *("gpt2", "gpt_neox", "llama", "mistral", "modernbert", "mpnet", "phi3", "qwen2", "qwen3", "roberta", "t5"),
        "xlm-roberta",
    }
)
"""Architectures (``model_type``) of which a test shows that padding behind a text changes nothing in front of it.

Others get their whole context: ConvBERT's convolutions reach into padding, Nystromformer's landmarks are means of it.
"""
BY_LENGTH = frozenset({"dynamic", "longrope"})
"""Forms of rotary embeddings whose angles depend on the length of the batch."""


def reads_any_length(config: Any) -> bool:
    """Whether a text model gives the same for a text whatever padding is behind it, by its configuration."""
    config = config.get_text_config()
    scaling: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return config.model_type in ANY_LENGTH and not BY_LENGTH & set(re.findall(r"\w+", str(scaling)))


def reads_forwards(family: Family) -> bool:
    """Whether a family of text models is trained to continue texts, not to fill in words."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as BOTH_WAYS

    return family.text == "last" or (family.text == "auto" and family.key not in BOTH_WAYS)


def spec_of_text(name: str, source: str | Path, config: Any, pooling: str) -> EncoderSpec:
    """Facts of a text model.

    Args:
        name: Full name of the encoder.
        source: Where its weights come from.
        config: The library's configuration.
        pooling: ``cls``, ``last``, or ``auto`` for what :class:`TextModel` finds.
    """
    config = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
    places = next(
        (value for each in names if isinstance(value := getattr(config, each, None), int) and value > 0), LENGTH
    )
    if config.model_type == "roberta":
        places -= int(config.pad_token_id) + 1  # its positions start behind the id of the padding
    return EncoderSpec(
        name=name,
        modality="text",
        input_size=(min(places, LENGTH),),
        dim=getattr(config, "hidden_size", 1),
        heads=heads_of(config),
        pooling=POOLING.get(pooling, pooling),
        licence="Apache-2.0" if source == "random" else "see the model card",
        weights="random",
    )


class TextModel(LibraryText):
    """A text model without a head, run as the library runs it.

    ``pooled`` is the first token of a model trained to fill in words, the last real one of a model that reads forwards,
    and the mean over the text of any other. Half-precision weights stay as they are stored, the features are float32.

    Args:
        spec: Facts; ``dim``, ``heads``, ``input_size`` and, for ``auto``, ``pooling`` are set to what is found.
        model: The library's model; of an encoder and decoder, the encoder is taken.
        tokenizer: Hub id or local folder of the tokenizer; ``None`` where there is none.
        sentences: How a folder of sentence-transformers makes vectors; ``None`` for what the model's kind does.

    Raises:
        IncompatibleError: It does not run on token ids alone, or its tokens cannot be told.
    """

    rotation: Any = None

    def __init__(
        self, spec: EncoderSpec, model: Any, tokenizer: str | None, sentences: Sentences | None = None
    ) -> None:
        if getattr(model.config, "is_encoder_decoder", False) and hasattr(model, "get_encoder"):
            model = model.get_encoder()
        plain_linears(model)
        config = model.config.get_text_config()
        self_pad, stated = _padding(config)
        longest = min(spec.input_size[0], sentences.length or LENGTH) if sentences else spec.input_size[0]
        spec = spec.model_copy(update={"input_size": (_places(model, longest),)})
        remote = tokenizer is not None and not Path(tokenizer).exists()
        read = partial(read_tokenizer, tokenizer, spec.input_size[0], self_pad)
        words = LazyTokenizer(spec.name, read, remote=remote)
        super().__init__(spec, words, self_pad)
        self.pads_inside = stated
        self.model: Any = model
        self.sentences = sentences
        self.dense = (
            None if sentences is None else sentences.dense
        )  # a part of the encoder, frozen and digested with it
        self.any_length = reads_any_length(model.config)
        self.eval()
        ids = torch.randint(2, min(config.vocab_size, 1000), (2, min(8, spec.input_size[0])), generator=_generator())
        try:
            self._find(ids)
        except MedgraftError:
            raise
        except Exception as error:  # each architecture asks for inputs of its own
            raise IncompatibleError(
                f"encoder {spec.name}: {type(model).__name__} does not run on token ids and their mask alone "
                f"({reason(error)})"
            ) from error

    @torch.no_grad()
    def _find(self, ids: Tensor) -> None:
        """Blocks, width, pooling and attention, from runs on a few tokens."""
        run = partial(self._tokens, ids, torch.ones_like(ids))
        tokens = run()
        stack = find_stack(self.model, run)
        self._paths = tuple(f"model.{path}" for path in stack.paths)
        pooling = self.spec.pooling if self.spec.pooling != "auto" else POOLING[self._pooling(ids, tokens)]
        self.has_cls = pooling == "cls"
        if self.sentences is not None:
            pooling = self.sentences.told
        heads = heads_of(self.model.config.get_text_config())
        layouts = find_attention(self, list(self._paths), heads, run)
        changes = {"dim": tokens.shape[-1], "heads": heads if layouts else 0, "pooling": pooling}
        self.spec = self.spec.model_copy(update=changes)
        if layouts and self.has_cls:
            whole = torch.full((len(ids), self.spec.input_size[0]), self.pad_id)
            whole[:, : ids.shape[1]] = ids
            layouts = with_scores(self, layouts, whole)
        self.attention = layouts

    def _pooling(self, ids: Tensor, tokens: Tensor) -> str:
        """``last`` where another last token leaves the first ones alone; ``cls`` where masks were filled in."""
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as FILLED

        other = ids.clone()
        other[:, -1] = torch.where(ids[:, -1] == ids[:, 0], ids[:, 1], ids[:, 0])
        moved = (self._tokens(other, torch.ones_like(ids)) - tokens)[:, :-1].abs().max()
        if moved <= 1e-6 * tokens.abs().max():
            return "last"
        kind = self.model.config.model_type
        return "cls" if kind in FILLED and not getattr(self.model.config, "is_encoder_decoder", False) else "mean"

    def _tokens(self, ids: Tensor, mask: Tensor) -> Tensor:
        output = self.model(input_ids=ids, attention_mask=mask.long(), return_dict=True)
        tokens = getattr(output, "last_hidden_state", None)
        if not isinstance(tokens, Tensor) or tokens.shape[:2] != ids.shape:
            raise IncompatibleError(f"encoder {self.spec.name}: {type(self.model).__name__} gives no token per id")
        return tokens.float()

    def encode(self, x: Tensor, *, start: int = 0) -> Features:
        """Features of token ids ``[B, L]``, padding masked."""
        if self.attention and self.attention[-1].transform is not None:
            with rotation_noted(self):
                return self._features(x)
        return self._features(x)

    def _features(self, x: Tensor) -> Features:
        mask = self.real_tokens(self.checked(x))
        tokens = self._tokens(x, mask)
        if self.sentences is not None:
            prefix = 1 if self.has_cls else 0
            return Features(
                tokens, vector(tokens, mask, self.sentences), prefix, (tokens.shape[1] - prefix,), mask=mask
            )
        if self.has_cls:
            return Features(tokens, tokens[:, 0], 1, (tokens.shape[1] - 1,), mask=mask)
        if self.spec.pooling == "mean":
            weight = mask[..., None].to(tokens.dtype)
            return Features(tokens, (tokens * weight).sum(1) / weight.sum(1), 0, (tokens.shape[1],), mask=mask)
        places = torch.arange(x.shape[1], device=x.device).expand_as(x)
        last = places.masked_fill(~mask, 0).amax(dim=1)
        pooled = tokens[torch.arange(x.shape[0], device=x.device), last]
        return Features(tokens, pooled, 0, (tokens.shape[1],), mask=mask)

    def real_tokens(self, ids: Tensor) -> Tensor:
        """``[B, L]``, true for the tokens of the text; its first place is one in a text of padding alone too."""
        mask = ids != self.pad_id
        if not self.pads_inside:  # the id that fills up is a word elsewhere
            mask = mask.flip(1).cumsum(1).flip(1) > 0
        mask[:, 0] = True
        return mask


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _padding(config: Any) -> tuple[int, bool]:
    """Id that fills up short texts, and whether the configuration names it as such."""
    padding = getattr(config, "pad_token_id", None)
    if padding is not None and padding >= 0:
        return int(padding), True
    end = getattr(config, "eos_token_id", None)
    end = end[0] if isinstance(end, list | tuple) and end else end
    return (int(end) if isinstance(end, int) and 0 <= end < config.vocab_size else 0), False


def _places(model: Any, length: int) -> int:
    """Tokens that a model has places for: of a table of positions whose first ones are padding, those behind them."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            offset = 0 if module.padding_idx is None else module.padding_idx + 1
            return min(length, module.num_embeddings - offset)
    return length


def read_tokenizer(place: str | None, length: int, pad_id: int) -> Any:
    """A function from a text to token ids ``int64 [L]``, cut or padded on the right.

    Raises:
        LookupError: There is no tokenizer.
    """
    from transformers import AutoTokenizer

    if place is None:
        raise LookupError("a bare family has none of its own")
    tokenizer = AutoTokenizer.from_pretrained(place)

    def tokenize(text: str) -> Tensor:
        ids = tokenizer(text, truncation=True, max_length=length)["input_ids"]
        return torch.tensor([*ids, *[pad_id] * (length - len(ids))])

    return tokenize
