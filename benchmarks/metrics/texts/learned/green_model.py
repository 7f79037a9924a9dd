"""The language model that GREEN asks, from a local folder: any causal one of transformers, with its published prompt.

The folder holds model and tokenizer, and ``prompt.txt``: the question with ``{reference}`` and ``{candidate}`` where
the reports go, as the authors' function ``make_prompt`` gives it. Their package ``green-score`` pins other versions of
torch and transformers than this one needs, so the prompt is taken from it once and not at each run. Each report is cut
at 300 words, and prompt and answer together have 2,048 tokens, as there. The published weights were not at hand.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.metrics.texts.learned.green import KINDS, counts_of
from medgraft.errors import DataError, MedgraftError
from medgraft.language_model import Decoding, LanguageModel
from medgraft.metric import Array
from medgraft.registry import build_encoder

PROMPT = "prompt.txt"
WORDS, TOKENS, BATCH = 300, 2048, 8
_PLACES = re.compile(r"\{(reference|candidate)\}")


def green_counts(folder: Path, texts: Sequence[str], references: Sequence[str]) -> Array:
    """What the model counts in each pair, ``float64 [n, 7]``, see :data:`~.green.COLUMN`; nan where it is unreadable.

    A pair whose prompt has no room for an answer is unreadable, too.

    Args:
        folder: Of model, tokenizer and prompt.
        texts: Generated ones.
        references: The right ones, as many.

    Raises:
        DataError: The prompt is missing or lacks a place, or the model cannot be opened.
    """
    import torch

    template = _template(folder)
    model = _opened(folder).to("cuda" if torch.cuda.is_available() else "cpu")
    pairs = list(dict.fromkeys(zip(texts, references, strict=True)))
    end = _end(folder)
    asked = [_asked(template, text, reference, end) for text, reference in pairs]
    answers = _answers(model, asked)
    unreadable = (np.nan,) * (1 + len(KINDS))
    found = {
        pair: unreadable if answer is None else counts_of(answer) or unreadable
        for pair, answer in zip(pairs, answers, strict=True)
    }
    return np.array([found[pair] for pair in zip(texts, references, strict=True)], np.float64).reshape(-1, 7)


def _template(folder: Path) -> str:
    if not (folder / PROMPT).is_file():
        raise DataError(
            f"the folder of GREEN has no {PROMPT}; write there what make_prompt('{{reference}}', '{{candidate}}') of "
            "green-score gives"
        )
    template = (folder / PROMPT).read_text(encoding="utf-8")
    if sorted(_PLACES.findall(template)) != ["candidate", "reference"]:
        raise DataError(f"{PROMPT} of GREEN must have {{reference}} and {{candidate}}, each once")
    return template


def _asked(template: str, text: str, reference: str, end: str) -> str:
    """A pair in the published prompt and turns: the user's, an empty one of the assistant, and its next one begun."""
    reports = {name: " ".join(each.split()[:WORDS]) for name, each in (("reference", reference), ("candidate", text))}
    question = _PLACES.sub(lambda place: reports[place[1]], template)
    return f"<|user|>\n{question}{end}\n<|assistant|>\n{end}\n<|assistant|>\n"


def _end(folder: Path) -> str:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return tokenizer.eos_token or ""


def _opened(folder: Path) -> LanguageModel:
    try:
        family = json.loads((folder / "config.json").read_text(encoding="utf-8"))["model_type"]
        model = build_encoder(f"causal_lm:{family}@{folder}")
    except (MedgraftError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the language model of GREEN cannot be opened: {error}") from error
    assert isinstance(model, LanguageModel)
    return model


def _answers(model: LanguageModel, asked: Sequence[str]) -> list[str | None]:
    """The model's answers, greedy, in the order of the prompts; ``None`` where a prompt leaves no room for one.

    One that does not end is cut where the longest prompt of its batch has no more room.
    """
    lengths = [_length(model, text) for text in asked]
    fitting = sorted((i for i, length in enumerate(lengths) if length < TOKENS), key=lambda i: lengths[i])
    answers: list[str | None] = [None] * len(asked)
    for start in range(0, len(fitting), BATCH):
        batch = fitting[start : start + BATCH]
        decoding = Decoding.model_validate({"limit": TOKENS - lengths[batch[-1]]})
        made = model.generate(model.prompts([asked[i] for i in batch]), decoding)
        for i, text in zip(batch, made.texts, strict=True):
            answers[i] = text
    return answers


def _length(model: LanguageModel, text: str) -> int:
    """Tokens of a prompt, :data:`TOKENS` where the model has no room for an answer."""
    try:
        length = model.prompts([text]).length
    except DataError:
        return TOKENS
    return length if length < model.context else TOKENS
