"""What a split by scan would have claimed: one cell trained twice, once with a leak, tested on the same scans.

Visits of one person and processed variants of one scan look alike, so a model that has seen one of them recognises the
other. Wen et al., Medical Image Analysis 2020, and Yagis et al., "Effect of data leakage in brain MRI classification
using 2D convolutional neural networks", Scientific Reports 11, 2021, found most published numbers of some years
inflated by it. Both arms here have the same test scans, the same number of training scans and the same seeds, and
differ in one thing: the *subject-level* arm trains on other people, the *scan-level* arm on scans drawn from everything
that is no test scan, whoever is on them. So the difference is the leak's, and its interval a paired one.

The scan-level arm exists here only. No task offers such a split, and every sweep refuses one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from medgraft.benchmarks.cell.steps.evaluation import evaluate
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.operations import operations
from medgraft.benchmarks.cell.steps.precomputing import build
from medgraft.benchmarks.cell.steps.training import train
from medgraft.benchmarks.cohorts import places as cohorts
from medgraft.benchmarks.measure.environment import use_threads
from medgraft.benchmarks.metrics.bootstrap import left_out_of
from medgraft.benchmarks.metrics.intervals import paired_interval, pooled_intervals
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.sweep.request import Sweep
from medgraft.errors import ConfigError, DataError
from medgraft.metric import Predictions, value_of
from medgraft.metric.judging import judged
from medgraft.objective import objective_class, objective_name
from medgraft.task import Task, TaskData
from medgraft.task.names import build_task, task_class

Interval = tuple[float | None, float | None, float | None]
ARMS = ("subject", "scan")


class LeakReport(BaseModel):
    """The two arms of one cell.

    Attributes:
        task: Task name.
        encoder: Encoder name.
        adapter: Adapter name.
        seeds: Seeds that both arms were trained with.
        metric: What is compared, the task's primary metric.
        phantom: The cohort is generated.
        cohort_revision: Digest of the cohort.
        subject: Mean over the seeds and 95% interval of the subject-level arm.
        scan: The same of the scan-level arm.
        difference: ``scan`` less ``subject``, with a paired interval: what the leak adds.
        n_train: Training scans of either arm.
        n_test: Test scans, the same in both.
        exposed: Share of the test scans whose subject the scan-level arm trained on.
    """

    model_config = ConfigDict(extra="forbid")

    task: str
    encoder: str
    adapter: str
    seeds: tuple[int, ...]
    metric: str
    phantom: bool
    cohort_revision: str
    subject: Interval
    scan: Interval
    difference: Interval
    n_train: int
    n_test: int
    exposed: float


class _ScanLevel(TaskData):
    """Data with a leak on purpose: samples are in one split only, subjects are not."""

    def check(self) -> TaskData:
        taken = np.concatenate(list(self.splits.values()))
        if len(np.unique(taken)) != len(taken):
            raise DataError("a sample is in two splits")
        return self


def scan_level(data: TaskData, seed: int) -> TaskData:
    """The same test scans with as many training scans, drawn without looking at whose they are.

    Args:
        data: Data with a subject-level split.
        seed: Of the draw.

    Raises:
        DataError: No test subject has another scan that training could see.
    """
    kept = np.concatenate([data.splits["val"], data.splits["test"]])
    in_split = np.isin(data.subjects, data.subjects[np.concatenate(list(data.splits.values()))])
    in_split[kept] = False
    pool, n = np.flatnonzero(in_split), len(data.splits["train"])
    drawn = np.sort(np.random.default_rng([seed, 23]).permutation(pool)[:n])
    leaky = _ScanLevel(**{each.name: getattr(data, each.name) for each in fields(data)})
    leaky = replace(leaky, splits={**data.splits, "train": drawn})
    if exposed(leaky) == 0:
        raise DataError(
            "no test subject has another scan in this cohort, so nothing can leak; it needs several visits per subject "
            "(medgraft cohort adni --visits 5), or variants: all on a LONI download"
        )
    return leaky


def exposed(data: TaskData) -> float:
    """Share of the test scans whose subject is in training."""
    return float(np.isin(data.subjects[data.splits["test"]], data.subjects[data.splits["train"]]).mean())


def run_arm(spec: CellSpec, task: Task, data: TaskData, root: Path) -> Predictions:
    """Trains one cell on the split that the data have, and predicts their test scans."""
    use_threads(spec.threads)
    fixed = type("FixedSplit", (type(task),), {"load": lambda self, root: data})(task.config)
    with operations(spec):
        ready = build(load(spec, root, fixed))
        train(ready, lambda share: None)
        arrays = evaluate(ready).arrays
    return Predictions(
        arrays["scores"],
        arrays["targets"],
        arrays["groups"],
        data.classes,
        arrays.get("mask"),
        arrays.get("thresholds"),
        variants=data.variants,
    )


def compare(arms: Mapping[str, Sequence[Predictions]], metric: str) -> dict[str, Interval]:
    """Means over the seeds of both arms and of their difference, with intervals over subjects and seeds.

    Those of the arms are a result's, that of the difference is paired by subject and by seed
    (:func:`medgraft.benchmarks.metrics.intervals.paired_interval`).

    Args:
        arms: ``subject`` and ``scan`` -> predictions per seed, all of the same test scans.
        metric: Name of a metric.
    """
    one = next(iter(arms.values()))[0]
    left_out, kind = left_out_of(one), judged(one).metrics[metric]
    statistics = {arm: [judged(p).statistics[metric] for p in each] for arm, each in arms.items()}
    means = {
        arm: float(np.mean([value_of(each, len(one.groups)) for each in several]))
        for arm, several in statistics.items()
    }
    found: dict[str, Interval] = {}
    for arm, several in statistics.items():
        ends = pooled_intervals([{metric: each} for each in several], left_out, {metric: kind})[metric]
        found[arm] = (means[arm], *ends)
    ends = paired_interval(statistics["scan"], statistics["subject"], left_out, kind)
    return {**found, "difference": (means["scan"] - means["subject"], *ends)}


def longitudinal(sweep: Sweep, announce: Callable[[str], None], jobs: int) -> Sweep:
    """The request with a phantom of several visits per subject in place of one with a single visit."""
    added = {}
    for several, entry in sweep.preset_entry().cohorts.items():
        single = cohorts.data_of(several)
        needed = any(task_class(task).cohort == single for task in sweep.tasks or ())
        if single != several and needed and single not in sweep.data:
            added[single] = cohorts.phantom(several, entry, jobs, announce).root
    return sweep.model_copy(update={"data": {**sweep.data, **added}})


def leak_check(sweep: Sweep, announce: Callable[[str], None], *, jobs: int = 1) -> list[LeakReport]:
    """Trains every row of the request with both splits.

    Args:
        sweep: Adapters, tasks, encoders, seeds, data and options, as for ``run``; reference rows are left out.
        announce: Called with one line per arm that starts.
        jobs: Worker processes for making a phantom.

    Raises:
        ConfigError: Nothing can run, or a row is no classification.
        DataError: Nothing can leak in a cohort, since every subject has one scan.
    """
    from rich.console import Console

    from medgraft.benchmarks.sweep.plan import make_plan

    sweep = longitudinal(sweep.model_copy(update={"baselines": False}), announce, jobs)
    plan = make_plan(sweep, Console(quiet=True))
    rows: dict[str, list[CellSpec]] = {}
    for cell in plan.cells:
        rows.setdefault(cell.row(), []).append(cell)
    reports = []
    for cells in rows.values():
        first = cells[0]
        task = build_task(first.task, first.task_options)
        if objective_class(task.objective).needs:
            raise ConfigError(
                f"task {first.task!r} is {objective_name(task.objective)}; leak-check takes classes or labels"
            )
        place = plan.cohorts[task.cohort]
        data = task.load(place.root).check()
        by_arm: dict[str, list[Predictions]] = {arm: [] for arm in ARMS}
        leaky = {cell.seed: scan_level(data, cell.seed) for cell in cells}
        for cell in cells:
            for arm, split in (("subject", data), ("scan", leaky[cell.seed])):
                announce(f"{cell.task} / {cell.encoder} / {cell.adapter} seed {cell.seed}: {arm}-level split")
                by_arm[arm].append(run_arm(cell, task, split, place.root))
        reports.append(
            LeakReport(
                task=first.task,
                encoder=first.encoder,
                adapter=first.adapter,
                seeds=tuple(cell.seed for cell in cells),
                metric=task.primary,
                phantom=data.phantom,
                cohort_revision=place.of(first.task).revision,
                **compare(by_arm, task.primary),
                n_train=len(data.splits["train"]),
                n_test=len(by_arm["subject"][0].targets),
                exposed=float(np.mean([exposed(each) for each in leaky.values()])),
            )
        )
    return reports
