"""Adapters of a suite by their mean rank over its tasks, with its interval.

On each task (and encoder) rows are ranked by the suite's primary metric, the mean over the suite's seeds; equal values
share the mean of their ranks. An adapter's mean rank averages encoders within a task first, then tasks. Its interval
resamples, on each task, the test subjects, the same for all rows of it, and each row's seeds, and ranks anew. It says
what other subjects and seeds would change. It does not say what other tasks would: a suite has few, and they are not
drawn from anywhere.
"""

from __future__ import annotations

import functools
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from medgraft.benchmarks.board.rows import BoardRow, metrics_of
from medgraft.benchmarks.metrics.resampling import subject_bootstrap
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.verification import stored_predictions
from medgraft.benchmarks.suite.membership import misfit
from medgraft.errors import MedgraftError
from medgraft.metric import Predictions
from medgraft.metric.judging import judged, metric_of
from medgraft.registry import build_adapters
from medgraft.suites import Suite, find_suite, suites

RESAMPLES = 1000

Column = tuple[str, str]
"""Task and encoder."""


@dataclass(frozen=True)
class Ranked:
    """An adapter with all the results that the suite asks for.

    Attributes:
        adapter: Its name, with what tells it from another of the name.
        rank: Mean rank over the tasks, 1 is best.
        low: Lower end of the 95% interval; ``None`` where predictions are not at hand.
        high: Upper end.
        values: Column -> primary metric, mean over the seeds.
    """

    adapter: str
    rank: float
    low: float | None
    high: float | None
    values: Mapping[Column, float]


@dataclass(frozen=True)
class SuiteBoard:
    """What a suite says of some results.

    Attributes:
        suite: The suite.
        phantom: Of generated cohorts; ranks never mix them with those of people.
        ranked: Adapters, the best first.
        unranked: Adapter -> what it lacks.
        refused: Why results of the suite's tasks are not of the suite -> which rows, and how many results.
    """

    suite: Suite
    phantom: bool
    ranked: Sequence[Ranked]
    unranked: Mapping[str, str]
    refused: Mapping[str, tuple[tuple[str, ...], int]]


@dataclass
class _Cells:
    """Results of an adapter on one column, each with its predictions where they are at hand."""

    cells: list[CellResult]
    predictions: list[Predictions]


def suite_boards(suite: Suite, rows: Iterable[BoardRow]) -> list[SuiteBoard]:
    """The ranks of a suite, of generated cohorts and of people apart.

    Args:
        suite: The suite.
        rows: See :func:`medgraft.benchmarks.board.rows.board_rows`; those of other tasks are left alone.
    """
    found: dict[bool, dict[str, dict[Column, _Cells]]] = {False: {}, True: {}}
    refused: dict[bool, dict[str, list[tuple[str, str]]]] = {False: defaultdict(list), True: defaultdict(list)}
    of_suite = [row for row in rows if row.first.spec.task in {each.task for each in suite.tasks}]
    kept = _one_cohort(of_suite)
    for row in of_suite:
        name = _entrant(row, suite)
        for number, cell in enumerate(row.cells):
            reason = misfit(suite, cell) or kept.get(id(row), "")
            if reason:
                refused[cell.phantom][reason].append((f"{name} on {cell.spec.task}", cell.key))
            elif cell.status == "success":
                column = cell.spec.task, cell.spec.encoder
                place = found[cell.phantom].setdefault(name, {}).setdefault(column, _Cells([], []))
                if cell.spec.seed not in {each.spec.seed for each in place.cells}:
                    place.cells.append(cell)
                    place.predictions += _predictions(row, number)
    boards = []
    for phantom in (False, True):
        if found[phantom] or refused[phantom]:
            told = {why: (tuple(dict.fromkeys(n for n, _ in who)), len(who)) for why, who in refused[phantom].items()}
            boards.append(_board(suite, phantom, found[phantom], told))
    return boards


def boards_of(rows: Sequence[BoardRow], named: Iterable[str] = ()) -> list[SuiteBoard]:
    """Ranks of the suites that are named, and of those that results cite and that are installed.

    Args:
        rows: Of a board.
        named: Names of suites.

    Raises:
        UnknownNameError: A suite that is named is not installed.
    """
    chosen = {suite.id: suite for suite in map(find_suite, named)}
    cited = dict.fromkeys(name for row in rows for cell in row.cells for name in cell.suites)
    chosen |= {name: suites()[name] for name in cited if name in suites() and name not in chosen}
    return [board for suite in chosen.values() for board in suite_boards(suite, rows)]


def _entrant(row: BoardRow, suite: Suite) -> str:
    """What an adapter is called over all tasks: by its own options, but where trials or a budget chose them."""
    spec = row.first.spec
    if suite.budget.tune or suite.budget.parameters:
        return spec.adapter
    own = _own_options(spec.adapter, json.dumps(spec.adapter_options, sort_keys=True))
    return f"{spec.adapter} ({own})" if own else spec.adapter


@functools.cache
def _own_options(adapter: str, options: str) -> str:
    """Options that are not the adapter's defaults; of one that is not installed, all of them."""
    values = json.loads(options)
    try:
        built = build_adapters(adapter)
        usual = {part: each.config.model_dump(mode="json") for part, each in built.items()}
    except MedgraftError:
        usual = {}
    default = next(iter(usual.values()), {}) if len(usual) == 1 else usual
    return ", ".join(f"{name} {value}" for name, value in values.items() if default.get(name, ...) != value)


