"""Frozen language models: text continued, perhaps behind soft tokens that an adapter made of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from medgraft.encoder import TextEncoder
from medgraft.errors import ConfigError, DataError
from medgraft.options import Options, checked

Ending = Literal["end", "stop", "limit"]
"""How a generated text ended: by the model's own end token, by a stop string, or by the limit."""


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts, padded on the left, so that each row ends where its answer begins.

    Attributes:
        ids: Token ids, ``int64 [B, L]``.
        mask: True for real tokens, ``bool [B, L]``.
        soft: Vectors that take the place of tokens, ``[B, S, C]``; ``None`` for none.
        soft_mask: True for those that are real, ``bool [B, S]``; ``None`` for all.
        lead: Tokens of each text in front of the soft ones: 1 where texts begin with a token of their own, else 0.
    """

    ids: Tensor
    mask: Tensor
    soft: Tensor | None = None
    soft_mask: Tensor | None = None
    lead: int = 0

    def __post_init__(self) -> None:
        if self.ids.shape != self.mask.shape or self.ids.ndim != 2:
            raise ConfigError(f"ids {list(self.ids.shape)} and mask {list(self.mask.shape)} must both be [B, L]")
        if self.soft is not None and (self.soft.ndim != 3 or len(self.soft) != len(self.ids)):
            raise ConfigError(f"soft tokens must be [{len(self.ids)}, S, C], got {list(self.soft.shape)}")
        if self.soft_mask is not None and (self.soft is None or self.soft_mask.shape != self.soft.shape[:2]):
            raise ConfigError("soft_mask must be [B, S] of the soft tokens [B, S, C]")

    @property
    def length(self) -> int:
        """Places that a row takes, ``L + S``."""
        return self.ids.shape[1] + (0 if self.soft is None else self.soft.shape[1])


class Decoding(Options):
    """How texts are generated.

    Attributes:
        limit: New tokens at most, however the model goes on.
        beams: Beams of a search; 1 takes the likeliest token each time.
        temperature: 0 for no chance; else tokens are drawn, the more evenly the higher it is.
        top_p: Tokens are drawn from the fewest whose probabilities add up to this.
        top_k: Tokens are drawn from so many; 0 for all.
        seed: Of the draws.
        stop: Texts that end the generation; they are left out of what is returned, with all that follows.
    """

    limit: int = Field(128, ge=1, le=100_000)
    beams: int = Field(1, ge=1, le=64)
    temperature: float = Field(0.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generated:
    """What was generated for a batch.

    Attributes:
        texts: A text for each prompt.
        ids: Their tokens, those of the end and of stop strings among them.
        endings: How each ended.
    """

    texts: tuple[str, ...]
    ids: tuple[tuple[int, ...], ...]
    endings: tuple[Ending, ...]


class LanguageModel(TextEncoder):
    """A frozen model that continues texts; as an encoder its features are the tokens before the last linear map.

    Nothing else of the harness knows how texts are decoded. Adapters attach to its sites as to any encoder's; what they
    make of an image gets in as soft tokens (:class:`Prompts`) or through the blocks.

    Attributes:
        context: Places for tokens, those of the answer among them.
    """

    context: int

    def embed(self, ids: Tensor) -> Tensor:
        """Vectors of token ids, ``int64 [B, L] -> [B, L, C]``."""
        raise TypeError(f"{type(self).__name__} must implement embed()")

    def prompts(self, texts: Sequence[str], soft: Tensor | None = None, soft_mask: Tensor | None = None) -> Prompts:
        """Texts as a batch of prompts.

        Args:
            texts: ``B`` of them.
            soft: Vectors in the place of tokens, ``[B, S, C]``, see :class:`Prompts`.
            soft_mask: True for the real ones, ``[B, S]``.

        Raises:
            DataError: A text has no token, or more than the context has places for beside the soft tokens.
        """
        raise TypeError(f"{type(self).__name__} must implement prompts()")

    def answers(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts as what follows a prompt, padded on the right, each with the end token.

        Returns:
            Token ids ``int64 [B, A]``, and which of them are real, ``bool [B, A]``.
        """
        raise TypeError(f"{type(self).__name__} must implement answers()")

    def text_of(self, ids: Sequence[int]) -> str:
        """The text that some tokens are, without special ones."""
        raise TypeError(f"{type(self).__name__} must implement text_of()")

    def logits(self, prompts: Prompts, answers: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Logits of the next token at each place, ``[B, L + S + A, V]``, of the answers' tokens as they are given."""
        raise TypeError(f"{type(self).__name__} must implement logits()")

    def generate(self, prompts: Prompts, decoding: Decoding | None = None) -> Generated:
        """Continues prompts.

        Raises:
            DataError: The context has no place for a single new token.
        """
        raise TypeError(f"{type(self).__name__} must implement generate()")

    def answer_loss(self, prompts: Prompts, answers: tuple[Tensor, Tensor]) -> Tensor:
        """Mean cross-entropy of the answers' tokens, each answer's own mean first, ``[B]``.

        How a batch is padded changes nothing: tokens of prompts, soft tokens and padding do not count.
        """
        ids, real = answers
        logits = self.logits(prompts, answers)[:, prompts.length - 1 : -1].float()
        losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids, reduction="none")
        return (losses * real).sum(dim=1) / real.sum(dim=1)


