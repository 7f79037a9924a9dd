"""Multiple choice, judged in two ways: by what is said, and by which option is the likeliest.

By what is said, a question whose answers have letters (``"B. left lung"``) is right by the rule of M3D (Bai et al.,
2024, arXiv 2404.00578, ``eval_vqa.py``): the letter of the right option with a full stop occurs in the generated text.
A text that goes through all options is right by it, too, which is why the other way stands beside it. A question
without letters, such as one of yes and no, is right where the right option is the first of the options that the text
names.

By likelihood, a question is right where its option has the highest mean log-likelihood, see
:mod:`medgraft.benchmarks.objectives.choices`; of equal ones the first counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import numpy as np

from medgraft.benchmarks.metrics.texts.agreement import plain_words
from medgraft.benchmarks.metrics.texts.columns import GENERATED, REFERENCE, texts_of
from medgraft.benchmarks.metrics.texts.kinds import KIND, by_kind
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

CHOICES, ANSWER, OPTION_SCORES = "choices", "answer", "option_scores"
LETTERS = "ABCDEFGHIJ"


class Choices(Metric):
    """``choice_accuracy`` and ``choice_likelihood_accuracy`` of questions with options, overall and by kind, 0 to 1."""

    title = "multiple choice"
    numbers = ("choice_accuracy", "choice_likelihood_accuracy")
    over_samples = ("choice_accuracy", "choice_likelihood_accuracy")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; undefined where no sample has options, or none was scored."""
        answers, choices = texts_of(p.columns[ANSWER]), texts_of(p.columns[CHOICES])
        rows = zip(texts_of(p.columns[GENERATED]), texts_of(p.columns[REFERENCE]), choices, answers, strict=True)
        right = np.array([_right(*row) for row in rows], float)
        named = {"choice_accuracy": _share(right)}
        if OPTION_SCORES in p.columns:
            named["choice_likelihood_accuracy"] = _share(likeliest_right(p.columns[OPTION_SCORES], answers))
        if KIND not in p.columns:
            return named
        kinds = [kind if a else "" for kind, a in zip(texts_of(p.columns[KIND]), answers, strict=True)]
        each = by_kind(named, kinds)
        return named | {name: statistic for name, statistic in each.items() if not name.endswith("_of_")}


def as_said(options: Sequence[str], answer: str, reference: str) -> tuple[str, ...]:
    """Options as answers say them: with their letters where the right text has one.

    Example:
        >>> as_said(["left", "right"], "B", "B. right"), as_said(["Yes.", "No."], "B", "No.")
        (('A. left', 'B. right'), ('Yes.', 'No.'))
    """
    if not reference.startswith(f"{answer}. "):
        return tuple(options)
    return tuple(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))


def chosen_by_words(text: str, options: Sequence[str]) -> int:
    """Number of the option that a text names first; of two that begin at the same word the longer; -1 for none.

    Example:
        >>> chosen_by_words("No, there is none. Yes?", ["Yes.", "No."]), chosen_by_words("perhaps", ["Yes.", "No."])
        (1, -1)
    """
    words = plain_words(text)
    places: list[tuple[int, int, int]] = []
    for number, option in enumerate(options):
        wanted = plain_words(option)
        starts = [i for i in range(len(words)) if wanted and words[i : i + len(wanted)] == wanted]
        if starts:
            places.append((starts[0], -len(wanted), number))
    return min(places)[2] if places else -1


def likeliest_right(scores: Array, answers: Sequence[str]) -> Array:
    """Whether the likeliest option is the right one, ``float64 [n]``: 1, 0, or NaN where nothing was scored.

    Args:
        scores: Mean log-likelihoods ``[n, K]``, NaN where a sample has fewer options.
        answers: Letter of each right option, empty where there are none.
    """
    known = ~np.isnan(scores).all(axis=1) if scores.shape[1] else np.zeros(len(scores), bool)
    best = np.where(np.isnan(scores), -np.inf, scores).argmax(axis=1) if scores.shape[1] else np.zeros(len(scores), int)
    meant = np.array([LETTERS.find(answer) if answer else -1 for answer in answers])
    return np.where(known & (meant >= 0), (best == meant).astype(float), np.nan)


def _right(text: str, reference: str, choices: str, answer: str) -> float:
    """1 or 0, NaN for a sample without options."""
    if not answer:
        return float("nan")
    if reference.startswith(f"{answer}. "):
        return float(f"{answer}." in text)
    return float(chosen_by_words(text, json.loads(choices)) == LETTERS.find(answer))


def _share(right: Array) -> WeightedStatistic:
    """Weighted mean of what is known, undefined where nothing is."""
    known = ~np.isnan(right)
    values = np.where(known, right, 0.0)

    def share(weights: Array) -> Array:
        total = weights @ known.astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(total > 0, weights @ values / total, np.nan)

    return share


def misfit(p: Predictions) -> str:
    """What makes stored columns no questions with options, in words; empty if nothing does or there are none."""
    if ANSWER not in p.columns and OPTION_SCORES not in p.columns:
        return ""
    for name in (ANSWER, CHOICES):
        column = p.columns.get(name)
        if column is None or column.ndim != 2 or column.dtype.kind not in "ui":
            return f"it has no column {name!r} of texts"
    for answer, choices in zip(texts_of(p.columns[ANSWER]), texts_of(p.columns[CHOICES]), strict=True):
        if answer and (LETTERS.find(answer) < 0 or len(answer) > 1 or not _is_list_of_texts(choices)):
            return f"its column {ANSWER!r} has {answer[:20]!r}, which is no letter of options"
    scores = p.columns.get(OPTION_SCORES)
    if scores is not None and (scores.ndim != 2 or scores.dtype.kind != "f"):
        return f"its column {OPTION_SCORES!r} holds no log-likelihoods"
    return ""


def _is_list_of_texts(choices: str) -> bool:
    try:
        options = json.loads(choices)
    except ValueError:
        return False
    return isinstance(options, list) and all(isinstance(option, str) for option in options)
