"""Several questions on one image or volume: every sample asks one, in one of its wordings.

Validation and test ask in wordings that training never used, so that a model that answers by prompt is tested on what
a prompt means, and not on whether it has seen the string.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medgraft.task import RawInputs

Wording = Literal["held_out", "seen"]
UNKNOWN = -1
"""Answer of an image or volume of which the tables say nothing; it is not asked."""


@dataclass(frozen=True)
class Question:
    """A question and its answers.

    Attributes:
        name: Short name, by which metrics are reported.
        answers: The classes, in order.
        wordings: What training samples ask.
        held_out: What validation and test samples ask.
    """

    name: str
    answers: tuple[str, ...]
    wordings: tuple[str, ...]
    held_out: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """Samples made of images or volumes and the questions on them, those of one image one after another.

    Attributes:
        unit: Number of the image or volume of each sample, ``int64 [n]``.
        asked: Number of its question, ``int64 [n]``.
        targets: Its class among the classes of all questions, ``int64 [n]``.
        splits: Split -> sample numbers.
        prompts: Its prompt.
        classes: ``<question>: <answer>`` of all questions.
        answers: Classes of each question.
        unanswered: Question -> images or volumes of a split that no table answers it for.
    """

    unit: np.ndarray
    asked: np.ndarray
    targets: np.ndarray
    splits: dict[str, np.ndarray]
    prompts: list[str]
    classes: tuple[str, ...]
    answers: tuple[tuple[int, ...], ...]
    unanswered: dict[str, int]

    def prompt_inputs(self) -> RawInputs:
        """The prompts as raw samples."""
        digest = hashlib.sha256("\n".join(self.prompts).encode()).hexdigest()
        return RawInputs(self.prompts.__getitem__, len(self.prompts), digest)


def ask(
    questions: Sequence[Question],
    answers: Mapping[str, np.ndarray],
    splits: Mapping[str, np.ndarray],
    keys: Sequence[str],
    wording: Wording = "held_out",
) -> Asked:
    """Asks every question on every image or volume of a split whose answer is known.

    Args:
        questions: In order.
        answers: Question -> ``int64 [units]``, index into its answers, or :data:`UNKNOWN`.
        splits: Split -> numbers of images or volumes.
        keys: Name of each image or volume; it decides the wording, so that the order of the samples does not.
        wording: ``held_out``, or ``seen`` to ask everywhere as in training.
    """
    home = {int(unit): name for name, index in splits.items() for unit in index}
    starts = np.cumsum([0, *(len(question.answers) for question in questions)])
    rows: list[tuple[int, int, int, str]] = []
    prompts: list[str] = []
    unanswered = dict.fromkeys((question.name for question in questions), 0)
    for unit in sorted(home):
        for number, question in enumerate(questions):
            answer = int(answers[question.name][unit])
            if answer == UNKNOWN:
                unanswered[question.name] += 1
                continue
            pool = question.wordings if home[unit] == "train" or wording == "seen" else question.held_out
            rows.append((unit, number, int(starts[number]) + answer, home[unit]))
            prompts.append(pool[_draw(f"{keys[unit]}|{question.name}", len(pool))])
    units, question_numbers, targets = (np.array([row[k] for row in rows], dtype=np.int64) for k in range(3))
    where = np.array([row[3] for row in rows], dtype=object)
    return Asked(
        units,
        question_numbers,
        targets,
        {name: np.flatnonzero(where == name) for name in splits},
        prompts,
        tuple(f"{question.name}: {answer}" for question in questions for answer in question.answers),
        tuple(tuple(range(starts[k], starts[k + 1])) for k in range(len(questions))),
        unanswered,
    )


def _draw(key: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") % count