def laid_out(model: LanguageModel, prompts: Prompts, answers: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Tensor]:
    """Vectors and mask of prompts with soft tokens, and of answers behind them.

    Each row is padding, ``lead`` tokens, the soft tokens, the other tokens, the answer.

    Returns:
        ``[B, L + S + A, C]`` and ``bool [B, L + S + A]``.
    """
    x, mask = model.embed(prompts.ids), prompts.mask
    if prompts.soft is not None:
        soft = prompts.soft.to(x.dtype)
        if soft.shape[-1] != x.shape[-1]:
            raise ConfigError(
                f"soft tokens must be vectors of {x.shape[-1]} numbers, as the words are, got {soft.shape[-1]}"
            )
        real = prompts.soft_mask
        real = torch.ones(soft.shape[:2], dtype=torch.bool, device=mask.device) if real is None else real
        x, mask = _between(x, mask, soft, real, prompts.lead)
    if answers is not None:
        x = torch.cat([x, model.embed(answers[0])], dim=1)
        mask = torch.cat([mask, answers[1]], dim=1)
    return x, mask


def _between(x: Tensor, mask: Tensor, soft: Tensor, real: Tensor, lead: int) -> tuple[Tensor, Tensor]:
    """Soft tokens behind the first ``lead`` real tokens of each row; padding of both kinds goes to the front."""
    order = mask.cumsum(dim=1)
    # A place in the row for everything: padding, what leads, soft tokens, the rest.
    rank_of_token = torch.where(mask, torch.where(order <= lead, 1, 3), 0)
    rank_of_soft = torch.where(real, 2, 0)
    ranks = torch.cat([rank_of_token, rank_of_soft], dim=1)
    places = torch.arange(ranks.shape[1], device=mask.device).expand(len(mask), -1)
    sorted_places = torch.argsort(ranks * ranks.shape[1] + places, dim=1)
    joined, both = torch.cat([x, soft], dim=1), torch.cat([mask, real], dim=1)
    index = sorted_places[..., None].expand(-1, -1, x.shape[-1])
    return joined.gather(1, index), both.gather(1, sorted_places)


def check_room(name: str, prompts: Prompts, context: int, new: int = 1) -> None:
    """Raises :class:`DataError` where prompts and ``new`` tokens are more than a model has places for."""
    used = prompts.mask.sum(dim=1)
    if prompts.soft is not None:
        used = used + (prompts.soft.shape[1] if prompts.soft_mask is None else prompts.soft_mask.sum(dim=1))
    longest = int(used.max()) if len(used) else 0
    if longest + new > context:
        raise DataError(
            f"{name} has places for {context} tokens; a prompt takes {longest} and {new} are to follow: shorten it"
        )


def as_options(decoding: Decoding | dict[str, Any] | None) -> Decoding:
    """How to decode, from options or from their values; greedy by default."""
    if isinstance(decoding, Decoding):
        return decoding
    return checked(Decoding, decoding or {}, "how to decode")
