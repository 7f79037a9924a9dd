"""The fifth step: metrics on the test split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medgraft.adapter_protocols import reset_diagnostics
from medgraft.benchmarks.cell.intact import report_of
from medgraft.benchmarks.cell.steps.loading import Loaded
from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.metrics.groups import Groups, by_groups, words_of
from medgraft.benchmarks.metrics.intervals import few_subjects
from medgraft.benchmarks.objectives.evaluation import evaluate as evaluated
from medgraft.judging import judged, objective_of
from medgraft.metric import Predictions
from medgraft.objective import objective_name


@dataclass(frozen=True)
class Evaluated:
    """What a cell found.

    Attributes:
        metrics: Name -> value and interval.
        groups: Attribute -> the primary metric by its groups.
        arrays: Predictions of the test split ``[n, ...]``, subjects as anonymous numbers.
        thresholds: Chosen on the validation split, ``[L]``; ``None`` for other objectives.
        few: Classes with few test subjects -> how many.
        diagnostics: Adapter -> what it says of itself.
    """

    metrics: dict[str, Estimate]
    groups: dict[str, Groups]
    arrays: dict[str, np.ndarray]
    thresholds: np.ndarray | None
    few: Mapping[str, int]
    diagnostics: dict[str, Any]


def evaluate(ready: Ready) -> Evaluated:
    """Predicts the test split and judges the predictions.

    Raises:
        MedgraftError: An adapter changed what it must leave as it is.
    """
    loaded, grafted = ready.loaded, ready.grafted
    test = loaded.splits["test"]
    _, groups = np.unique(loaded.data.subjects[test], return_inverse=True)
    for _, adapter in grafted.named_adapters():
        reset_diagnostics(adapter)
    predictions = ready.runner.objective.predictions(ready.runner.predict, loaded.splits, groups)
    predictions = replace(predictions, objective=objective_name(loaded.task.objective))
    ready.attached.check_untouched(ready.spec.seed + 1)
    reports = {name: report_of(name, adapter) for name, adapter in grafted.named_adapters()}
    optional = {"mask": predictions.mask, "thresholds": predictions.thresholds, "asked": predictions.asked}
    arrays = {"scores": predictions.scores, "targets": predictions.targets, "groups": groups}
    arrays |= {name: value for name, value in optional.items() if value is not None} | dict(predictions.columns)
    return Evaluated(
        evaluated(predictions),
        _groups(loaded, predictions),
        arrays,
        thresholds=predictions.thresholds,
        few=few_subjects(objective_of(predictions).subjects_by_class(predictions)),
        diagnostics={name: report for name, report in reports.items() if report},
    )


def _groups(loaded: Loaded, predictions: Predictions) -> dict[str, Groups]:
    """The primary metric by the groups of each attribute that has two groups or more."""
    numbers, primary = judged(predictions), loaded.task.primary
    if primary not in numbers.statistics:
        return {}
    better = numbers.metrics[primary].higher_is_better
    train, test = loaded.splits["train"], loaded.splits["test"]
    groups: dict[str, Groups] = {}
    for name, values in loaded.data.attributes.items():
        words = words_of(values, train)
        if words is None:
            continue
        statistic = numbers.statistics[primary]
        each = by_groups(primary, statistic, predictions.groups, words[test], higher_is_better=better)
        if each is not None:
            groups[name] = each
    return groups
