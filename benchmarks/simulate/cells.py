"""Cells that are not run: results of real ones, under other names, with durations of their own."""

from __future__ import annotations

import functools
import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.errors import MedgraftError

ADAPTERS, SEEDS = 50, 5
LEAST_LIMIT = 1000
"""``--limit`` of the first table; each table has another, so that its rows are compared among themselves."""

SIGMA = 0.15
"""Standard deviation of the logarithm of the seconds that seeds of one row take."""


@dataclass(frozen=True)
class Template:
    """A real result.

    Attributes:
        result: It.
        path: Its file.
    """

    result: CellResult
    path: Path

    @property
    def predictions(self) -> Path:
        """Its file of predictions."""
        return self.path.with_suffix(".npz")


def templates(folder: Path) -> list[Template]:
    """The results of a folder that succeeded and have predictions.

    Raises:
        MedgraftError: There is none.
    """
    found = [
        Template(result, path)
        for path, result in read_results([folder])
        if result.status == "success" and path.with_suffix(".npz").is_file()
    ]
    if not found:
        raise MedgraftError(f"{folder} has no result that succeeded and has predictions; run a cell into it first")
    return found


def template_of(spec: CellSpec, found: Sequence[Template]) -> Template:
    """The real result whose numbers a cell gets: they take turns among the seeds of a row, the same in every row."""
    return found[spec.seed % len(found)]


def specs(template: CellSpec, n: int, start: int = 0) -> Iterator[CellSpec]:
    """``n`` cells: tables of 20 encoders with 50 adapters and 5 seeds each, as many tables as it takes.

    Args:
        template: What they have in common.
        n: How many.
        start: Leaves out those before this one.
    """
    for number in range(start, n):
        row, seed = divmod(number, SEEDS)
        pair, adapter = divmod(row, ADAPTERS)
        table, encoder = divmod(pair, 20)
        changes = {"encoder": f"timm:simulated_{encoder}", "adapter": f"simulated_{adapter}", "seed": seed}
        yield template.model_copy(update={**changes, "limit": LEAST_LIMIT + table})


def seconds_of(spec: CellSpec) -> float:
    """Seconds that a cell is said to take: a median of its table, encoder and adapter, and luck of its seed."""
    total = 1.0
    for part in (f"table {spec.limit}", f"encoder {spec.encoder}", f"adapter {spec.adapter}"):
        total += _share(part)
    return 20.0 * total * float(_random(spec.key()).lognormal(0.0, SIGMA))


@functools.cache
def _share(part: str) -> float:
    """What a table, an encoder or an adapter adds, of which there are few among many cells."""
    return float(_random(part).lognormal(0.0, 0.7))


def _random(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]))


def write_outcome(spec: CellSpec, template: Template, folder: Path, result: str, predictions: str) -> None:
    """Leaves what a worker leaves of a cell.

    Args:
        spec: The cell.
        template: Whose numbers it gets.
        folder: Of the worker.
        result: Name of the file of the result.
        predictions: Name of the file of predictions.
    """
    took = seconds_of(spec)
    timing = {"load": 0.05 * took, "prefix": 0.1 * took, "train": 0.7 * took, "evaluate": 0.15 * took}
    changes = {"spec": spec, "key": spec.key(), "timing": timing}
    shutil.copyfile(template.predictions, folder / predictions)
    (folder / result).write_text(template.result.model_copy(update=changes).model_dump_json(indent=1) + "\n")
