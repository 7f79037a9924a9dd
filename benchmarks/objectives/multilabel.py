"""``multilabel``: labels that do not exclude each other, by a linear head; with or without a class *uncertain*."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.benchmarks.objectives.classes import ClassObjective
from medgraft.benchmarks.objectives.heads import Head, linear_head
from medgraft.benchmarks.objectives.support import fit_pooled, pooled_logits, refuse_support
from medgraft.benchmarks.training.logistic import Logistic
from medgraft.grafting import Grafted
from medgraft.objective import Batch, Objective, Outputs
from medgraft.task import TaskData


class MultilabelObjective(ClassObjective):
    """A linear head with binary cross-entropy over labels.

    Args:
        data: The task's data.
        inputs: Modalities in the order in which the head reads them.

    Attributes:
        outputs_per_label: Outputs of the head for each label.
    """

    takes_support = True
    activation = "sigmoid"
    outputs_per_label = 1

    @classmethod
    def of(cls, data: TaskData, inputs: tuple[str, ...]) -> Objective:
        """Labels that may be uncertain have three classes each."""
        return UncertainObjective(data, inputs) if data.uncertain_class else cls(data, inputs)

    def make_head(self, sample: Outputs) -> Head:
        """A head that fits the features of ``sample``, scaled by them."""
        return linear_head(sample, self.inputs, self.outputs_per_label * len(self.data.classes))

    def prepare_adapters(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Fits an adapter that classifies by training features, here of samples ``int64 [n]``."""
        fit_pooled(grafted, self.data, run, self.inputs, index)

    def logits(self, grafted: Grafted, outputs: Outputs) -> Tensor:
        """``[B, outputs]``."""
        return pooled_logits(grafted, outputs, self.inputs)

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean loss over the labels that count, a scalar."""
        losses = self._losses(self.logits(grafted, outputs), batch.targets)
        if batch.mask is None:
            return losses.mean()
        return (losses * batch.mask).sum() / batch.mask.sum().clamp(min=1)

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        """``[B, outputs]`` and ``[B, L]`` -> ``[B, L]``."""
        return F.binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")

    def linear_problems(self, data: TaskData, index: np.ndarray) -> list[Logistic]:
        """One sigmoid or softmax per label, on the samples ``index``, ``int64 [n]``."""
        targets, each = data.targets[index].astype(np.int64), self.outputs_per_label
        counts = np.ones(targets.shape, bool) if data.mask is None else data.mask[index].astype(bool)
        return [
            Logistic(name, tuple(range(k * each, (k + 1) * each)), counts[:, k], targets[:, k])
            for k, name in enumerate(data.classes)
        ]

    def decision(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Logits ``[B, L]``."""
        return self.logits(grafted, outputs)

    def activated(self, decision: Tensor) -> Tensor:
        """The sigmoid of logits ``[B, L]``."""
        return torch.sigmoid(decision)

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Probabilities ``[B, L]``."""
        return self.activated(self.decision(grafted, outputs))


class UncertainObjective(MultilabelObjective):
    """Labels with a third class, *uncertain*: a softmax over absent, present and uncertain for each label.

    U-MultiClass in Irvin et al., "CheXpert", AAAI 2019: the prediction is the softmax over absent and present only.

    Args:
        data: The task's data, targets in {0, 1, 2}.
        inputs: Modalities in the order in which the head reads them.
    """

    outputs_per_label = 3

    def prepare_adapters(self, grafted: Grafted, run: Callable[[np.ndarray], Outputs], index: np.ndarray) -> None:
        """Refuses adapters that classify by training features ``[n, D]``: they know no third class of a label."""
        refuse_support(
            grafted,
            "labels with a class 'uncertain' need a head of three outputs each",
            "another uncertainty, such as chexpert.uncertainty=ignore",
        )

    def _losses(self, logits: Tensor, targets: Tensor) -> Tensor:
        by_label = logits.unflatten(-1, (-1, 3))
        return F.cross_entropy(by_label.transpose(1, 2), targets.long(), reduction="none")

    def decision(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Log odds of present against absent, ``[B, L]``, so that scores are p(present) / (p(absent) + p(present))."""
        return _odds(self.logits(grafted, outputs))

    def of_outputs(self, outputs: Tensor) -> Tensor:
        """Probabilities ``[B, L]`` from the outputs ``[B, 3 L]`` of a head."""
        return self.activated(_odds(outputs))


def _odds(logits: Tensor) -> Tensor:
    """Log odds ``[B, L]`` of present against absent, from logits ``[B, 3 L]``."""
    by_label = logits.unflatten(-1, (-1, 3))
    return by_label[..., 1] - by_label[..., 0]
