"""Options of multiple-choice questions, and how likely a language model finds each of them.

The score of an option is the mean log-likelihood of its tokens behind the prompt, the end token among them: the mean
and not the sum, so that a long option is not at a disadvantage for its length. An option is scored as it would be said:
``"B. left lung"`` where answers are said with their letter, ``"Yes."`` where they are not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from medgraft.benchmarks.metrics.texts.choices import ANSWER, CHOICES, as_said
from medgraft.benchmarks.metrics.texts.columns import REFERENCE
from medgraft.errors import DataError
from medgraft.language_model import LanguageModel, Prompts
from medgraft.world import World

Array = np.ndarray[Any, Any]


class Options:
    """The options of each sample, and the scores of those that were predicted.

    Args:
        columns: Those of the task's data; without ``choices`` and ``answer`` no sample has options.

    Raises:
        DataError: Options are no list of texts, or the answer is none of their letters.
    """

    def __init__(self, columns: Mapping[str, Array]) -> None:
        self.said: list[tuple[str, ...]] = []
        if CHOICES in columns and ANSWER in columns:
            rows = zip(columns[CHOICES], columns[ANSWER], columns[REFERENCE], strict=True)
            self.said = [_options(str(texts), str(answer), str(reference)) for texts, answer, reference in rows]
        self.most = max(map(len, self.said), default=0)
        self._scores: dict[int, list[float]] = {}

    def __bool__(self) -> bool:
        return self.most > 0

    def score(self, model: LanguageModel, prompts: Prompts, index: Array) -> None:
        """Scores the options of the samples ``index``, ``int64 [B]``, behind their prompts; one pass for each option.

        Raises:
            DataError: An option does not fit the context behind its prompt.
        """
        offered = [self.said[int(i)] for i in index]
        scores = np.full((len(offered), self.most), np.nan)
        for k in range(max(map(len, offered), default=0)):
            has = np.array([k < len(options) for options in offered])
            # A sample without this option runs along with something else, so that a batch stays one.
            texts = [options[k] if k < len(options) else "-" for options in offered]
            with torch.no_grad():
                losses = model.answer_loss(prompts, model.answers(texts))
            scores[has, k] = -losses.double().cpu().numpy()[has]
        self._scores |= {int(i): row for i, row in zip(index, scores.tolist(), strict=True)}

    def column(self, index: Array) -> Array:
        """Scores of the samples ``index``, ``float64 [n, K]``, NaN where a sample has fewer options or was not scored.

        All processes call it together, since each has scored a part.
        """
        for scores in World().gather_objects(self._scores):
            self._scores = self._scores | scores
        nothing = [float("nan")] * self.most
        return np.array([self._scores.get(int(i), nothing) for i in index], float).reshape(len(index), self.most)


def _options(texts: str, answer: str, reference: str) -> tuple[str, ...]:
    if not texts:
        return ()
    try:
        options = json.loads(texts)
    except ValueError:
        options = None
    if not _are_texts(options):
        raise DataError(f"choices are a list of texts as JSON, not {texts[:60]!r}")
    if not (len(answer) == 1 and 0 <= ord(answer) - ord("A") < len(options)):
        raise DataError(f"the answer {answer!r} is none of the letters of {len(options)} choices")
    return as_said(options, answer, reference)


def _are_texts(options: Any) -> bool:
    return isinstance(options, Sequence) and not isinstance(options, str) and all(isinstance(o, str) for o in options)
