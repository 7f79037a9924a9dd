"""``survival``: a risk for each sample, by a linear head and Cox's partial likelihood, with censoring."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgraft.benchmarks.metrics.survival import followed
from medgraft.benchmarks.objectives.heads import Head, joined, linear_head
from medgraft.benchmarks.training.cox import Cox
from medgraft.errors import DataError
from medgraft.grafting import Grafted
from medgraft.metric import Predictions
from medgraft.objective import Batch, Objective, Outputs
from medgraft.task import TaskData

QUARTILES = (0.25, 0.5, 0.75)


class SurvivalObjective(Objective):
    """Negative log partial likelihood of each batch (Katzman et al., "DeepSurv", BMC Med. Res. Methodol. 18, 2018).

    Targets are times ``float [n]`` to the event or to the last visit; ``data.columns["event"]`` ``[n]`` is 1 where the
    event was seen. Predictions are risks, higher where the event is expected sooner.

    Args:
        data: The task's data.
        inputs: Modalities in the order in which the head reads them.

    Attributes:
        event: ``float64 [n]``.
        horizons: Times at which the area under the curve is asked: the data's, or the quartiles of training events.
    """

    primary = "c_index"
    metrics = ("concordance", "auc_at_time")
    columns = ("c_index", "auc_time")

    @classmethod
    def check(cls, data: TaskData, inputs: tuple[str, ...]) -> None:
        """See :class:`Objective`; positive times, events of 0 and 1, some of them in training and in testing."""
        event = data.columns.get("event")
        if event is None or np.shape(event) != data.targets.shape or not np.isin(event, (0, 1)).all():
            raise DataError(
                "survival needs columns={'event': ...}, 1 for each sample whose event was seen and 0 for the others"
            )
        if data.targets.ndim != 1 or data.targets.dtype.kind != "f":
            raise DataError(
                f"targets are {data.targets.dtype} {list(data.targets.shape)}; survival has one time (float) per sample"
            )
        for name, index in data.splits.items():
            times = data.targets[index]
            if not np.isfinite(times).all() or (len(times) and times.min() <= 0):
                raise DataError(f"the {name} split has times that are not finite or not above 0")
            if name != "val" and not np.asarray(event)[index].any():
                raise DataError(f"no sample of the {name} split has an event; there is nothing to learn or to judge")

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        self.event = np.asarray(data.columns["event"], np.float64)
        train = data.splits["train"]
        events = data.targets[train][self.event[train] > 0]
        self.horizons = np.asarray(data.horizons or np.quantile(events, QUARTILES), np.float64)

    def make_head(self, sample: Outputs) -> Head:
        """A head of one output that fits the features of ``sample``, scaled by them."""
        return linear_head(sample, self.inputs, 1)

    def loss(self, grafted: Grafted, outputs: Outputs, batch: Batch) -> Tensor:
        """Mean over the batch's events, a scalar; 0, with a gradient of 0, where there is none."""
        risk = self.scores(grafted, outputs)[:, 0]
        assert batch.index is not None
        event = torch.from_numpy(self.event[batch.index]).to(risk)
        time = batch.targets.to(risk.device)
        at_risk = time[None] >= time[:, None]
        total = torch.logsumexp(risk[None].expand_as(at_risk).masked_fill(~at_risk, float("-inf")), dim=1)
        return (event * (total - risk)).sum() / event.sum().clamp(min=1)

    def linear_problems(self, data: TaskData, index: np.ndarray) -> list[Cox]:
        """One regression of proportional hazards, of the samples ``index``, ``int64 [n]``."""
        values = np.stack([data.targets[index].astype(np.float64), self.event[index]], axis=1)
        return [Cox("", (0,), np.ones(len(index), bool), values)]

    def scores(self, grafted: Grafted, outputs: Outputs, context: Any = None) -> Tensor:
        """Risks ``[B, 1]``: logarithms of hazards, up to a constant."""
        assert grafted.head is not None
        return grafted.head(joined(outputs, self.inputs))

    def predictions(
        self, predict: Callable[[np.ndarray], np.ndarray], splits: Mapping[str, np.ndarray], groups: np.ndarray
    ) -> Predictions:
        """See :meth:`Objective.predictions`; who would still be followed is estimated on training subjects."""
        train, test = splits["train"], splits["test"]
        time = self.data.targets.astype(np.float64)
        columns = {
            "event": self.event[test].astype(np.int64),
            "censoring": followed(time[train], self.event[train] > 0, time[test]),
            "horizons": np.tile(self.horizons, (len(test), 1)),
        }
        return Predictions(predict(test), time[test], groups, (), variants=self.data.variants, columns=columns)

    @classmethod
    def misfit(cls, p: Predictions) -> str:
        """See :class:`Objective`."""
        n = len(p.targets)
        if p.scores.shape != (n, 1) or p.targets.shape != (n,) or p.targets.dtype.kind != "f":
            return f"{p.scores.shape} and {p.targets.shape} are no risks and times"
        shapes = {name: p.columns[name].shape if name in p.columns else None for name in ("event", "censoring")}
        if strange := [name for name, shape in shapes.items() if shape != (n,)]:
            return f"it has no column {strange[0]!r} of {n} samples"
        horizons = p.columns.get("horizons")
        return "" if horizons is not None and horizons.ndim == 2 and horizons.shape[1] else "it names no horizon"
