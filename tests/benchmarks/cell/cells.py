"""Runs the steps of a cell one after another and keeps what each gave, for tests to look at."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.cell.steps.evaluation import Evaluated, evaluate
from medgraft.benchmarks.cell.steps.loading import Loaded, load
from medgraft.benchmarks.cell.steps.operations import operations
from medgraft.benchmarks.cell.steps.precomputing import Ready, build
from medgraft.benchmarks.cell.steps.training import train
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.training.trainer import Runner
from medgraft.benchmarks.training.training_state import TrainingLog
from medgraft.grafting import Grafted
from medgraft.ops.backends import Record


def spec(**changes: Any) -> CellSpec:
    return CellSpec.model_validate(
        {
            "task": "toy",
            "cohort": {"name": "toy", "revision": "r", "phantom": True},
            "encoder": "toy:tiny",
            "adapter": "toy_gain",
            "seed": 0,
            "train": {"epochs": 2},
            **changes,
        }
    )


@dataclass
class Ran:
    """What the steps gave.

    Attributes:
        fitted: Samples of each fit.
        predicted: Samples of each prediction.
    """

    ready: Ready
    log: TrainingLog
    evaluated: Evaluated
    record: Record
    fitted: list[np.ndarray] = field(default_factory=list)
    predicted: list[np.ndarray] = field(default_factory=list)

    @property
    def loaded(self) -> Loaded:
        return self.ready.loaded

    @property
    def runner(self) -> Runner:
        return self.ready.runner

    @property
    def grafted(self) -> Grafted:
        return self.ready.grafted

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return self.evaluated.arrays


def ran(spec: CellSpec, root: Path) -> Ran:
    """Runs a cell from data to metrics, and notes which samples are used for what."""
    fitted: list[np.ndarray] = []
    predicted: list[np.ndarray] = []
    with operations(spec) as record:
        ready = build(load(spec, root))
        fit, predict = ready.runner.fit, ready.runner.predict

        def noted_fit(index: np.ndarray, *rest: Any) -> Any:
            fitted.append(index)
            return fit(index, *rest)

        def noted_predict(index: np.ndarray) -> np.ndarray:
            predicted.append(index)
            return predict(index)

        ready.runner.fit, ready.runner.predict = noted_fit, noted_predict  # pyright: ignore[reportAttributeAccessIssue]
        log = train(ready, lambda share: None)
        return Ran(ready, log, evaluate(ready), record, fitted, predicted)
