"""One head that answers several questions: each sample asks one, and only the classes that answer it compete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.benchmarks.objectives.classes import ClassObjective
from medgraft.benchmarks.objectives.heads import Head, joined, linear_head
from medgraft.benchmarks.objectives.support import refuse_support
from medgraft.benchmarks.training.logistic import Logistic
from medgraft.grafting import Grafted
from medgraft.objective import Batch, Outputs
from medgraft.task import TaskData


class QuestionsObjective(ClassObjective):
    """Cross-entropy over the classes that answer a sample's question.

    A prediction is one softmax per question. It does not need to know which question was asked: whoever evaluates it
    reads the classes of that question. Where the prompt is among the inputs the features depend on it; without it the
    same features answer all questions.

    Args:
        data: The task's data, with ``asked`` and ``answers``.
        inputs: Modalities in the order in which the head reads them.
    """

    one_class_each = True
    activation = "softmax over the classes of each question"

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        assert data.asked is not None
        self.asked = torch.tensor(data.asked)  # a copy: files may be mapped read-only
        self.answers = data.answers
        self.allowed = torch.zeros(len(data.answers), len(data.classes), dtype=torch.bool)
        for question, classes in enumerate(data.answers):
            self.allowed[question, list(classes)] = True

    def prepare_adapters(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Refuses adapters that classify by training features ``[n, D]``: they would let all classes compete."""
        refuse_support(grafted, "classes that answer several questions need a head", "logistic or linear_probe")

    def make_head(self, sample: Outputs) -> Head:
        """A head that fits the features of ``sample``, scaled by them."""
        return linear_head(sample, self.inputs, len(self.data.classes))

    def logits(self, grafted: Grafted, outputs: Outputs) -> Tensor:
        """``[B, classes]`` of all questions."""
        assert grafted.head is not None
        return grafted.head(joined(outputs, self.inputs))

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean cross-entropy, a scalar."""
        assert batch.index is not None
        logits = self.logits(grafted, outputs)
        allowed = self.allowed[self.asked[torch.from_numpy(batch.index)]].to(logits.device)
        return F.cross_entropy(logits.masked_fill(~allowed, float("-inf")), batch.targets.to(logits.device))

    def linear_problems(self, data: TaskData, index: np.ndarray) -> list[Logistic]:
        """A softmax per question over the classes that answer it, on the samples ``index``, ``int64 [n]``."""
        assert data.asked is not None
        questions, targets, problems = data.asked[index], data.targets[index], []
        for number, classes in enumerate(data.answers):
            outputs = tuple(sorted(classes))
            problems.append(
                Logistic(data.questions[number], outputs, questions == number, np.searchsorted(outputs, targets))
            )
        return problems

    def decision(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Logits ``[B, classes]`` of all questions."""
        return self.logits(grafted, outputs)

    def activated(self, decision: Tensor) -> Tensor:
        """One softmax for each question of logits ``[B, classes]``."""
        scores = torch.empty_like(decision)
        for classes in self.answers:
            scores[:, list(classes)] = torch.softmax(decision[:, list(classes)], dim=-1)
        return scores

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Probabilities ``[B, classes]`` that sum to 1 over the classes of each question."""
        return self.activated(self.decision(grafted, outputs))
