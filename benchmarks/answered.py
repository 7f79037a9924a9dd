"""One head that answers several questions: each sample asks one, and only the classes that answer it compete."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.benchmarks.logistic import Problem
from medgraft.benchmarks.objectives import Batch, ClassificationObjective, Outputs
from medgraft.grafting import Grafted
from medgraft.task import TaskData


class AnsweredObjective(ClassificationObjective):
    """Cross-entropy over the classes that answer a sample's question.

    A prediction is one softmax per question. It does not need to know which question was asked: whoever evaluates it
    reads the classes of that question. Where the prompt is among the inputs the features depend on it; without it the
    same features answer all questions.

    Args:
        data: The task's data, with ``asked`` and ``answers``.
        inputs: Modalities in the order in which the head reads them.
    """

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs, multilabel=False)
        assert data.asked is not None
        self.asked = torch.from_numpy(data.asked)
        self.answers = data.answers
        self.allowed = torch.zeros(len(data.answers), self.outputs, dtype=torch.bool)
        for question, classes in enumerate(data.answers):
            self.allowed[question, list(classes)] = True

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean cross-entropy."""
        assert batch.index is not None
        logits = self.logits(grafted, outputs)
        allowed = self.allowed[self.asked[torch.from_numpy(batch.index)]].to(logits.device)
        return F.cross_entropy(logits.masked_fill(~allowed, float("-inf")), batch.targets.to(logits.device))

    def problems(self, data: TaskData, index: np.ndarray) -> list[Problem]:
        """A softmax per question, over the classes that answer it."""
        assert data.asked is not None
        asked, targets, found = data.asked[index], data.targets[index], []
        for number, classes in enumerate(data.answers):
            outputs = tuple(sorted(classes))
            found.append(Problem(data.questions[number], outputs, asked == number, np.searchsorted(outputs, targets)))
        return found

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Probabilities ``[B, classes]`` that sum to 1 over the classes of each question."""
        logits = self.logits(grafted, outputs)
        scores = torch.empty_like(logits)
        for classes in self.answers:
            scores[:, list(classes)] = torch.softmax(logits[:, list(classes)], dim=-1)
        return scores
