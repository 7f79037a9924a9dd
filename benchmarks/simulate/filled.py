"""A folder as a sweep of made-up cells leaves it, written without running the sweep."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from medgraft.benchmarks.board.remembered import key_of, recall, remember
from medgraft.benchmarks.board.rows import make_row
from medgraft.benchmarks.results import verified_before
from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import succeeded
from medgraft.benchmarks.simulate.cells import Template, write_outcome


def fill(cells: Sequence[CellSpec], found: Sequence[Template], store: ResultStore) -> None:
    """Leaves the results of cells that succeeded, and in the cache what a sweep keeps of them for its board.

    The cells of a row take the templates in turn, so that rows of as many seeds have the same predictions; their
    intervals are computed for the first of them and kept for all.

    Args:
        cells: Seeds of a row beside each other.
        found: Real results.
        store: Where they go.
    """
    known = {}
    for _, seeds in groupby(cells, CellSpec.row):
        paths = []
        for number, spec in enumerate(seeds):
            path = store.path(spec)
            path.parent.mkdir(parents=True, exist_ok=True)
            names = path.name, path.with_suffix(".npz").name
            write_outcome(spec, found[number % len(found)], path.parent, *names)
            paths.append(path)
        if not known.get(len(paths)):
            for path in paths:
                succeeded(path)
            make_row([(path, read_result(path)) for path in paths])
            known[len(paths)] = (key := key_of(paths, {})) and recall(key)
            continue
        for path in paths:
            verified_before.remember(verified_before.digest(path))
            verified_before.remember(verified_before.stamp(path))
        if (key := key_of(paths, {})) is not None:
            remember(key, known[len(paths)])
