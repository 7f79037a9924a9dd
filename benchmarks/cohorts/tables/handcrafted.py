"""Handcrafted features beside a row: probes that have no encoder, on the same training subjects and test samples."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.benchmarks.training.probing import probe_predictions
from medgraft.objective import make_objective
from medgraft.task import TaskData

REPORTED = ("auc_macro", "f1_macro", "balanced_accuracy")
MOST_KEPT = 8

_fitted_before: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Handcrafted:
    """Numbers that need no encoder.

    Attributes:
        fields: What they are, in words.
        values: ``float [n, D]``, ``nan`` where a sample has none; the training median takes its place, and a sample
            without any number is all medians.
    """

    fields: tuple[str, ...]
    values: NDArray[Any]


def handcrafted_baselines(
    data: TaskData, objective: str, inputs: tuple[str, ...], features: Mapping[str, Handcrafted]
) -> dict[str, Any]:
    """A linear probe of each, for ``provenance["table_baselines"]``.

    Args:
        data: Of a task whose head is a regression: classes, labels or a number.
        objective: Name of the objective.
        inputs: Modalities of the task.
        features: Name of a baseline -> its numbers.

    Returns:
        Name -> ``fields``, ``n_train``, and the metrics, each ``[value, low, high]`` with a 95% interval over subjects:
        those of :data:`REPORTED`, or what a board shows of another objective; ``unavailable`` with its fields where no
        training sample has a number.
    """
    digest = hashlib.sha256(f"{objective} {data.classes}".encode())
    for part in (data.targets, *(data.splits[name] for name in sorted(data.splits))):
        digest.update(np.ascontiguousarray(part).tobytes())
    for name, each in features.items():
        digest.update(f"{name} {each.fields}".encode() + np.ascontiguousarray(each.values, float).tobytes())
    digest.update("|".join(map(str, data.subjects)).encode())
    key = digest.hexdigest()
    if key not in _fitted_before:  # a task is loaded several times in a process, and the fits take seconds
        if len(_fitted_before) >= MOST_KEPT:
            _fitted_before.pop(next(iter(_fitted_before)))
        _fitted_before[key] = {name: _baseline(data, objective, inputs, each) for name, each in features.items()}
    return copy.deepcopy(_fitted_before[key])


def _baseline(data: TaskData, objective: str, inputs: tuple[str, ...], each: Handcrafted) -> dict[str, Any]:
    values, train = np.asarray(each.values, float), data.splits["train"]
    known = np.isfinite(values[train]).any(axis=0) if len(train) else np.zeros(values.shape[1], bool)
    if not known.any():
        return {"unavailable": list(each.fields)}
    values = values[:, known]
    values = np.where(np.isfinite(values), values, np.nanmedian(_finite(values[train]), axis=0))
    made = make_objective(objective, data, inputs)
    predictions = probe_predictions(made, objective, data, values, data.splits)
    assert predictions is not None, objective
    numbers = evaluate(predictions)
    shown = [name for name in (REPORTED if data.classes else type(made).columns) if name in numbers]
    scores = {name: [numbers[name].value, numbers[name].ci_low, numbers[name].ci_high] for name in shown}
    return {"fields": list(each.fields), "n_train": len(train), **scores}


def _finite(values: NDArray[Any]) -> NDArray[Any]:
    return np.where(np.isfinite(values), values, np.nan)
