"""Rows of a board: the seeds of one task, encoder and adapter, joined, with intervals over subjects and seeds."""

from __future__ import annotations

import functools
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from medgraft.benchmarks.board.remembered import Computed, key_of, recall, remember
from medgraft.benchmarks.board.standing import give_standings
from medgraft.benchmarks.external.results import StoredTest, external_beside
from medgraft.benchmarks.fairness.basis import (
    commonest,
    definitions_of,
    hardware_of,
    mark_speeds,
    section_of,
    split_of,
)
from medgraft.benchmarks.fairness.marks import marks_of
from medgraft.benchmarks.garbage import uncollected
from medgraft.benchmarks.metrics.bootstrap import METHOD, Estimate, left_out_of
from medgraft.benchmarks.metrics.intervals import few_subjects, joined_interval, pooled_intervals
from medgraft.benchmarks.metrics.student import Bounds, Ends
from medgraft.benchmarks.results.held.beside import read_held
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.verification import Verified, stored_predictions, verified_results
from medgraft.benchmarks.statistics.evidence import Evidence, measured_of, same_subjects, subjects_digest
from medgraft.benchmarks.statistics.ranks import BesideFull, Standing
from medgraft.errors import MedgraftError
from medgraft.metric import Predictions
from medgraft.metric.judging import judged, metric_of, objective_of
from medgraft.objective import objective_class

SPEEDS = ("train_samples_per_s", "inference_samples_per_s", "generated_tokens_per_s")
"""Numbers of a row's costs that depend on the machine."""


