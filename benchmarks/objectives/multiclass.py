"""``multiclass``: classes that exclude each other, by a linear head and cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.benchmarks.objectives.classes import ClassObjective
from medgraft.benchmarks.objectives.heads import Head, linear_head
from medgraft.benchmarks.objectives.questions import QuestionsObjective
from medgraft.benchmarks.objectives.support import fit_pooled, pooled_logits
from medgraft.benchmarks.training.logistic import Logistic
from medgraft.grafting import Grafted
from medgraft.objective import Batch, Objective, Outputs
from medgraft.task import TaskData


class MulticlassObjective(ClassObjective):
    """A linear head with cross-entropy over classes.

    Args:
        data: The task's data.
        inputs: Modalities in the order in which the head reads them.
    """

    one_class_each = True
    takes_support = True
    activation = "softmax"

    @classmethod
    def of(cls, data: TaskData, inputs: tuple[str, ...]) -> Objective:
        """Where samples ask questions that only some classes answer, those compete; see :mod:`questions`."""
        return QuestionsObjective(data, inputs) if data.answers else cls(data, inputs)

    def make_head(self, sample: Outputs) -> Head:
        """A head that fits the features of ``sample``, scaled by them."""
        return linear_head(sample, self.inputs, len(self.data.classes))

    def prepare_adapters(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Fits an adapter that classifies by training features, here of samples ``int64 [n]``."""
        fit_pooled(grafted, self.data, run, self.inputs, index)

    def logits(self, grafted: Grafted, outputs: Outputs) -> Tensor:
        """``[B, classes]``."""
        return pooled_logits(grafted, outputs, self.inputs)

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean cross-entropy, a scalar."""
        return F.cross_entropy(self.logits(grafted, outputs), batch.targets)

    def linear_problems(self, data: TaskData, index: np.ndarray) -> list[Logistic]:
        """One softmax over the samples ``index``, ``int64 [n]``."""
        targets = data.targets[index].astype(np.int64)
        return [Logistic("", tuple(range(len(data.classes))), np.ones(len(index), bool), targets)]

    def decision(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Logits ``[B, classes]``."""
        return self.logits(grafted, outputs)

    def activated(self, decision: Tensor) -> Tensor:
        """The softmax of logits ``[B, classes]``."""
        return torch.softmax(decision, dim=-1)

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Probabilities ``[B, classes]``."""
        return self.activated(self.decision(grafted, outputs))
