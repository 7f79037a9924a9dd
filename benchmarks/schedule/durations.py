"""How long a cell will take, from what cells like it took before."""

from __future__ import annotations

import heapq
import json
import statistics
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError, opened, results_below
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.watch.journal import ENDING, FOLDER

START = 0.5
"""Seconds that a worker takes beside its cell where no journal tells: forking, reading its job, writing its result."""

NEWEST = 4
"""Results that are read of each folder, which holds those of one encoder, adapter and task."""


@dataclass(frozen=True)
class Taken:
    """What one cell took, in seconds.

    Attributes:
        epochs: That it trained for.
        prefix: Computing what is frozen, or reading it.
        train: Training.
        rest: All else.
    """

    epochs: int
    prefix: float
    train: float
    rest: float

    def for_epochs(self, epochs: int) -> float:
        """Seconds of the training if it had so many epochs."""
        return self.train if not self.epochs else self.train * epochs / self.epochs


LEVELS: tuple[Callable[[CellSpec], Hashable], ...] = (
    lambda spec: spec.row(),
    lambda spec: (spec.task, spec.encoder, spec.adapter),
    lambda spec: (spec.task, spec.encoder),
    lambda spec: (spec.task, spec.adapter),
    lambda spec: (spec.encoder, spec.adapter),
    lambda spec: spec.task,
    lambda spec: spec.encoder,
    lambda spec: spec.adapter,
    lambda spec: "",
)
"""What cells have in common that take about as long, closest first."""


class Durations:
    """Collects what cells took and says what others will take.

    A cell takes the median of those that are closest to it (see :data:`LEVELS`), the training in proportion to its
    epochs. What its row computed once and keeps for the next seeds is counted once: of its own row, the fastest prefix
    counts.
    """

    def __init__(self) -> None:
        self.start = START
        self._taken: list[dict[Hashable, list[Taken]]] = [defaultdict(list) for _ in LEVELS]

    def __bool__(self) -> bool:
        return bool(self._taken[-1])

    def add(self, *results: CellResult) -> None:
        """Takes what cells took; one that failed says nothing."""
        for result in results:
            if result.status == "success" and result.timing:
                self._add(result)

    def _add(self, result: CellResult) -> None:
        prefix, train = result.timing.get("prefix", 0.0), result.timing.get("train", 0.0)
        rest = max(sum(result.timing.values()) - prefix - train, 0.0)
        taken = Taken(result.spec.train.epochs, prefix, train, rest)
        for level, known in zip(LEVELS, self._taken, strict=True):
            known[level(result.spec)].append(taken)

    def seconds(self, spec: CellSpec) -> float | None:
        """Seconds that a cell will take with its worker's start; ``None`` while nothing has been taken in."""
        for level, known in zip(LEVELS, self._taken, strict=True):
            if taken := known.get(level(spec)):
                of_row = level is LEVELS[0]
                prefix = (min if of_row else statistics.median)([each.prefix for each in taken])
                train = statistics.median(each.for_epochs(spec.train.epochs) for each in taken)
                return self.start + prefix + train + statistics.median(each.rest for each in taken)
        return None

    def until_all_end(self, cells: Iterable[CellSpec], at_once: int) -> float | None:
        """Seconds until all have ended that start in this order, so many at a time; ``None`` if none is known.

        Args:
            cells: That will run.
            at_once: Cells at a time, at least 1.
        """
        each = [seconds for cell in cells if (seconds := self.seconds(cell)) is not None]
        return last_end(each, at_once) if self else None


def last_end(seconds: Iterable[float], at_once: int) -> float:
    """When the last of several cells ends, each of which starts as soon as one of the places is free.

    Args:
        seconds: That each takes, in the order in which they start.
        at_once: Places.

    Example:
        >>> last_end([4.0, 1.0, 2.0], 2)
        4.0
    """
    free = [0.0] * at_once
    for each in seconds:
        heapq.heapreplace(free, free[0] + each)
    return max(free)


def earlier_durations(root: Path) -> Durations:
    """What the results of a folder tell: the newest of each encoder, adapter and task, and its journals.

    Args:
        root: Results folder; one that does not exist tells nothing.
    """
    found = Durations()
    if not root.is_dir():
        return found
    by_folder: dict[Path, list[tuple[float, Path]]] = defaultdict(list)
    for path in results_below(root):
        with suppress(OSError):
            by_folder[path.parent].append((path.stat().st_mtime, path))
    for paths in by_folder.values():
        for _, path in heapq.nlargest(NEWEST, paths):
            with suppress(UnreadableError):
                found.add(read_result(path))
    starts = [beside for path in sorted((root / FOLDER).glob(f"*{ENDING}")) for beside in _besides(path)]
    if starts:
        found.start = statistics.median(starts)
    return found


def _besides(journal: Path) -> Sequence[float]:
    """Seconds of each worker of a sweep beside those of its cell."""
    found = []
    with suppress(UnreadableError, OSError):
        with opened(journal, "MEDGRAFT_MAX_DOCUMENT_BYTES") as file:
            lines = file.read().splitlines()
        for line in lines:
            with suppress(ValueError, RecursionError):
                match json.loads(line):
                    case {"status": "success", "seconds": float(cell) | int(cell), "took": float(all_) | int(all_)}:
                        found.append(max(float(all_) - float(cell), 0.0))
    return found
