"""What the corpus is made of, and how a language model's prompts and answers lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

Item = TypeVar("Item")


@dataclass(frozen=True)
class Document:
    """One text: turns of a prompt and its answer.

    Only answers are learnt from. A text without a question is an answer to the empty prompt.

    Attributes:
        part: Part of the corpus, for the table of perplexities.
        turns: Prompts and answers, in order; what the first prompt tells holds for the later ones.
    """

    part: str
    turns: tuple[tuple[str, str], ...]


def pick(rng: np.random.Generator, items: Sequence[Item]) -> Item:
    """One of some things, all equally likely."""
    return items[int(rng.integers(len(items)))]


def chance(rng: np.random.Generator, share: float) -> bool:
    """True with a probability in 0..1."""
    return bool(rng.random() < share)


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def listed(items: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(items[:-1]), items[-1]]) if len(items) > 1 else "".join(items)


def shuffled(rng: np.random.Generator, items: Sequence[Item]) -> list[Item]:
    """The things in another order."""
    return [items[i] for i in rng.permutation(len(items))]
