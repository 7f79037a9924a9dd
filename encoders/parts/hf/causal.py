"""A causal language model of transformers as a :class:`medgraft.language_model.LanguageModel`."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medgraft.encoder import Encoder, EncoderSpec
from medgraft.encoders.parts.hf.cache import growing_cache
from medgraft.encoders.parts.hf.storage import Spread, Storage, library_for, quantise
from medgraft.encoders.parts.hf.text import TextModel
from medgraft.encoders.parts.hub import fetching
from medgraft.errors import CheckpointError, DataError
from medgraft.language_model import (
    Decoding,
    Ending,
    Generated,
    LanguageModel,
    Prompts,
    as_options,
    check_room,
    laid_out,
)


class CausalLm(TextModel, LanguageModel):
    """The library's model, whose ``generate`` does the decoding.

    Args:
        spec: Facts, see :class:`TextModel`.
        network: The library's model with its last linear map.
        tokenizer: Hub id or local folder of the tokenizer; ``None`` where there is none.
    """

    def __init__(self, spec: EncoderSpec, network: Any, tokenizer: str | None) -> None:
        place = tokenizer
        super().__init__(spec, network.base_model, tokenizer)
        self.output: Any = network.get_output_embeddings()
        self._network = (network,)  # in a tuple: its modules are registered as model and output, once
        self._place = place
        self.spread: Spread | None = None
        self._words: Any = None
        config = network.config.get_text_config()
        self.context = int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", 2048))
        end = network.generation_config.eos_token_id
        self.end_ids: tuple[int, ...] = tuple(end) if isinstance(end, list) else () if end is None else (int(end),)
        parameters = inspect.signature(network.forward).parameters
        self._takes_positions = "position_ids" in parameters
        self._cache_name = "cache" if "cache" in parameters else "past_key_values"  # the library's name and earlier one

    def stored_as(self, storage: Storage) -> CausalLm:
        """Itself, with its weights stored in another way; once, before an adapter sees it.

        What the weights were says which model it is, and the way they are stored now is added to it.

        Raises:
            ConfigError: No installed library can do it, or the blocks cannot be found.
        """
        name = self.spec.name
        if storage.bits in (4, 8):
            library = library_for(name, storage.bits, storage.library)
            quantise(name, self, list(self.block_paths()), storage.bits, library)
            if self.spec.weights.startswith("pretrained:"):
                text = f"{self.spec.weights}|{storage.bits} bits by {library}"
                digest = hashlib.sha256(text.encode()).hexdigest()
                self.spec = self.spec.model_copy(update={"weights": f"pretrained:{digest}"})
        if storage.device_map is not None:
            self.spread = Spread(name, self.network, storage)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Encoder:
        """Moves or casts the model, unless it is spread: its parts then stay where they are."""
        return self if self.spread is not None else super()._apply(fn, recurse)

    @property
    def device(self) -> torch.device:
        """Device that the model begins to compute on."""
        return super().device if self.spread is None else self.spread.device

    @property
    def network(self) -> Any:
        """The library's model."""
        return self._network[0]

    @property
    def words(self) -> Any:
        """The library's tokenizer."""
        if self._words is None:
            from transformers import AutoTokenizer

            remedy = "put tokenizer.json beside the weights (@/folder), or name a folder as tokenizer="
            local = self._place is None or Path(self._place).exists()
            with fetching(self.spec.name, remedy, what="tokenizer", local=local):
                if self._place is None:
                    raise LookupError("a bare family has none of its own")
                self._words = AutoTokenizer.from_pretrained(self._place)
        return self._words

    def _ids(self, text: str, **options: Any) -> list[int]:
        """Token ids of a text, all of which the model knows."""
        ids: list[int] = self.words(text, **options)["input_ids"]
        known = self.network.get_input_embeddings().num_embeddings
        if ids and max(ids) >= known:
            raise CheckpointError(
                f"encoder {self.spec.name}: its tokenizer makes token {max(ids)} and the model knows {known} tokens, "
                "so they do not belong together; name the folder of the model's own as tokenizer="
            )
        return ids

    def embed(self, ids: Tensor) -> Tensor:
        """See :meth:`LanguageModel.embed`."""
        return self.network.get_input_embeddings()(ids)

    def prompts(self, texts: Sequence[str], soft: Tensor | None = None, soft_mask: Tensor | None = None) -> Prompts:
        """See :meth:`LanguageModel.prompts`."""
        rows = [self._ids(text) for text in texts]
        if soft is None and (empty := [i for i, row in enumerate(rows) if not row]):
            raise DataError(f"prompt {empty[0]} is empty; a language model needs something to go on from")
        begin = getattr(self.words, "bos_token_id", None)
        lead = int(begin is not None and all(row[:1] == [begin] for row in rows))
        width = max(map(len, rows), default=0)
        pad = self.pad_id
        ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], dtype=torch.long).reshape(-1, width)
        mask = (
            torch.tensor([[False] * (width - len(row)) + [True] * len(row) for row in rows]).reshape(-1, width).bool()
        )
        made = Prompts(ids.to(self.device), mask.to(self.device), soft, soft_mask, lead)
        check_room(self.spec.name, made, self.context)
        return made

    def answers(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """See :meth:`LanguageModel.answers`."""
        end = list(self.end_ids[:1])
        rows = [self._ids(text, add_special_tokens=False) + end for text in texts]
        width = max(map(len, rows), default=0)
        ids = torch.full((len(rows), width), self.pad_id)
        real = torch.zeros(len(rows), width, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
            real[i, : len(row)] = True
        return ids.to(self.device), real.to(self.device)

    def text_of(self, ids: Sequence[int]) -> str:
        """See :meth:`LanguageModel.text_of`."""
        return self.words.decode(list(ids), skip_special_tokens=True)

    def logits(self, prompts: Prompts, answers: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """See :meth:`LanguageModel.logits`."""
        check_room(self.spec.name, prompts, self.context, 0 if answers is None else answers[0].shape[1])
        x, mask = laid_out(self, prompts, answers)
        given: dict[str, Any] = {"inputs_embeds": x, "attention_mask": mask.long(), "use_cache": False}
        if self._takes_positions:
            given["position_ids"] = (mask.long().cumsum(dim=1) - 1).clamp(min=0)
        return self.network(**given).logits

    @torch.no_grad()
    def generate(self, prompts: Prompts, decoding: Decoding | None = None) -> Generated:
        """See :meth:`LanguageModel.generate`."""
        how = as_options(decoding)
        check_room(self.spec.name, prompts, self.context)
        if not prompts.length:
            raise DataError("prompt 0 is empty; a language model needs something to go on from")
        given: dict[str, Any] = {"attention_mask": prompts.mask.long()}
        if prompts.soft is None:
            given["input_ids"] = prompts.ids
        else:
            x, mask = laid_out(self, prompts, None)
            given = {"inputs_embeds": x, "attention_mask": mask.long()}
        room = self.context - int(given["attention_mask"].sum(dim=1).max())
        start = prompts.ids.shape[1] if prompts.soft is None else 0  # of vectors, the library returns what is new alone
        settings = self._settings(how, min(how.limit, room), start)
        if (cache := growing_cache(self.network)) is not None:
            given[self._cache_name] = cache
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(how.seed)
            tokens = self.network.generate(**given, **settings)
        return self._read(tokens[:, start:].tolist(), how)

    def _settings(self, how: Decoding, limit: int, start: int) -> dict[str, Any]:
        """What the library is asked for; nothing of what a folder's ``generation_config.json`` prefers.

        Args:
            how: To decode.
            limit: New tokens at most.
            start: Column of the first new token.
        """
        from transformers import GenerationConfig, StoppingCriteriaList

        drawn = how.temperature > 0
        settings = GenerationConfig(
            max_new_tokens=limit,
            num_beams=how.beams,
            do_sample=drawn,
            eos_token_id=list(self.end_ids) or None,
            pad_token_id=self.pad_id,
        )
        if drawn:
            settings.update(temperature=how.temperature, top_p=how.top_p, top_k=how.top_k)
        ends = [partial(_stopped, self.words, how.stop, start)] if how.stop else []
        return {"generation_config": settings, "stopping_criteria": StoppingCriteriaList(ends)}

    def _read(self, rows: list[list[int]], how: Decoding) -> Generated:
        texts: list[str] = []
        kept: list[tuple[int, ...]] = []
        endings: list[Ending] = []
        for row in rows:
            end = next((i for i, token in enumerate(row) if token in self.end_ids), None)
            ids = row if end is None else row[: end + 1]
            text = self.text_of(ids) if self._place is not None else ""
            stop = min((text.find(each) for each in how.stop if each in text), default=-1)
            endings.append("stop" if stop >= 0 else "limit" if end is None else "end")
            texts.append(text[:stop] if stop >= 0 else text)
            kept.append(tuple(ids))
        return Generated(tuple(texts), tuple(kept), tuple(endings))


def _stopped(words: Any, stop: tuple[str, ...], start: int, ids: Tensor, scores: Any, **_: Any) -> Tensor:
    """Which rows ``[B]`` have a stop string among the last of their new tokens.

    The library's own ``stop_strings`` fails on tokenizers of whole words.
    """
    tail = ids[:, max(start, ids.shape[1] - 4 * max(map(len, stop)) - 8) :]
    texts = [words.decode(row, skip_special_tokens=True) for row in tail.tolist()]
    return torch.tensor([any(each in text for each in stop) for text in texts], device=ids.device)
