"""Prompts with similar reports in front, as far as the context has room, and how likely a text's sentences were."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medgraft.benchmarks.texts.checking import sentences_of
from medgraft.benchmarks.texts.neighbours import BETWEEN, INTRODUCTION, with_reports
from medgraft.language_model import LanguageModel, Prompts


def lengths(model: LanguageModel, texts: Sequence[str]) -> list[int]:
    """Tokens of each text, with one for its end."""
    return model.answers(texts)[1].sum(dim=1).tolist() if texts else []


def retrieved(
    model: LanguageModel, prompts: Sequence[str], reports: Sequence[Sequence[str]], soft: int, answer: int
) -> list[str]:
    """Prompts behind the reports that were retrieved for them.

    Args:
        model: The language model.
        prompts: ``B`` questions.
        reports: Of each, nearest first; those that do not fit are left out, the farthest first.
        soft: Places that soft tokens take.
        answer: Places that an answer may take.
    """
    room = model.context - soft - answer
    made: list[str] = []
    for prompt, near in zip(prompts, reports, strict=True):
        own = lengths(model, [f"{INTRODUCTION}\n{prompt}"])[0] + 1 if near else 0  # and what begins a text
        tokens = lengths(model, [f"{BETWEEN}{' '.join(report.split())}" for report in near])
        made.append(with_reports(prompt, near, room, tokens, own) if near else prompt)
    return made


@torch.no_grad()
def sentence_likelihoods(
    model: LanguageModel, prompts: Prompts, ids: Sequence[Sequence[int]]
) -> list[dict[str, float]]:
    """Geometric mean of the probabilities of each sentence's tokens, from 0 to 1.

    Args:
        model: The language model, as it was when the texts were generated.
        prompts: ``B`` of them.
        ids: Tokens of the generated texts.

    Returns:
        Of each text sentence -> likelihood.
    """
    width = max([1, *map(len, ids)])
    tokens = torch.zeros(len(ids), width, dtype=torch.long)
    real = torch.zeros(len(ids), width, dtype=torch.bool)
    for i, row in enumerate(ids):
        tokens[i, : len(row)] = torch.tensor(list(row), dtype=torch.long)
        real[i, : len(row)] = True
    tokens, real = tokens.to(prompts.ids.device), real.to(prompts.ids.device)
    logits = model.logits(prompts, (tokens, real))[:, prompts.length - 1 : -1].float()
    chosen = logits.log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]
    return [_by_sentence(model, list(row), each[: len(row)]) for row, each in zip(ids, chosen, strict=True)]


def _by_sentence(model: LanguageModel, row: list[int], logarithms: Tensor) -> dict[str, float]:
    sentences, ends, text = [], [], model.text_of(row)
    place = 0
    for sentence in sentences_of(text):
        place = text.find(sentence, place) + len(sentence)
        sentences.append(sentence)
        ends.append(place)
    sums: dict[str, list[float]] = {sentence: [] for sentence in sentences}
    for k, logarithm in enumerate(logarithms.tolist(), 1):
        reached = len(model.text_of(row[:k]).rstrip())
        at = next((i for i, end in enumerate(ends) if reached <= end), None)
        if at is not None:
            sums[sentences[at]].append(logarithm)
    return {
        sentence: float(torch.tensor(each, dtype=torch.float64).mean().exp()) if each else 0.0
        for sentence, each in sums.items()
    }