def _one_cohort(rows: Sequence[BoardRow]) -> dict[int, str]:
    """Why rows are left out that read another copy of a cohort than most: ranks are of one set of subjects."""
    tables: dict[tuple[str, str, bool], dict[object, list[BoardRow]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        tables[row.first.spec.task, row.first.spec.encoder, row.first.phantom][row.section].append(row)
    left: dict[int, str] = {}
    for sections in tables.values():
        most = max(sections.values(), key=len)
        for members in sections.values():
            if members is not most:
                revision = members[0].first.spec.cohort.revision
                reason = f"it is of another table than most of the task's rows (cohort revision {revision})"
                left |= {id(row): reason for row in members}
    return left


def _predictions(row: BoardRow, number: int) -> list[Predictions]:
    if number >= len(row.files) or not row.files[number].with_suffix(".npz").exists():
        return []
    try:
        return [stored_predictions(row.files[number], row.cells[number])]
    except UnreadableError:
        return []


def _board(
    suite: Suite,
    phantom: bool,
    found: Mapping[str, Mapping[Column, _Cells]],
    refused: Mapping[str, tuple[tuple[str, ...], int]],
) -> SuiteBoard:
    columns = [(task.task, encoder) for task in suite.tasks for encoder in task.encoders]
    lacks = {name: _lacking(suite, columns, places) for name, places in found.items()}
    complete = [name for name, lack in lacks.items() if not lack]
    unranked = {name: lack for name, lack in lacks.items() if lack}
    if len(complete) == 0:
        return SuiteBoard(suite, phantom, (), unranked, refused)
    values = {
        column: np.array([fmean(_values(suite, column, found[name][column])) for name in complete])
        for column in columns
    }
    ranks = _mean_ranks({column: _ranks(each[None], suite, column, found) for column, each in values.items()})[0]
    drawn = _drawn(suite, columns, complete, found)
    ends = np.quantile(drawn, [0.025, 0.975], axis=0) if drawn is not None else np.full((2, len(complete)), np.nan)
    ranked = [
        Ranked(
            name,
            float(ranks[i]),
            None if drawn is None else float(min(ends[0, i], ranks[i])),
            None if drawn is None else float(max(ends[1, i], ranks[i])),
            {column: float(values[column][i]) for column in columns},
        )
        for i, name in enumerate(complete)
    ]
    return SuiteBoard(suite, phantom, sorted(ranked, key=lambda each: (each.rank, each.adapter)), unranked, refused)


def _lacking(suite: Suite, columns: Sequence[Column], places: Mapping[Column, _Cells]) -> str:
    """What an adapter lacks for a rank, in words; an adapter that trains nothing has one seed."""
    lacks = []
    for column in columns:
        cells = places[column].cells if column in places else []
        needed = 1 if cells and cells[0].spec.train.epochs == 0 else len(suite.seeds)
        primary = next(each.primary for each in suite.tasks if each.task == column[0])
        counted = [cell for cell in cells if primary in cell.metrics and cell.metrics[primary].value is not None]
        if len(counted) < needed:
            lacks.append(f"{' on '.join(column)} ({len(counted)} of {needed} seeds)")
    return ", ".join(lacks)


def _primary(suite: Suite, column: Column) -> str:
    return next(each.primary for each in suite.tasks if each.task == column[0])


def _values(suite: Suite, column: Column, place: _Cells) -> list[float]:
    found = [cell.metrics[_primary(suite, column)].value for cell in place.cells]
    return [value for value in found if value is not None]


def _ranks(
    values: np.ndarray, suite: Suite, column: Column, found: Mapping[str, Mapping[Column, _Cells]]
) -> np.ndarray:
    """Ranks ``[R, E]`` of values ``[R, E]``, 1 for the best; equal ones share their mean."""
    from scipy.stats import rankdata

    cell = next(places[column].cells[0] for places in found.values() if column in places)
    better = metric_of(_primary(suite, column), metrics_of(cell)).higher_is_better
    return rankdata(-values if better else values, axis=1)


def _mean_ranks(ranks: Mapping[Column, np.ndarray]) -> np.ndarray:
    """Ranks ``[R, E]`` of columns, averaged over encoders within each task and then over tasks."""
    by_task: dict[str, list[np.ndarray]] = defaultdict(list)
    for (task, _), each in ranks.items():
        by_task[task].append(each)
    return np.mean([np.mean(each, axis=0) for each in by_task.values()], axis=0)


def _drawn(
    suite: Suite, columns: Sequence[Column], names: Sequence[str], found: Mapping[str, Mapping[Column, _Cells]]
) -> np.ndarray | None:
    """Mean ranks ``[R, E]`` of resamples; ``None`` where predictions are missing or of different subjects."""
    ranks: dict[Column, np.ndarray] = {}
    for number, column in enumerate(columns):
        places = [found[name][column] for name in names]
        every = [p for place in places for p in place.predictions]
        if any(len(place.predictions) < len(place.cells) for place in places):
            return None
        if any(not np.array_equal(p.groups, every[0].groups) for p in every):
            return None
        primary = _primary(suite, column)
        statistics = {
            f"{e} {s}": judged(p).statistics[primary]
            for e, place in enumerate(places)
            for s, p in enumerate(place.predictions)
        }
        drawn = subject_bootstrap(statistics, every[0].groups, RESAMPLES, seed=number)
        rng = np.random.default_rng([number, 41])
        values = np.stack(
            [
                _over_seeds(np.stack([drawn[f"{e} {s}"] for s in range(len(place.cells))]), rng)
                for e, place in enumerate(places)
            ],
            axis=1,
        )
        if np.isnan(values).any():
            return None
        ranks[column] = _ranks(values, suite, column, found)
    return _mean_ranks(ranks)


def _over_seeds(drawn: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean over seeds drawn with replacement, ``[S, R] -> [R]``."""
    S, R = drawn.shape
    return drawn[rng.integers(S, size=(S, R)), np.arange(R)].mean(axis=0)
