"""An optional step of a cell: the trained graft is tested on other cohorts."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.calibration.conformal import set_statistics
from medgraft.benchmarks.calibration.temperature import scaled
from medgraft.benchmarks.cell.limit import limited
from medgraft.benchmarks.cell.steps.agreeing import REMEDY, samples_digest
from medgraft.benchmarks.cell.steps.evaluation import Evaluated
from medgraft.benchmarks.cell.steps.loading import distinct, prepare_all
from medgraft.benchmarks.cell.steps.precomputing import Ready, frozen_rows
from medgraft.benchmarks.cohorts.places import was_trained_on
from medgraft.benchmarks.external.comparison import compare
from medgraft.benchmarks.external.overlap import seen_before
from medgraft.benchmarks.external.results import ExternalResult, arrays_of, failed, job_files
from medgraft.benchmarks.external.shared import Shared, labels_in_common, samples_away, seen_through, truth
from medgraft.benchmarks.external.spec import ExternalTest
from medgraft.benchmarks.metrics.bootstrap import Estimate, estimates
from medgraft.benchmarks.metrics.intervals import few_subjects
from medgraft.benchmarks.results.values import json_safe
from medgraft.benchmarks.results.writing import write_arrays, write_atomically
from medgraft.benchmarks.training.trainer import Runner
from medgraft.commands.plain_text import one_line
from medgraft.errors import DataError, MedgraftError
from medgraft.metric import Predictions
from medgraft.metric.judging import objective_of
from medgraft.objective import objective_name
from medgraft.task import RawInputs, Task, TaskData
from medgraft.task.names import build_task
from medgraft.world import FailedRankError, lost_others

SEEN = "the same image is in the training or validation samples at home"


def validate_on(ready: Ready, evaluated: Evaluated, test: ExternalTest, folder: Path) -> None:
    """Tests a trained graft, and writes what comes of it; a cohort that cannot be read spoils no result at home.

    Args:
        ready: Trained.
        evaluated: Its predictions at home.
        test: The other cohort.
        folder: Of the job.

    Raises:
        MedgraftError: An adapter changed what it must leave as it is.
        OSError: The outcome cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        result, arrays = tested(ready, evaluated, test)
    except MemoryError:
        raise
    except Exception as error:
        if lost_others(error) and not isinstance(error, FailedRankError):
            raise
        text = str(error) if isinstance(error, MedgraftError) else f"{type(error).__name__}: {error}"
        result = failed(ready.spec, test, one_line(text, 1000))
    ready.attached.check_untouched(ready.spec.seed + 1)
    place, beside = job_files(folder, test)
    if arrays:
        write_arrays(beside, arrays)
    text = result.model_dump_json()
    write_atomically(place, lambda handle: handle.write(text.encode()))


def tested(ready: Ready, evaluated: Evaluated, test: ExternalTest) -> tuple[ExternalResult, dict[str, np.ndarray]]:
    """Predicts the other cohort and judges it beside the test split at home.

    Args:
        ready: Trained.
        evaluated: Its predictions at home.
        test: The other cohort.

    Returns:
        The result, and both predictions as arrays ``[n, ...]``.

    Raises:
        MedgraftError: The other cohort cannot be read, or shares too little with what was trained for.
    """
    spec, home_task = ready.spec, ready.loaded.task
    world = ready.runner.world
    with world.together():
        task = build_task(test.spec.task, test.spec.task_options)
        data = task.load(test.root).check()
        shared = labels_in_common(home_task, ready.loaded.data, task, data, test.spec.match)
        index = limited({"test": samples_away(data)}, spec.limit)["test"]
        runner, usable, reasons, digest = _readable(ready, data, index, test)
    facts = {"number of samples": len(index), "digest of the samples": digest}
    world.require_agreement({f"{name} of {test.spec.task}": fact for name, fact in facts.items()}, REMEDY)
    scores = _predicted(runner, usable)
    index, scores = index[usable], _with_temperatures(scores[usable], evaluated)
    name = objective_name(home_task.objective)
    home = _at_home(evaluated, shared, name)
    there = truth(data.targets[index], None if data.mask is None else data.mask[index], shared.kind, shared.away)
    _, groups = np.unique(data.subjects[index], return_inverse=True)
    away = seen_through(scores, there, groups, shared, evaluated.thresholds, name)
    compared = compare(home, away)
    counts = Counter(reasons)
    if other := int((~there.used).sum()):
        counts[f"not one of the classes {', '.join(shared.classes)}"] = other
    result = ExternalResult(
        key=spec.key(),
        trained=spec,
        tested=test.spec,
        phantom=any((spec.cohort.phantom, test.spec.cohort.phantom, ready.loaded.data.phantom, data.phantom)),
        primary=_primary(home_task, compared.away),
        objective=home.objective,
        classes=shared.classes,
        part="test" if data.given_test else "all",
        home=compared.home,
        away=compared.away,
        drop=compared.drop,
        data=_described(ready, task, data, away, shared, counts),
        thresholds=None if away.thresholds is None else tuple(map(float, away.thresholds)),
        sets=_sets(evaluated, shared, away),
    )
    return result, arrays_of(home, away)


