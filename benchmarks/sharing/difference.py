"""What moved between two folders of results: by how much, whether by more than noise, and what it cost.

Where the predictions of both lie beside them, on the same test samples of the same subjects and for the same seeds, the
difference is paired by subject and by seed (:func:`medgraft.benchmarks.metrics.intervals.paired_interval`). Otherwise
both rows' own intervals are added up in quadrature, as if they were of other subjects, which is too wide where they are
not. Of many rows some move by chance, so what counts as moved is decided together: by Holm's procedure (Scandinavian
Journal of Statistics 6, 1979) over the rows' two-sided p values, which are those of a normal distribution with the
interval's width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medgraft.benchmarks.board.rows import median, metrics_of
from medgraft.benchmarks.metrics.bootstrap import left_out_of
from medgraft.benchmarks.metrics.intervals import paired_interval
from medgraft.benchmarks.metrics.student import Ends
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.verification import Verified, stored_predictions
from medgraft.benchmarks.sharing.finding import Found
from medgraft.benchmarks.sharing.matching import Pair
from medgraft.benchmarks.statistics.pairs import holm
from medgraft.metric import Predictions
from medgraft.metric.judging import judged, metric_of

Change = Literal["same", "within noise", "better", "worse", "undefined"]

ALPHA = 0.05
NORMAL = 1.959963984540054
"""Half the width of a normal distribution's 95% interval, in deviations."""

COSTS = {
    "train_samples_per_s": (1, "training samples/s"),
    "inference_samples_per_s": (1, "inference samples/s"),
    "generated_tokens_per_s": (1, "decoded tokens/s"),
    "train_step_peak_bytes": (-1, "peak bytes of a training step"),
    "process_peak_bytes": (-1, "peak bytes of the process"),
}
"""Measured cost -> whether more of it is better, and its name."""


@dataclass(frozen=True)
class Moved:
    """One metric of one row in two folders.

    Attributes:
        pair: The row.
        metric: Name.
        old: Mean over the seeds that both have.
        new: The same in the second folder.
        low: Lower end of the 95% interval of ``new - old``; ``None`` where it cannot be had.
        high: Upper end.
        seeds: Seeds that both have.
        paired: The difference is of the same subjects, drawn together.
        p: Two-sided p value, of this row alone.
        change: What it comes to among all rows that are compared.
    """

    pair: Pair
    metric: str
    old: float | None
    new: float | None
    low: float | None
    high: float | None
    seeds: tuple[int, ...]
    paired: bool
    p: float
    change: Change


@dataclass(frozen=True)
class CostMoved:
    """A measured cost that moved.

    Attributes:
        pair: The row.
        name: What was measured.
        old: Median over seeds.
        new: The same in the second folder.
        worse: It costs more.
    """

    pair: Pair
    name: str
    old: float
    new: float
    worse: bool


def moved(pairs: Sequence[Pair], metrics: Sequence[str] = ()) -> list[Moved]:
    """How each row's primary metric, and further ones, moved.

    Args:
        pairs: The rows.
        metrics: Further metrics, of rows that have them.
    """
    found = []
    for pair in pairs:
        first, second = pair.old.row.first, pair.new.row.first
        names = dict.fromkeys([second.primary, *metrics])
        found += [_moved(pair, name) for name in names if name in first.metrics and name in second.metrics]
    return _decided(found)


def _moved(pair: Pair, name: str) -> Moved:
    both = _both(pair)
    seeds = tuple(old.cell.spec.seed for old, _ in both)
    olds = [old.cell.metrics[name].value for old, _ in both if name in old.cell.metrics]
    news = [new.cell.metrics[name].value for _, new in both if name in new.cell.metrics]
    if not both or olds == news or None in (*olds, *news) or len(olds) != len(news) or len(olds) != len(both):
        change: Change = "same" if both and olds == news else "undefined"
        return Moved(pair, name, _mean(olds), _mean(news), None, None, seeds, False, 1.0, change)
    ends = _paired_ends(both, name)
    paired = ends is not None
    delta = float(np.mean(news)) - float(np.mean(olds))  # pyright: ignore[reportArgumentType, reportCallIssue]
    low, high = ends if ends is not None else _added_up(pair, name, delta)
    p = _p_value(delta, low, high)
    return Moved(pair, name, _mean(olds), _mean(news), low, high, seeds, paired, p, "within noise")


def _both(pair: Pair) -> list[tuple[Verified, Verified]]:
    """The successful cells of the seeds that both rows have."""
    old, new = (_by_seed(each) for each in (pair.old, pair.new))
    return [(old[seed], new[seed]) for seed in sorted(old.keys() & new.keys())]


def _by_seed(found: Found) -> dict[int, Verified]:
    return {each.cell.spec.seed: each for each in found.results if each.cell.status == "success"}


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers and len(numbers) == len(values) else None


def _paired_ends(both: Sequence[tuple[Verified, Verified]], name: str) -> Ends | None:
    """Interval of the mean difference over seeds on the same subjects; ``None`` where they cannot be paired."""
    predictions = [(_predictions(old), _predictions(new)) for old, new in both]
    first = predictions[0][0]
    if first is None or any(p is None or q is None for p, q in predictions):
        return None
    pairs = [(p, q) for p, q in predictions if p is not None and q is not None]
    if not all(_same_samples(first, each) for pair in pairs for each in pair):
        return None
    judgements = [(judged(p), judged(q)) for p, q in pairs]
    if not all(name in side.statistics for pair in judgements for side in pair):
        return None
    old, new = ([pair[side].statistics[name] for pair in judgements] for side in (0, 1))
    return paired_interval(new, old, left_out_of(first), judgements[0][0].metrics[name])