@dataclass
class BoardRow:
    """All seeds of one task, encoder, adapter, cohort and set of hyper-parameters.

    Attributes:
        cells: The results, by seed.
        metrics: Name -> (mean over the seeds, lower and upper end of the 95% interval).
        note: What tells it from rows of the same encoder and adapter in its table.
        unverified: Seeds whose metrics could not be checked, for want of readable predictions beside them.
        few: Classes with too few test subjects for their intervals to hold, and how many there are.
        tests: Of each seed that was tested on other cohorts, these tests.
        conflicts: What other results of the same keys say otherwise, in words.
        files: Of each of the cells, its file.
        beside: Of a row without a success, a result of the table that it would stand in.
        other_hardware: Where its speeds were measured, if that is not where those of most rows of its table were.
        standing: Its rank in its table; ``None`` where the data say nothing of it.
        standing_note: Why it has none, or a wider one than its predictions would give; empty where neither is so.
        beside_full: How it stands to full fine-tuning of the same encoder, where the table has that.
        evidence: What its rank follows from, where its predictions are at hand.
    """

    cells: list[CellResult]
    metrics: dict[str, tuple[float | None, float | None, float | None]]
    note: str = ""
    unverified: int = 0
    few: Mapping[str, int] = field(default_factory=dict)
    tests: Sequence[Sequence[StoredTest]] = ()
    conflicts: tuple[str, ...] = ()
    files: Sequence[Path] = ()
    beside: CellResult | None = None
    other_hardware: str = ""
    standing: Standing | None = None
    standing_note: str = ""
    beside_full: BesideFull | None = None
    evidence: Evidence | None = field(default=None, repr=False)

    @property
    def section(self) -> tuple[bool, str, str, str]:
        """What rows share that stand in one table, see :func:`medgraft.benchmarks.fairness.basis.section_of`."""
        return section_of(self.speaker)

    @property
    def speaker(self) -> CellResult:
        """The result that says which table the row stands in; a row without a success stands beside others."""
        return self.first if self.first.status == "success" or self.beside is None else self.beside

    @property
    def hardware(self) -> str:
        """What most of its speeds were measured on, in words; empty where nothing says so."""
        return commonest([hardware_of(cell) for cell in self.cells if cell.status == "success"])

    @property
    def marks(self) -> tuple[str, ...]:
        """What sets it apart from others of its table: tuned, trained longer, scaled, speeds of another machine."""
        elsewhere = (f"speeds of other hardware: {self.other_hardware}",) if self.other_hardware else ()
        return (*marks_of(self.first), *elsewhere)

    @property
    def title(self) -> str:
        """Heading of its table."""
        spec = self.first.spec
        limit = "" if spec.limit is None else f", at most {spec.limit} samples per split"
        return f"{spec.task}{' (PHANTOM)' if self.first.phantom else ''}{limit}"

    @property
    def adapter(self) -> str:
        """Name of the adapter with the note."""
        return f"{self.first.spec.adapter} ({self.note})" if self.note else self.first.spec.adapter

    @property
    def first(self) -> CellResult:
        """Any of the cells that succeeded; all share what the row says about itself."""
        return next((cell for cell in self.cells if cell.status == "success"), self.cells[0])

    @property
    def warning(self) -> str:
        """Which classes too few test subjects have, in words; empty for none."""
        return f"few subjects: {', '.join(f'{name} {n}' for name, n in self.few.items())}" if self.few else ""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know: what the task says of its data, and results that were found twice."""
        return (*self.first.data.get("notes", ()), *self.conflicts)

    @property
    def status(self) -> str:
        """``success``, or how many seeds ended otherwise; and how many could not be checked."""
        bad = [cell.status for cell in self.cells if cell.status != "success"]
        status = "success" if not bad else f"{len(bad)} of {len(self.cells)}: {', '.join(sorted(set(bad)))}"
        return f"{status} ({self.unverified} unverified)" if self.unverified else status


def _predictions(path: Path, cell: CellResult) -> Predictions | None:
    if not path.with_suffix(".npz").exists():  # a board of JSON files alone has thousands of rows
        return None
    try:
        return stored_predictions(path, cell)
    except UnreadableError:
        return None


def make_row(seeds: Sequence[tuple[Path, CellResult]], digests: Mapping[Path, str] = MappingProxyType({})) -> BoardRow:
    """Joins the seeds of a row.

    With the predictions at hand the interval resamples subjects and seeds; without them (only the JSON files were
    copied) the seeds' own intervals and their spread are added up, see :mod:`medgraft.benchmarks.metrics.intervals`.

    Args:
        seeds: Results with their files.
        digests: Of the files that were read already, see :func:`medgraft.benchmarks.board.remembered.key_of`.
    """
    seeds = sorted(seeds, key=lambda item: item[1].spec.seed)
    good = [(path, cell) for path, cell in seeds if cell.status == "success"]
    metrics: dict[str, tuple[float | None, float | None, float | None]] = {}
    names = list(good[0][1].metrics) if good else []
    computed, few = _of_predictions(good, names, digests)
    pooled: Mapping[str, Ends] = computed.intervals if computed is not None else {}
    named = metrics_of(good[0][1]) if good else ()
    for name in names:
        values = [cell.metrics[name] for _, cell in good if name in cell.metrics]
        low, high = pooled[name] if name in pooled else joined(values, metric_of(name, named).bounds)
        metrics[name] = (_mean(v.value for v in values), low, high)
    evidence = None
    if computed is not None and computed.measured is not None:
        evidence = Evidence(computed.measured, computed.subjects, functools.partial(stored_predictions, *good[0]))
    return BoardRow([cell for _, cell in seeds], metrics, few=few, files=[path for path, _ in seeds], evidence=evidence)


def _of_predictions(
    good: Sequence[tuple[Path, CellResult]], names: Sequence[str], digests: Mapping[Path, str]
) -> tuple[Computed | None, Mapping[str, int]]:
    """What a row's predictions say, which are not read where that is remembered.

    Returns:
        What they say together, ``None`` unless all are at hand and of the same subjects; and the classes with few
        subjects, which one of them or the result itself tells.
    """
    if not good:
        return None, {}
    paths = [path for path, _ in good]
    key = key_of(paths, digests) if all(path.with_suffix(".npz").exists() for path in paths) else None
    if key is not None and (known := recall(key)) is not None:
        return known, known.few
    predictions = [p for path, cell in good if (p := _predictions(path, cell)) is not None]
    if not predictions:
        return None, good[0][1].data.get("few_subjects", {})
    few = few_subjects(objective_of(predictions[0]).subjects_by_class(predictions[0]))
    if len(predictions) < len(good) or not same_subjects(predictions):
        return None, few
    as_now = len(good) == 1 and good[0][1].data.get("interval_method") == METHOD
    found = _computed(predictions, () if as_now else names, good[0][1].primary, few)
    if key is not None and key_of(paths, {}) == key:  # or what was read may be another file's than the digest
        remember(key, found)
    return found, few


def _computed(
    predictions: Sequence[Predictions], names: Iterable[str], primary: str, few: Mapping[str, int]
) -> Computed:
    """Intervals of the numbers ``names`` over subjects and seeds, and what the row's rank follows from."""
    seen, left_out = [judged(p) for p in predictions], left_out_of(predictions[0])
    statistics = [each.statistics for each in seen]
    metrics = {name: seen[0].metrics[name] for name in names if name in seen[0].metrics}
    intervals = pooled_intervals(statistics, left_out, metrics)
    return Computed(intervals, measured_of(statistics, left_out, primary), few, subjects_digest(predictions[0]))


def joined(values: Sequence[Estimate], bounds: Bounds) -> Ends:
    """Interval of the mean of the seeds' own estimates; none where one of them has none."""
    ends = [(v.value, v.ci_low, v.ci_high) for v in values if None not in (v.value, v.ci_low, v.ci_high)]
    if not ends or len(ends) < len(values):
        return None, None
    return joined_interval(*zip(*ends, strict=True), bounds)  # pyright: ignore


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = list(values)
    return (
        None
        if not numbers or any(v is None for v in numbers)
        else statistics.fmean(v for v in numbers if v is not None)
    )


