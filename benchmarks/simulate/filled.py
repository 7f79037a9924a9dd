"""A folder as a sweep of made-up cells leaves it, written without running the sweep."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

from medgraft.benchmarks.board.remembered import Computed, key_of, recall, remember
from medgraft.benchmarks.board.rows import make_row
from medgraft.benchmarks.results import verified_before
from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.simulate.cells import Template, template_of, write_outcome


def fill(cells: Iterable[CellSpec], found: Sequence[Template], store: ResultStore) -> None:
    """Leaves the results of cells that succeeded, and in the cache what a sweep keeps of them for its board.

    Args:
        cells: Seeds of a row beside each other.
        found: Real results.
        store: Where they go.
    """
    for _, seeds in groupby(cells, CellSpec.row):
        row: list[tuple[Path, Template]] = []
        for spec in seeds:
            path, template = store.path(spec), template_of(spec, found)
            if not row:
                path.parent.mkdir(parents=True, exist_ok=True)
            write_outcome(spec, template, path.parent, path.name, path.with_suffix(".npz").name)
            verified_before.remember(verified_before.digest(path))
            verified_before.remember(verified_before.stamp(path))
            row.append((path, template))
        keep_row(row)


def keep_rows(cells: Iterable[CellSpec], found: Sequence[Template], store: ResultStore) -> None:
    """Keeps of rows what a sweep keeps of them, from those of their cells that succeeded.

    Args:
        cells: Seeds of a row beside each other, each of which has ended.
        found: Real results.
        store: Where those of the cells are.
    """
    for _, seeds in groupby(cells, CellSpec.row):
        ended = [(spec, store.get(spec)) for spec in seeds]
        good = [spec for spec, result in ended if result is not None and result.status == "success"]
        keep_row([(store.path(spec), template_of(spec, found)) for spec in good])


def keep_row(row: Sequence[tuple[Path, Template]]) -> None:
    """Keeps of a row what a sweep keeps of it, as it was computed of the results that its cells are made of.

    Args:
        row: Result of each seed that succeeded, in their order, with what it was made of.
    """
    computed = row_of(tuple(template.path for _, template in row)) if row else None
    if computed is not None and (key := key_of([path for path, _ in row], {})) is not None:
        remember(key, computed)


@functools.cache
def row_of(paths: tuple[Path, ...]) -> Computed | None:
    """What a board computes of results that are seeds of one row; a second for each set of them, so done once.

    Args:
        paths: Of the results.
    """
    seeds = sorted(((path, read_result(path)) for path in paths), key=lambda each: each[1].spec.seed)
    make_row(seeds)
    key = key_of([path for path, _ in seeds], {})
    return None if key is None else recall(key)
