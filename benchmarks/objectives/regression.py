"""``regression``: a number for each sample, by a linear head and squared error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from medgraft.benchmarks.objectives.heads import Head, joined, linear_head
from medgraft.benchmarks.training.ridge import Ridge
from medgraft.errors import DataError
from medgraft.grafting import Grafted
from medgraft.metric import Predictions
from medgraft.objective import Batch, Objective, Outputs
from medgraft.task import TaskData


class RegressionObjective(Objective):
    """Mean squared error of targets at mean 0 and deviation 1, as they are in training; predictions in their unit.

    Args:
        data: The task's data, targets ``float [n]``.
        inputs: Modalities in the order in which the head reads them.
    """

    primary = "mae"
    metrics = ("errors", "correlation")
    columns = ("mae", "rmse", "pearson", "spearman")

    @classmethod
    def check(cls, data: TaskData, inputs: tuple[str, ...]) -> None:
        """See :class:`Objective`; finite numbers, one per sample, that differ in training."""
        targets = data.targets
        if targets.ndim != 1 or targets.dtype.kind != "f":
            raise DataError(
                f"targets are {targets.dtype} {list(targets.shape)}; a regression has one number (float) per sample"
            )
        used = np.concatenate([np.asarray(index) for index in data.splits.values()]) if data.splits else np.arange(0)
        if not np.isfinite(targets[used]).all():
            raise DataError(
                f"{int((~np.isfinite(targets[used])).sum())} targets are not finite; leave those samples out"
            )
        if np.ptp(targets[data.splits["train"]]) == 0:
            raise DataError("all training targets are equal; there is nothing to learn")

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        seen = data.targets[data.splits["train"]].astype(np.float64)
        self.mean, self.deviation = float(seen.mean()), float(seen.std())

    def state(self) -> dict[str, Any]:
        """Mean and deviation of the training targets, in which the head counts."""
        return {"mean": self.mean, "deviation": self.deviation}

    def restore(self, state: Mapping[str, Any]) -> None:
        """See :meth:`state`."""
        self.mean, self.deviation = float(state["mean"]), float(state["deviation"])

    def make_head(self, sample: Outputs) -> Head:
        """A head of one output that fits the features of ``sample``, scaled by them."""
        return linear_head(sample, self.inputs, 1)

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean squared error in units of the training targets' variance, a scalar."""
        assert grafted.head is not None
        scaled = (batch.targets.double() - self.mean) / self.deviation
        return F.mse_loss(grafted.head(joined(outputs, self.inputs))[:, 0], scaled.float())

    def linear_problems(self, data: TaskData, index: np.ndarray) -> list[Ridge]:
        """One ridge regression on the same scale, of the samples ``index``, ``int64 [n]``."""
        values = (data.targets[index].astype(np.float64) - self.mean) / self.deviation
        return [Ridge("", (0,), np.ones(len(index), bool), values)]

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Predicted numbers ``[B, 1]``, in the targets' unit."""
        assert grafted.head is not None
        return self.of_outputs(grafted.head(joined(outputs, self.inputs)))

    def of_outputs(self, outputs: Tensor) -> Tensor:
        """Outputs ``[B, 1]`` of a head in the targets' unit."""
        return outputs.double() * self.deviation + self.mean

    def predictions(
        self, predict: Callable[[np.ndarray], np.ndarray], splits: Mapping[str, np.ndarray], groups: np.ndarray
    ) -> Predictions:
        """See :meth:`Objective.predictions`."""
        test = splits["test"]
        targets = self.data.targets[test].astype(np.float64)
        return Predictions(predict(test), targets, groups, (), variants=self.data.variants)

    @classmethod
    def misfit(cls, p: Predictions) -> str:
        """See :class:`Objective`."""
        n = len(p.targets)
        fits = p.scores.shape == (n, 1) and p.targets.shape == (n,) and p.targets.dtype.kind == "f"
        return "" if fits else f"{p.scores.shape} and {p.targets.shape} are no predicted and true numbers"