def _predictions(result: Verified) -> Predictions | None:
    if result.unverified:
        return None
    try:
        return stored_predictions(result.path, result.cell)
    except UnreadableError:
        return None


def _same_samples(one: Predictions, other: Predictions) -> bool:
    return np.array_equal(one.groups, other.groups) and np.array_equal(one.targets, other.targets)


def _added_up(pair: Pair, name: str, delta: float) -> Ends:
    """Both rows' own intervals in quadrature."""
    numbers = [number for each in (pair.old, pair.new) for number in each.row.metrics[name] if number is not None]
    if len(numbers) < 6:
        return None, None
    value, low, high, other, other_low, other_high = numbers
    return delta - math.hypot(other - other_low, high - value), delta + math.hypot(other_high - other, value - low)


def _p_value(delta: float, low: float | None, high: float | None) -> float:
    """Two-sided, of no difference; 1 where nothing is known of the noise."""
    if delta == 0:
        return 1.0
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return 1.0
    deviation = (high - low) / (2 * NORMAL)
    return math.erfc(abs(delta) / (deviation * math.sqrt(2))) if deviation > 0 else 0.0


def _decided(found: Sequence[Moved]) -> list[Moved]:
    """With what each change comes to, decided for all together."""
    adjusted = holm(np.array([each.p for each in found if each.change == "within noise"])).tolist()
    decided, place = [], 0
    for each in found:
        if each.change == "within noise":
            each, place = replace(each, change=_change(each, adjusted[place])), place + 1
        decided.append(each)
    return decided


def _change(each: Moved, p: float) -> Change:
    assert each.old is not None and each.new is not None
    if each.old == each.new:
        return "same"
    if p >= ALPHA:
        return "within noise"
    cell = each.pair.new.row.first
    up = metric_of(each.metric, metrics_of(cell)).higher_is_better
    return "better" if (each.new > each.old) == up else "worse"


def hardware(cell: CellResult) -> tuple[object, ...]:
    """What speeds and memory of two results must share to be compared."""
    env, costs = cell.env, cell.efficiency
    gpu = env.get("gpu") if cell.spec.device == "cuda" else None
    jobs = costs.concurrent_jobs if costs is not None else None
    return (gpu, env.get("cpu"), env.get("cpu_capability"), env.get("cpu_count"), env.get("threads"), jobs)


def costs_moved(pairs: Sequence[Pair], share: float) -> tuple[list[CostMoved], list[Pair]]:
    """Speeds and memory that moved by more than a share, on the same hardware; and rows of other hardware.

    Args:
        pairs: The rows.
        share: Of the old value.
    """
    changes, elsewhere = [], []
    for pair in pairs:
        old, new = pair.old.row, pair.new.row
        if "success" not in (old.first.status, new.first.status) or not (old.first.env and new.first.env):
            continue
        if {hardware(c) for c in old.cells if c.env} != {hardware(c) for c in new.cells if c.env}:
            elsewhere.append(pair)
            continue
        for field, (sign, name) in COSTS.items():
            before, after = median(old, field), median(new, field)
            if before and after and abs(after / before - 1) > share:
                changes.append(CostMoved(pair, name, before, after, sign * (after - before) < 0))
    return changes, elsewhere


def parameters_moved(pairs: Sequence[Pair]) -> list[tuple[Pair, int, int]]:
    """Rows whose trainable parameters are others, with both counts."""
    counted = []
    for pair in pairs:
        counts = [_trainable(each.row.first) for each in (pair.old, pair.new)]
        if None not in counts and counts[0] != counts[1]:
            counted.append((pair, *counts))
    return counted


def _trainable(cell: CellResult) -> int | None:
    costs = cell.efficiency
    return sum(costs.trainable.values()) if costs is not None and cell.status == "success" else None


def statuses_moved(pairs: Sequence[Pair]) -> list[tuple[Pair, int, str, str]]:
    """Seeds that both rows have and that ended otherwise: row, seed, how before, how now."""
    found = []
    for pair in pairs:
        old, new = ({each.cell.spec.seed: each.cell.status for each in side.results} for side in (pair.old, pair.new))
        found += [(pair, s, old[s], new[s]) for s in sorted(old.keys() & new.keys()) if old[s] != new[s]]
    return found


def versions_moved(old: Sequence[Found], new: Sequence[Found]) -> Mapping[str, tuple[str, str]]:
    """Packages, Python, processors and commits of which the two folders name others."""
    before, after = _versions(old), _versions(new)
    return {
        name: (", ".join(sorted(before.get(name, {"none"}))), ", ".join(sorted(after.get(name, {"none"}))))
        for name in dict.fromkeys([*before, *after])
        if before.get(name) != after.get(name)
    }


def _versions(rows: Sequence[Found]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for each in (result.cell for row in rows for result in row.results):
        facts = {"python": each.env.get("python"), "processor": each.env.get("cpu"), "gpu": each.env.get("gpu")}
        facts |= each.env.get("packages") or {}
        commit = each.env.get("commit")
        facts["commit"] = commit and f"{str(commit)[:10]}{' with changes' if each.env.get('dirty') else ''}"
        for name, value in facts.items():
            if value is not None:
                found.setdefault(name, set()).add(str(value))
    return found
