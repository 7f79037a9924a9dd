"""What a trained graft is worth on validation samples, by which seeds and trials are told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.metric import Predictions
from medgraft.metric.judging import values
from medgraft.objective import objective_name
from medgraft.world import FailedRankError


def validation_score(ready: Ready, predictions: Predictions | None = None) -> float | None:
    """The primary metric on the validation split, without a look at the test split.

    Args:
        ready: Trained.
        predictions: Of the validation split, where they are there already.

    Returns:
        ``None`` where there is no validation split, or the metric is undefined on it.
    """
    loaded = ready.loaded
    val = loaded.splits["val"]
    if not len(val):
        return None
    _, groups = np.unique(loaded.data.subjects[val], return_inverse=True)
    splits: Mapping[str, np.ndarray] = {**loaded.splits, "test": val}
    try:
        if predictions is None:
            predictions = ready.runner.objective.predictions(ready.runner.predict, splits, groups)
            predictions = replace(predictions, objective=objective_name(loaded.task.objective))
        value = values(predictions).get(loaded.task.primary, math.nan)
    except (ValueError, ArithmeticError):  # one class only
        return None
    except FailedRankError as error:  # of another rank, which gives None
        if not error.of_values:
            raise
        return None
    return value if math.isfinite(value) else None
