"""Results on another cohort: files beside those of the cell whose graft was tested, ``KEY.MARK.external.json``."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medgraft.benchmarks.external.spec import ExternalSpec, ExternalTest
from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.results.duplicates import TOLERANCE
from medgraft.benchmarks.results.result_files import EXTERNAL_SUFFIX, UnreadableError, read_arrays, read_json
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore, StorageError
from medgraft.benchmarks.results.verification import shape_problem
from medgraft.benchmarks.results.writing import write_arrays, write_atomically
from medgraft.commands.plain_text import one_line
from medgraft.metric import Predictions
from medgraft.metric.judging import values
from medgraft.options import readable

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
SIDES = ("home", "away")


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class ExternalResult(_Model):
    """What one trained graft reached on another cohort, beside what it reached at home on the same classes.

    Attributes:
        schema_version: Of this file.
        key: Of the cell whose graft it is.
        status: Whether there are numbers.
        message: Why there are none.
        trained: The cell.
        tested: The other cohort.
        phantom: One of the two cohorts is generated.
        primary: Number that a board shows.
        objective: Name of the objective at home.
        classes: Shared classes, by their names at home; empty for numbers.
        part: ``test`` split of the other cohort where it names one itself, else ``all`` of its samples.
        home: Name -> number on the test split at home.
        away: Name -> number on the other cohort.
        drop: Name -> by how much it is worse there.
        data: Counts, and what a reader must know under ``notes``; no identifiers.
        thresholds: Of the shared labels, chosen on the validation split at home.
        sets: ``coverage`` and ``set_size`` there of the conformal sets that the validation split at home gave, where
            the other cohort labels all that they are sets of.
    """

    schema_version: int = SCHEMA_VERSION
    key: str
    status: Literal["success", "error"] = "success"
    message: str = ""
    trained: CellSpec
    tested: ExternalSpec
    phantom: bool
    primary: str = ""
    objective: str = ""
    classes: tuple[str, ...] = ()
    part: Literal["test", "all"] = "all"
    home: dict[str, Estimate] = Field(default_factory=dict)
    away: dict[str, Estimate] = Field(default_factory=dict)
    drop: dict[str, Estimate] = Field(default_factory=dict)
    data: dict[str, Any] = Field(default_factory=dict)
    thresholds: tuple[float, ...] | None = None
    sets: dict[str, Estimate] = Field(default_factory=dict)


@dataclass(frozen=True)
class StoredTest:
    """A result on another cohort that does not contradict itself.

    Attributes:
        result: It.
        predictions: At home and away; ``None`` where they stayed on the machine that made them.
    """

    result: ExternalResult
    predictions: tuple[Predictions, Predictions] | None


def arrays_of(home: Predictions, away: Predictions) -> dict[str, np.ndarray]:
    """Both predictions as named arrays ``[n, ...]``."""
    arrays: dict[str, np.ndarray] = {}
    for side, p in zip(SIDES, (home, away), strict=True):
        parts = {"scores": p.scores, "targets": p.targets, "groups": p.groups}
        optional = {"mask": p.mask, "thresholds": p.thresholds}
        parts |= {name: array for name, array in optional.items() if array is not None}
        arrays |= {f"{side}_{name}": array for name, array in parts.items()}
    return arrays


def job_files(folder: Path, test: ExternalTest) -> tuple[Path, Path]:
    """Where a worker leaves the outcome of a test, and its predictions, in the folder of its job."""
    stem = f"external-{test.spec.mark()}"
    return folder / f"{stem}.json", folder / f"{stem}.npz"


def failed(spec: CellSpec, test: ExternalTest, message: str) -> ExternalResult:
    """The outcome of a test that did not end well."""
    phantom = spec.cohort.phantom or test.spec.cohort.phantom
    return ExternalResult(
        key=spec.key(), status="error", message=message, trained=spec, tested=test.spec, phantom=phantom
    )


def external_path(cell: Path, mark: str) -> Path:
    """Where the test ``mark`` of the cell with the result file ``cell`` lies or will lie."""
    return cell.with_name(f"{cell.stem}.{mark}{EXTERNAL_SUFFIX}")


def put_external(store: ResultStore, result: ExternalResult, arrays: Mapping[str, np.ndarray] | None) -> Path:
    """Stores a result, its predictions ``[n, ...]`` first.

    Raises:
        StorageError: It cannot be written.
    """
    path = external_path(store.path(result.trained), result.tested.mark())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if arrays:
            write_arrays(path.with_suffix(".npz"), arrays)
        text = result.model_dump_json(indent=1) + "\n"
        write_atomically(path, lambda handle: handle.write(text.encode()))
    except OSError as error:
        raise StorageError(store.root, error) from error
    return path


def read_external(path: Path) -> ExternalResult:
    """A result as it was written.

    Raises:
        UnreadableError: It is none, of another version, or not of the cell and cohort that its name says.
    """
    data = read_json(path)
    if data.get("schema_version") != SCHEMA_VERSION:
        raise UnreadableError(f"it has schema version {one_line(str(data.get('schema_version')), 40)}")
    try:
        result = ExternalResult.model_validate(data)
    except ValidationError as error:
        raise UnreadableError(one_line(readable(error), 300)) from None
    if path.name != f"{result.key}.{result.tested.mark()}{EXTERNAL_SUFFIX}":
        raise UnreadableError("it is of another cell or cohort than its name says")
    if not result.phantom and (result.trained.cohort.phantom or result.tested.cohort.phantom):
        raise UnreadableError("it says phantom: false, and one of its cohorts says phantom: true")
    return result


def stored_test(path: Path) -> StoredTest:
    """A result and its predictions, which must give its numbers.

    Raises:
        UnreadableError: They do not, or one of the files is damaged.
    """
    result = read_external(path)
    if result.status != "success" or not path.with_suffix(".npz").exists():
        return StoredTest(result, None)
    arrays = read_arrays(path.with_suffix(".npz"))
    sides: list[Predictions] = []
    for side, stored in zip(SIDES, (result.home, result.away), strict=True):
        p = _predictions(arrays, side, result)
        computed = values(p)
        for name, estimate in stored.items():
            if not _same(estimate.value, computed.get(name, math.nan)):
                raise UnreadableError(f"{one_line(name, 60)} {side} is not what its predictions give")
        sides.append(p)
    return StoredTest(result, (sides[0], sides[1]))


def _predictions(arrays: Mapping[str, np.ndarray], side: str, result: ExternalResult) -> Predictions:
    mine = {name.removeprefix(f"{side}_"): array for name, array in arrays.items() if name.startswith(f"{side}_")}
    if missing := [name for name in ("scores", "targets", "groups") if name not in mine]:
        raise UnreadableError(f"it has no array '{side}_{missing[0]}'")
    p = Predictions(
        mine["scores"],
        mine["targets"],
        mine["groups"],
        result.classes,
        mine.get("mask"),
        mine.get("thresholds"),
        objective=result.objective,
    )
    if problem := shape_problem(p):
        raise UnreadableError(problem)
    return p


def _same(stored: float | None, computed: float) -> bool:
    if stored is None or math.isnan(computed):
        return stored is None and math.isnan(computed)
    return math.isfinite(stored) and abs(stored - computed) <= TOLERANCE * max(1.0, abs(computed))


def external_beside(cells: Sequence[Path]) -> dict[Path, list[StoredTest]]:
    """Tests on other cohorts of some cells, each folder looked at once; damaged ones are named in the log.

    Args:
        cells: Files of results.
    """
    names: dict[Path, list[str]] = {}
    found: dict[Path, list[StoredTest]] = {}
    for cell in cells:
        if cell.parent not in names:
            names[cell.parent] = sorted(name for name in os.listdir(cell.parent) if name.endswith(EXTERNAL_SUFFIX))
        for name in names[cell.parent]:
            if not name.startswith(f"{cell.stem}."):
                continue
            try:
                found.setdefault(cell, []).append(stored_test(cell.with_name(name)))
            except UnreadableError as error:
                logger.warning("%s is left out: %s", cell.with_name(name), error)
    return found