def _readable(
    ready: Ready, data: TaskData, index: np.ndarray, test: ExternalTest
) -> tuple[Runner, np.ndarray, Counter[str], str]:
    """What predicts the samples ``index``, ``[n]``; which of them count, why the others do not, and a digest of all."""
    loaded, there = ready.loaded, test.spec
    raw = {name: distinct(_chosen(data.inputs[name], index), there.task, there.cohort) for name in loaded.task.inputs}
    prepared = prepare_all(raw, loaded.towers())
    usable = np.logical_and.reduce([part.usable for part in prepared.values()])
    reasons = sum((Counter(part.reasons) for part in prepared.values()), Counter[str]())
    at_home = np.concatenate([index for split, index in loaded.splits.items() if split != "test"])
    seen = usable & seen_before(loaded.prepared, at_home, prepared, np.arange(len(index)))
    if seen.any():
        usable, reasons[SEEN] = usable & ~seen, int(seen.sum())
    if not usable.any():
        raise DataError(f"no sample is left to test on: {', '.join(f'{n} x {why}' for why, n in reasons.items())}")
    rows = frozen_rows(ready.attached, ready.runner.objective, prepared)
    asked_nothing = replace(ready.runner.data, asked=None)
    runner = replace(ready.runner, inputs={name: make() for name, make in rows.items()}, views={}, data=asked_nothing)
    return runner, usable, reasons, samples_digest((index, usable, data.targets), prepared)


def _predicted(runner: Runner, usable: np.ndarray) -> np.ndarray:
    """Scores ``[n, K]``, NaN where a sample is not ``usable``, ``[n]``."""
    predicted = runner.predict(np.flatnonzero(usable))
    scores = np.full((len(usable), *predicted.shape[1:]), np.nan)
    scores[usable] = predicted
    return scores


def _with_temperatures(scores: np.ndarray, evaluated: Evaluated) -> np.ndarray:
    """Scores ``[n, K]`` as the graft's own test split has them: with the temperatures from home, where it has any."""
    scaling = evaluated.calibration.scaling if evaluated.calibration else None
    if scaling is None:
        return scores
    return scaled(scores, scaling.temperatures, labels=evaluated.arrays["targets"].ndim == 2)


def _sets(evaluated: Evaluated, shared: Shared, away: Predictions) -> dict[str, Estimate]:
    """Coverage and size of the conformal sets from home, where the other cohort labels all that they are sets of."""
    sets = evaluated.calibration.sets if evaluated.calibration else None
    of_home = "labels" if evaluated.arrays["targets"].ndim == 2 else "classes"
    if sets is None or shared.left_at_home or shared.kind != of_home:
        return {}
    statistics = set_statistics(sets.rule, away)
    return estimates({name: statistics[name] for name in ("coverage", "set_size")}, away)


def _chosen(raw: RawInputs, index: np.ndarray) -> RawInputs:
    """Some of the samples, so that a cohort's training images need not be read."""
    numbers = [int(i) for i in index]
    rows = hashlib.sha256(index.astype("<i8").tobytes()).hexdigest()
    present = None if raw.present is None else raw.present[index]
    return RawInputs(lambda i: raw.read(numbers[i]), len(numbers), f"{raw.fingerprint}|rows {rows}", present=present)


def _at_home(evaluated: Evaluated, shared: Shared, objective: str) -> Predictions:
    """Predictions of the test split at home, of the shared classes."""
    arrays = evaluated.arrays
    facts = truth(arrays["targets"], arrays.get("mask"), shared.kind, shared.home)
    return seen_through(arrays["scores"], facts, arrays["groups"], shared, evaluated.thresholds, objective)


def _primary(task: Task, numbers: dict[str, Any]) -> str:
    return task.primary if task.primary in numbers else next(iter(numbers))


def _described(
    ready: Ready, task: Task, data: TaskData, away: Predictions, shared: Shared, counts: Counter[str]
) -> dict[str, Any]:
    """Counts and sentences for a reader; no identifiers."""
    notes = list(data.provenance.get("notes", ()))
    if was_trained_on(ready.loaded.encoder.spec.cohorts, task.cohort):
        notes.append(f"the encoder was pre-trained on {task.cohort}, so it is no strange cohort to it")
    if shared.left_at_home:
        notes.append(f"{task.cohort} does not label {', '.join(shared.left_at_home)}, so these count nowhere")
    return json_safe(
        {
            "samples": len(away.targets),
            "subjects": int(away.groups.max()) + 1,
            "left_out": dict(counts),
            "classes_not_compared": {"home": list(shared.left_at_home), "away": list(shared.left_away)},
            "few_subjects": few_subjects(objective_of(away).subjects_by_class(away)),
            "split_hash": data.split_hash(),
            "notes": notes,
        }
    )
