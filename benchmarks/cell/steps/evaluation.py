"""The fifth step: metrics on the test split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from medgraft.adapter.protocols import reset_diagnostics
from medgraft.benchmarks.calibration.conformal import set_metrics, set_statistics
from medgraft.benchmarks.calibration.summary import Calibration
from medgraft.benchmarks.cell.steps.calibrating import calibrate, once_each
from medgraft.benchmarks.cell.steps.loading import Loaded
from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.metrics.groups import Groups, metrics_by_groups, words_of
from medgraft.benchmarks.metrics.intervals import few_subjects
from medgraft.benchmarks.objectives.evaluation import evaluate as evaluated
from medgraft.benchmarks.results.intact import report_of
from medgraft.metric import Predictions, WeightedStatistic
from medgraft.metric.judging import judged, objective_of
from medgraft.objective import objective_name


@dataclass(frozen=True)
class Evaluated:
    """What a cell found.

    Attributes:
        metrics: Name -> value and interval.
        groups: Attribute -> the metrics by its groups.
        arrays: Predictions of the test split ``[n, ...]``, subjects as anonymous numbers.
        thresholds: Chosen on the validation split, ``[L]``; ``None`` for other objectives.
        few: Classes with few test subjects -> how many.
        diagnostics: Adapter -> what it says of itself.
        calibration: What is said of probabilities, where scores are some.
        validation: Predictions of the validation split, where calibration needed them.
        metric_versions: Number -> version of its metric's definition.
    """

    metrics: dict[str, Estimate]
    groups: dict[str, Groups]
    arrays: dict[str, np.ndarray]
    thresholds: np.ndarray | None
    few: Mapping[str, int]
    diagnostics: dict[str, Any]
    calibration: Calibration | None = None
    validation: Predictions | None = None
    metric_versions: dict[str, int] = field(default_factory=dict)


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
    predict = once_each(ready.runner.predict)
    predictions = ready.runner.objective.predictions(predict, loaded.splits, groups)
    predictions = replace(predictions, objective=objective_name(loaded.task.objective))
    reports = {name: report_of(name, adapter) for name, adapter in grafted.named_adapters()}
    calibrated = calibrate(ready, predict, predictions)
    predictions, calibration = calibrated.predictions, calibrated.calibration
    ready.attached.check_untouched(ready.spec.seed + 1)
    optional = {"mask": predictions.mask, "thresholds": predictions.thresholds, "asked": predictions.asked}
    arrays = {"scores": predictions.scores, "targets": predictions.targets, "groups": groups}
    arrays |= {name: value for name, value in optional.items() if value is not None} | dict(predictions.columns)
    return Evaluated(
        evaluated(predictions),
        _groups(loaded, predictions, calibration),
        arrays,
        thresholds=predictions.thresholds,
        few=few_subjects(objective_of(predictions).subjects_by_class(predictions)),
        diagnostics={name: report for name, report in reports.items() if report},
        calibration=calibration,
        validation=calibrated.validation,
        metric_versions={name: each.version for name, each in judged(predictions).metrics.items()},
    )


def _groups(loaded: Loaded, predictions: Predictions, calibration: Calibration | None) -> dict[str, Groups]:
    """The overall numbers, the primary one first, by the groups of each attribute that has two groups or more."""
    numbers, primary = judged(predictions), loaded.task.primary
    if primary not in numbers.statistics:
        return {}
    overall = [name for name, metric in numbers.metrics.items() if name in metric.numbers and name != primary]
    metrics = {name: numbers.metrics[name] for name in [primary, *overall]}
    sets = calibration.sets if calibration is not None else None
    if sets is not None:
        metrics |= set_metrics(("coverage", "set_size"))

    def of_rows(rows: np.ndarray) -> Mapping[str, WeightedStatistic]:
        part = predictions.of(rows)
        return judged(part).statistics | ({} if sets is None else set_statistics(sets.rule, part))

    def strata(rows: np.ndarray) -> Sequence[np.ndarray]:
        part = predictions.of(rows)
        return objective_of(part).strata(part)

    train, test = loaded.splits["train"], loaded.splits["test"]
    groups: dict[str, Groups] = {}
    for name, values in loaded.data.attributes.items():
        words = words_of(values, train)
        if words is None:
            continue
        each = metrics_by_groups(of_rows, metrics, predictions.groups, words[test], strata=strata)
        if each is not None:
            groups[name] = each
    return groups
