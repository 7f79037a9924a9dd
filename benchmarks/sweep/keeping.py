"""Which trained grafts a sweep keeps, and which it has."""

from __future__ import annotations

import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from medgraft.benchmarks.cell.kept import KeptFacts, read_facts
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.errors import ConfigError, MedgraftError
from medgraft.metric.judging import metric_of
from medgraft.objective import objective_class


def facts_of(store: ResultStore, spec: CellSpec) -> KeptFacts | None:
    """What is known of the graft of a cell; ``None`` where none is kept that can be read."""
    try:
        return read_facts(store.graft_path(spec))
    except MedgraftError:
        return None


def without_graft(cells: Sequence[CellSpec], store: ResultStore, keep: str) -> set[str]:
    """Keys of cells that must run, again where they are finished, so that what is to be kept is there.

    Args:
        cells: Of the sweep.
        store: Its results.
        keep: ``none``, ``all``, or ``best``: of a row of which a graft is kept no seed need run again.
    """
    if keep == "none":
        return set()
    there = {cell.key() for cell in cells if facts_of(store, cell) is not None}
    rows = {cell.row() for cell in cells if cell.key() in there}
    return {cell.key() for cell in cells if cell.key() not in there and not (keep == "best" and cell.row() in rows)}


def keep_best(cells: Iterable[CellSpec], store: ResultStore) -> None:
    """Deletes all grafts of a row but that of the seed which is best on validation samples."""
    rows: dict[str, list[tuple[CellSpec, KeptFacts]]] = defaultdict(list)
    for cell in cells:
        if (facts := facts_of(store, cell)) is not None:
            rows[cell.row()].append((cell, facts))
    for seeds in rows.values():
        best = max(seeds, key=lambda seed: (_goodness(seed[1]), -seed[0].seed))[0]
        for cell, _ in seeds:
            if cell is not best:
                shutil.rmtree(store.graft_path(cell), ignore_errors=True)


def kept_folders(cells: Iterable[CellSpec], store: ResultStore) -> list[Path]:
    """Folders of the grafts of some cells."""
    return [store.graft_path(cell) for cell in cells if facts_of(store, cell) is not None]


def _goodness(facts: KeptFacts) -> float:
    """The validation metric, more is better; below every number where it is undefined."""
    if facts.validation is None:
        return float("-inf")
    metric = metric_of(facts.primary, objective_class(facts.objective).metrics)
    return facts.validation if metric.higher_is_better else -facts.validation


def check_keepable(objectives: Mapping[str, str], keep: str) -> None:
    """Refuses to keep what no prediction can be made with.

    Args:
        objectives: Task -> name of its objective.
        keep: See :func:`without_graft`.

    Raises:
        ConfigError: A task's predictions are places in an image, or windows of a run.
    """
    for task, objective in objectives.items():
        cls = objective_class(objective)
        if keep != "none" and "tokens" in cls.needs and not cls.writes:
            what = "places in an image" if "still images" in cls.needs else "windows of a run"
            raise ConfigError(
                f"--keep {keep}: predictions of task {task!r} are {what}, and predict gives none; leave the task or "
                "the option out"
            )
