"""Part of the fifth step: what validation samples make of the probabilities of the test split."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from medgraft.benchmarks.calibration import conformal, temperature
from medgraft.benchmarks.calibration.reliability import reliability
from medgraft.benchmarks.calibration.summary import Calibration, Scaling, Sets
from medgraft.benchmarks.cell.steps.precomputing import Ready
from medgraft.benchmarks.metrics.bootstrap import Estimate, estimates
from medgraft.benchmarks.metrics.calibration import OF_PROBABILITIES
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.errors import DataError
from medgraft.metric import Predictions
from medgraft.metric.judging import judged, objective_of
from medgraft.objective import objective_name

Predict = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Calibrated:
    """Predictions, and what is said of their probabilities.

    Attributes:
        predictions: Of the test split, with temperatures where they were asked for.
        validation: Of the validation split, likewise; ``None`` where there is none or scores are no probabilities.
        calibration: What a result says; ``None`` where scores are no probabilities.
    """

    predictions: Predictions
    validation: Predictions | None = None
    calibration: Calibration | None = None


def once_each(predict: Predict) -> Predict:
    """Predicts no sample twice that is asked for in the same order: thresholds read what calibration reads."""
    known: dict[bytes, np.ndarray] = {}

    def remembered(index: np.ndarray) -> np.ndarray:
        key = index.tobytes()
        if key not in known:
            known[key] = predict(index)
        return known[key]

    return remembered


def gives_probabilities(p: Predictions) -> bool:
    """Whether the scores are probabilities: their objective has them judged as such."""
    return set(OF_PROBABILITIES) <= set(objective_of(p).judged_by(p))


def calibrate(ready: Ready, predict: Predict, predictions: Predictions) -> Calibrated:
    """Temperatures, conformal sets and reliability, as far as the cell asks for them and the data have them.

    Args:
        ready: The trained graft.
        predict: Samples -> their scores.
        predictions: Of the test split.

    Raises:
        DataError: Temperatures are asked for, and the task has no probabilities or no validation split.
    """
    spec, val = ready.spec, ready.loaded.splits["val"]
    if not gives_probabilities(predictions):
        if spec.calibrate != "none":
            what = "its scores are no probabilities of classes or labels that compete in all samples"
            raise DataError(f"--calibrate {spec.calibrate}: of task {spec.task!r} {what}; leave the option out")
        return Calibrated(predictions)
    if not len(val):
        if spec.calibrate != "none":
            raise DataError(
                f"--calibrate {spec.calibrate}: task {spec.task!r} has no validation split to learn a temperature "
                "from; leave the option out, or give the task one"
            )
        return Calibrated(predictions, None, Calibration(reliability=reliability(predictions)))
    _, groups = np.unique(ready.loaded.data.subjects[val], return_inverse=True)
    splits = {**ready.loaded.splits, "test": val}
    validation = ready.runner.objective.predictions(predict, splits, groups)
    validation = replace(validation, objective=objective_name(ready.loaded.task.objective))
    scaling = None
    if spec.calibrate == "temperature":
        predictions, validation, scaling = _scaled(predictions, validation)
    sets = _sets(spec, validation, predictions)
    return Calibrated(
        predictions, validation, Calibration(reliability=reliability(predictions), scaling=scaling, sets=sets)
    )


def _scaled(test: Predictions, val: Predictions) -> tuple[Predictions, Predictions, Scaling]:
    """Both with the temperatures that are best on validation samples."""
    temperatures = temperature.temperatures_of(val.scores, val.targets, val.mask)
    after = with_temperatures(test, temperatures), with_temperatures(val, temperatures)
    first, last = (temperature.mean_loss(p.scores, p.targets, p.mask) for p in (val, after[1]))
    numbers = judged(test)
    before = {name: part for name, part in numbers.statistics.items() if name in OVERALL}
    scaling = Scaling(
        temperatures=temperatures,
        loss=(first, last) if np.isfinite(first) else None,
        before=estimates(before, test, metrics=numbers.metrics),
    )
    return *after, scaling


OVERALL = ("brier", "ece", "ece_macro")
"""Numbers of probabilities that a result also has as they were before temperatures."""


def with_temperatures(p: Predictions, temperatures: tuple[float | None, ...]) -> Predictions:
    """Predictions with probabilities divided by temperatures, and thresholds moved along."""
    labels = p.targets.ndim == 2
    scores = temperature.scaled(p.scores, temperatures, labels=labels)
    if p.thresholds is None:
        return replace(p, scores=scores)
    return replace(p, scores=scores, thresholds=temperature.scaled(p.thresholds, temperatures, labels=True))


def _sets(spec: CellSpec, val: Predictions, test: Predictions) -> Sets:
    rule = conformal.calibrate(val, spec.sets, spec.coverage, by_class=spec.sets_by_class)
    statistics = conformal.set_statistics(rule, test)
    numbers: dict[str, Estimate] = estimates(statistics, test, metrics=conformal.set_metrics(statistics))
    return Sets(rule=rule, numbers=numbers)