def board_rows(folders: Iterable[Path]) -> list[BoardRow]:
    """Rows of all results below the folders, by task, real cohorts first, by rank and then value within a table.

    Results that contradict themselves are left out, see :mod:`medgraft.benchmarks.results.verification`.
    """
    with uncollected():
        rows = rows_of(verified_results(folders, read=read_held))
        give_standings(rows, ranked_upwards)

    def order(row: BoardRow) -> tuple[Any, ...]:
        value = row.metrics.get(row.first.primary, (None, None, None))[0]
        if value is not None and ranked_upwards(row.first):
            value = -value
        rank = row.standing.rank if row.standing is not None else len(rows) + 1
        return (*row.section, value is None, rank, value or 0.0, row.first.spec.encoder, row.adapter)

    return sorted(rows, key=order)


def _by_row(results: Iterable[Verified]) -> list[list[Verified]]:
    """Results by row; seeds of one row whose splits or metrics are not the same are rows apart, never averaged."""
    rows: dict[str, dict[tuple[str, str], list[Verified]]] = defaultdict(lambda: defaultdict(list))
    failed: dict[str, list[Verified]] = defaultdict(list)
    for each in results:
        row = each.cell.spec.row()
        if each.cell.status == "success":
            rows[row][split_of(each.cell), repr(definitions_of(each.cell))].append(each)
        else:
            failed[row].append(each)
    for row, ended in failed.items():
        (next(iter(rows[row].values())) if rows[row] else rows[row]["", ""]).extend(ended)
    return [seeds for parts in rows.values() for seeds in parts.values()]


def _seat_failures(rows: Sequence[BoardRow]) -> None:
    """Rows without a success know no split; they stand with those that were asked for the same."""
    known: dict[tuple[Any, ...], CellResult] = {}
    for row in rows:
        if row.first.status == "success":
            known.setdefault(_asked(row.first), row.first)
    for row in rows:
        if row.first.status != "success":
            row.beside = known.get(_asked(row.first))


def _asked(cell: CellResult) -> tuple[Any, ...]:
    spec = cell.spec
    options = repr(sorted(spec.task_options.items()))
    return spec.task, spec.cohort.revision, options, spec.task_version, spec.limit, spec.numbers_version


def rows_of(results: Iterable[Verified]) -> list[BoardRow]:
    """Results as rows, in no order; rows that would look alike say what differs."""
    groups = _by_row(results)
    tests = external_beside([each.path for seeds in groups for each in seeds])
    rows = []
    for seeds in groups:
        digests = {each.path: each.digest for each in seeds if each.digest}
        rows.append(make_row([(each.path, each.cell) for each in seeds], digests))
        rows[-1].unverified = sum(bool(each.unverified) for each in seeds)
        rows[-1].conflicts = tuple(each.conflict for each in seeds if each.conflict)
        rows[-1].tests = [tests[each.path] for each in seeds if each.path in tests]
    _seat_failures(rows)
    note_differences(rows)
    mark_speeds(rows)
    return rows


def ranked_upwards(cell: CellResult) -> bool:
    """Whether more of a result's primary metric is better; so it is where its objective is not installed here."""
    return metric_of(cell.primary, metrics_of(cell)).higher_is_better


def metrics_of(cell: CellResult) -> tuple[str, ...]:
    """Names of the metrics of a result's objective; none where that is not installed here."""
    return _metrics_of_objective(str(cell.data.get("objective", "")))


@functools.cache
def _metrics_of_objective(name: str) -> tuple[str, ...]:
    """Looked up once, unknown names too: thousands of rows ask, and each look reads what is installed."""
    try:
        return objective_class(name).metrics
    except MedgraftError:
        return ()


def note_differences(rows: Iterable[BoardRow]) -> None:
    """Says of rows that would look alike what differs: epochs, options, versions."""
    alike: dict[tuple[Any, ...], list[BoardRow]] = defaultdict(list)
    for row in rows:
        alike[(row.section, row.first.spec.encoder, row.first.spec.adapter)].append(row)
    for members in alike.values():
        facts = [_flat(row.first.spec.model_dump(mode="json", exclude={"seed"})) for row in members]
        names = [name for name in dict.fromkeys(n for f in facts for n in f) if len({f.get(name) for f in facts}) > 1]
        for row, fact in zip(members, facts, strict=True):
            row.note = ", ".join(f"{name.rpartition('.')[2]} {fact.get(name, '-')}" for name in names)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": str(value)[:24]}
    return flat


def median(row: BoardRow, name: str) -> float | None:
    """Median over the seeds of a number of :class:`medgraft.benchmarks.results.result.Efficiency`.

    Speeds are of the seeds that were measured on the hardware of most.
    """
    cells = [cell for cell in row.cells if cell.status == "success" and cell.efficiency is not None]
    if name in SPEEDS:
        usual = row.hardware
        cells = [cell for cell in cells if hardware_of(cell) == usual]
    costs = [getattr(cell.efficiency, name) for cell in cells]
    numbers = [value for value in costs if value is not None]
    return statistics.median(numbers) if numbers else None
