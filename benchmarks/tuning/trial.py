"""A trial of ``--tune``: a cell that is trained and judged on validation samples, and has no test split.

The test split is taken out before anything is attached: its samples stand in no split, and their targets are
overwritten. Whatever asks for them finds nothing, or values that no metric and no loss survives. Their inputs stay,
unlabelled, so that frozen features are computed once for trials and cells.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from medgraft.benchmarks.cell.job import STEPS, Job, Progress
from medgraft.benchmarks.cell.steps.loading import Loaded
from medgraft.benchmarks.measure import environment
from medgraft.benchmarks.results.chosen import Trial
from medgraft.benchmarks.results.result import CellResult, Status
from medgraft.errors import DataError, IncompatibleError
from medgraft.task import TaskData
from medgraft.world import World

KEPT_SPLITS = ("train", "val")
FITS = "fits"
"""Key of a trial's ``training``: whether the adapter fits the encoder with the values that were tried."""


def run_trial(job: Job, progress: Progress) -> CellResult:
    """Trains a cell and judges it on validation samples.

    Args:
        job: The cell, with the options that are tried.
        progress: Called with what runs now and the share of it that is done.

    Returns:
        A result without metrics; ``training`` holds the score as ``validation``, or that the values do not fit.

    Raises:
        MedgraftError: The data have no validation split.
    """
    from medgraft.benchmarks.cell.steps.agreeing import require_agreement
    from medgraft.benchmarks.cell.steps.attaching import attach
    from medgraft.benchmarks.cell.steps.loading import load
    from medgraft.benchmarks.cell.steps.precomputing import precompute
    from medgraft.benchmarks.cell.steps.training import train
    from medgraft.benchmarks.cell.steps.validating import validation_score

    start = time.perf_counter()
    progress(STEPS["load"], 0.0)
    loaded = without_test(load(job.spec, job.root))
    require_agreement(loaded, World())
    if not len(loaded.splits["val"]):
        raise DataError(f"--tune: task {job.spec.task!r} has no validation split to choose by; leave the option out")
    progress(STEPS["build"], 0.0)
    try:
        attached = attach(loaded)
    except IncompatibleError as error:
        return _result(job, loaded, start, "error", {FITS: False}, str(error))
    progress(STEPS["prefix"], 0.0)
    ready = precompute(attached)
    progress(STEPS["train"], 0.0)
    log = train(ready, lambda share: progress(f"{STEPS['train']} {ready.runner.phase}".strip(), share))
    progress(STEPS["evaluate"], 0.0)
    score = validation_score(ready)
    attached.give_back()
    found = {"validation": score, "steps": log.steps, "seconds": log.seconds}
    return _result(job, loaded, start, "success", found)


def _result(
    job: Job, loaded: Loaded, start: float, status: Status, training: dict[str, Any], message: str = ""
) -> CellResult:
    """What a trial of some data reports that began at that time."""
    spec = job.spec
    return CellResult(
        key=spec.key(),
        status=status,
        spec=spec,
        phantom=loaded.data.phantom or spec.cohort.phantom,
        primary=loaded.task.primary,
        message=message,
        training=training,
        env=environment.describe(spec.threads, job.devices),
        timing={"trial": round(time.perf_counter() - start, 3)},
    )


def trial_of(result: CellResult, number: int, values: dict[str, Any], seconds: float) -> Trial:
    """What is kept of a trial.

    Args:
        result: Of :func:`run_trial`, or of a worker that failed.
        number: Of the trial.
        values: What was tried.
        seconds: From start to end of its process.
    """
    score = result.training.get("validation") if result.status == "success" else None
    return Trial(
        number=number,
        values=values,
        status=result.status,
        score=score,
        seconds=round(seconds, 3),
        message=result.message,
        fits=bool(result.training.get(FITS, True)),
    )


def without_test(loaded: Loaded) -> Loaded:
    """What was loaded, without the test split, and without targets for anything but training and validation."""
    splits = {name: loaded.splits[name] for name in KEPT_SPLITS}
    shown = np.unique(np.concatenate([np.asarray(loaded.data.splits[name], np.int64) for name in KEPT_SPLITS]))
    return replace(loaded, data=_hidden(loaded.data, shown), splits=splits)


def _hidden(data: TaskData, shown: np.ndarray) -> TaskData:
    """The data with targets for the samples ``shown``, ``[m]``, alone."""
    regions = data.regions

    def shown_regions(sample: int) -> np.ndarray:
        if sample not in shown:
            raise DataError("a trial has no regions of samples outside of the training and validation splits")
        assert regions is not None
        return regions(sample)

    return replace(
        data,
        targets=_overwritten(data.targets, shown),
        mask=None if data.mask is None else _overwritten(data.mask, shown),
        labels=None if data.labels is None else _overwritten(data.labels, shown),
        columns={name: _overwritten(column, shown) for name, column in data.columns.items()},
        attributes={},
        regions=None if regions is None else shown_regions,
        splits={name: index for name, index in data.splits.items() if name in KEPT_SPLITS},
    )


def _overwritten(values: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Values ``[n, ...]``, kept for some samples; elsewhere ``nan``, false, or the smallest number of their type."""
    hidden = np.empty(values.shape, values.dtype)
    if values.dtype.kind == "f":
        hidden[:] = np.nan
    elif values.dtype.kind == "i":
        hidden[:] = np.iinfo(values.dtype).min
    else:
        hidden[:] = np.zeros((), values.dtype)
    hidden[shown] = values[shown]
    return hidden
