"""Texts to repeat and tables to look things up in: an answer stands in the prompt, and nothing else tells it.

What a model has to learn for these is to find what was said before and to say what stood behind it (induction, Olsson
et al., 2022, arXiv 2209.11895), which reports alone teach late: most of their words can be guessed without the prompt.
It learns so within some hundred steps where the texts are of one word at first, then of two, and so on: of one word all
attention is right, and each next length asks for a little less of it. From long texts alone it had learnt nothing of
the kind in as many steps.
"""

from __future__ import annotations

import numpy as np

from medgraft.benchmarks.pretrain.corpus.documents import Document, capital, pick, shuffled
from medgraft.benchmarks.pretrain.corpus.domains import BRAIN, CT, FILM

PART = "look-ups"

_STARTS = ("b", "br", "d", "dr", "f", "g", "gl", "k", "l", "m", "n", "p", "pl", "r", "s", "st", "t", "tr", "v", "z")
_ENDS = ("a", "an", "e", "el", "i", "in", "o", "or", "u", "um", "ai", "as", "ek", "is", "ot")
_KNOWN = tuple(dict.fromkeys(kind.name for domain in (FILM, CT, BRAIN) for kind in domain.kinds))
_VALUES = (
    *("left", "right", "both sides", "mild", "moderate", "severe", "small", "large", "none", "normal", "yes", "no"),
    *("upper", "lower", "middle", "red", "blue", "old", "new", "first", "last", "open", "closed", "clear"),
)


def invented(rng: np.random.Generator) -> str:
    """A word that no language has."""
    return "".join(pick(rng, _STARTS) + pick(rng, _ENDS) for _ in range(int(rng.integers(1, 4))))


LONGEST = 12
"""Words of a text to repeat at most, and one more than there are rows in a table."""


def lookup(rng: np.random.Generator, longest: int = LONGEST) -> Document:
    """A text to repeat, a table with questions on its rows, or a row of words and which follows which.

    Args:
        rng: Of the text.
        longest: Words of a text at most; below 4 there are only texts to repeat.
    """
    form = int(rng.integers(4)) if longest > 3 else 0
    if form == 0:
        words = " ".join(_word(rng) for _ in range(int(rng.integers(1, longest + 1))))
        asked = pick(rng, ("Repeat: {}", "Say again: {}", "Copy: {}", "{}.")).format(words)
        return Document(PART, ((asked, words), (" Again:", words)))
    if form == 1:
        words = list(dict.fromkeys(_word(rng) for _ in range(int(rng.integers(4, longest + 1)))))
        turns = [(f"What comes after {words[i]}?", words[i + 1]) for i in shuffled(rng, range(len(words) - 1))[:3]]
        return Document(PART, _behind(" ".join(words) + ".", turns or [("What is said?", words[0])]))
    keys = list(dict.fromkeys(_word(rng) for _ in range(int(rng.integers(2, min(longest, 8))))))
    rows = {key: _value(rng) for key in keys}
    told = pick(rng, ("{k}: {v}", "{v} {k}", "the {k} is {v}", "{k}, {v}"))
    table = "; ".join(told.format(k=key, v=value) for key, value in rows.items())
    asked = pick(rng, ("What is {k}?", "{k}?", "And {k}?", "Which is the {k}?"))
    turns = [(asked.format(k=key), capital(rows[key]) if form == 2 else rows[key]) for key in shuffled(rng, keys)[:4]]
    return Document(PART, _behind(capital(table) + ".", turns))


def _behind(told: str, turns: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    (first, answer), *later = turns
    return ((f"{told} {first}", answer), *((f" {question}", right) for question, right in later))


def _word(rng: np.random.Generator) -> str:
    return pick(rng, _KNOWN) if rng.random() < 0.3 else invented(rng)


def _value(rng: np.random.Generator) -> str:
    form = int(rng.integers(3))
    if form == 0:
        return f"{int(rng.integers(2, 100))}{pick(rng, ('', ' mm', ' ml'))}"
    return pick(rng, _VALUES) if form == 1 else invented(rng)
