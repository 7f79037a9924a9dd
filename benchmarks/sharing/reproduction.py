"""One cell run again from its specification, and whether the numbers agree.

On one machine with the same versions a cell gives the same numbers to the last bit: order, seeds and threads are part
of its specification. Elsewhere sums are made in another order (other processor, other library), training carries the
difference on, and a sample near a threshold may change sides. What still counts as the same:

- *bit for bit*: every number of every metric is equal;
- *within rounding*: no score of a test sample moved by more than :data:`ROUNDING` of its precision (of scores that are
  no probabilities: times their deviation). Metrics may then move by what samples near a threshold make of that. Without
  predictions beside both results the metrics themselves are held to it;
- *they differ* otherwise.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medgraft.benchmarks.cohorts import places as cohorts
from medgraft.benchmarks.prefix_cache.store import cache_root
from medgraft.benchmarks.results.duplicates import same_value
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError, read_arrays
from medgraft.benchmarks.results.spec import NUMBERS_VERSION, CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import Verified
from medgraft.commands.plain_text import one_line
from medgraft.errors import ConfigError, DataError, MedgraftError, PluginError
from medgraft.fast.switch import VARIABLE
from medgraft.launcher import Resources, make_launcher
from medgraft.registry import catalogue
from medgraft.task.names import build_task

ROUNDING = {"fp32": 2e-3, "bf16": 2e-2, "bf16_frozen": 2e-2, "fp8": 2e-2}
"""Precision -> largest move of a score that counts as rounding; what features of the usual and the plain forms of one
cell are allowed to differ by."""

TIMEOUT = 30 * 86_400.0

Verdict = Literal["bit for bit", "within rounding", "they differ"]

MACHINE = ("platform", "cpu", "cpu_capability", "fp32_product", "gpu", "cuda")
CODE = ("python", "commit", "dirty")


@dataclass(frozen=True)
class Compared:
    """Two results of one cell.

    Attributes:
        verdict: Whether they are the same.
        moved: Metric -> value in the stored result and in the new one, of those that are not equal; the primary first.
        largest: Largest move of a score; ``None`` where predictions are not beside both, or have other shapes.
        allowed: Largest one that counts as rounding.
        changes: What differs between the machines and versions that made them, in words.
    """

    verdict: Verdict
    moved: Mapping[str, tuple[float | None, float | None]]
    largest: float | None
    allowed: float
    changes: Sequence[str] = field(default_factory=tuple)


def check_same_code(spec: CellSpec) -> None:
    """Whether what is installed here is what the cell was run with.

    Raises:
        PluginError: A plugin is missing or of another version.
        ConfigError: The harness, the task, the encoder's weights or the device are not those of the cell.
    """
    for distribution, version in spec.plugins.items():
        name = one_line(distribution, 80)
        try:
            installed = metadata.version(distribution)
        except (metadata.PackageNotFoundError, ValueError):
            raise PluginError(f"the result is of {name} {one_line(version, 40)}, which is not installed here") from None
        if installed != version:
            raise PluginError(
                f"the result is of {name} {one_line(version, 40)} and {installed} is installed here; install the former"
            )
    if spec.numbers_version != NUMBERS_VERSION:
        raise ConfigError(
            f"the result is of numbers version {spec.numbers_version} and this medgraft computes version "
            f"{NUMBERS_VERSION}, whose numbers differ; install the medgraft that made it (`medgraft show` says which)"
        )
    task = build_task(spec.task, spec.task_options)
    if task.version != spec.task_version:
        raise ConfigError(f"the result is of version {spec.task_version} of {spec.task}, which is {task.version} here")
    if spec.device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("the result is of a GPU and PyTorch sees none here")
    if spec.encoder_weights is not None:
        from medgraft.benchmarks.sweep.plan import weights_of

        if (weights := weights_of(spec.encoder)) != spec.encoder_weights:
            raise ConfigError(
                f"the weights of {spec.encoder} are {weights} here and {spec.encoder_weights} in the result; use those"
            )


def cohort_of(
    spec: CellSpec, data: Mapping[str, str], announce: Callable[[str], None] = lambda line: None, jobs: int = 1
) -> cohorts.Cohort:
    """The cohort that a cell read: where the user says, from the cache, or a phantom made again.

    Args:
        spec: The cell.
        data: Cohort -> folder.
        announce: Called with one line before a phantom is made.
        jobs: Processes that may be used for it.

    Raises:
        DataError: It is not here, or is another one.
    """
    recorded = spec.cohort
    names = [name for name in (recorded.name, cohorts.data_of(recorded.name)) if name in data]
    if unknown := [name for name in data if name not in (recorded.name, cohorts.data_of(recorded.name))]:
        raise ConfigError(f"--data {unknown[0]}: the result is of cohort {recorded.name}")
    if names:
        return _given(spec, names[0], data[names[0]])
    if not recorded.phantom:
        raise DataError(
            f"cohort {recorded.name} of the result is not here; give its folder with --data {recorded.name}=PATH"
        )
    for root in sorted((cache_root() / "cohorts").glob("*/")):
        if (root / cohorts.PHANTOM_MARKER).is_file() and cohorts.revision(root) == recorded.revision:
            return cohorts.Cohort(recorded, root)
    entries = [
        preset.cohorts[recorded.name] for preset in catalogue().presets.values() if recorded.name in preset.cohorts
    ]
    entries.append(cohorts.default_entry(recorded.name))
    tried: list[Any] = []
    for entry in entries:
        if entry in tried:
            continue
        tried.append(entry)
        made = cohorts.phantom(recorded.name, entry, jobs, announce)
        if made.id.revision == recorded.revision:
            return made
    raise DataError(
        f"the phantom {recorded.name} of the result (revision {recorded.revision}) is none that this medgraft makes by "
        f"a preset; make it with its own options (`medgraft cohort {recorded.name}`), and give its folder with --data "
        f"{recorded.name}=PATH"
    )


def _given(spec: CellSpec, name: str, folder: str) -> cohorts.Cohort:
    root = cohorts.folder_of(spec.cohort.name, Path(folder))
    loaded = {spec.task: build_task(spec.task, spec.task_options).load(root).check()}
    cohort = cohorts.cohort_at(spec.cohort.name, root, loaded)
    found = cohort.of(spec.task)
    if found.revision != spec.cohort.revision:
        raise DataError(
            f"--data {name}={folder} has revision {found.revision} and the result was made on {spec.cohort.revision}: "
            "tables, images or labels are others there"
        )
    return cohort


def run_again(
    spec: CellSpec, cohort: cohorts.Cohort, folder: Path, tick: Callable[[str], None] = lambda doing: None
) -> Verified:
    """Runs a cell in a process of its own, and stores its result.

    Args:
        spec: The cell.
        cohort: Its data.
        folder: Folder of results, which must not hold one of the cell.
        tick: Called with what runs now, whenever that changes.

    Raises:
        ConfigError: The folder holds a result of the cell already.
        MedgraftError: The cell failed.
    """
    from medgraft.benchmarks.launch.cells import Events, Runs

    store = ResultStore(folder)
    store.check_writable()
    if (path := store.path(spec)).exists():
        raise ConfigError(f"{path} is there already and would be overwritten; give another --results")
    told = [""]

    def listen(running: Sequence[Any]) -> None:
        for worker in running:
            if worker.doing != told[0]:
                told[0] = worker.doing
                tick(worker.doing)

    with _plain(spec.plain):
        launcher = make_launcher("local", {}, Resources(1, spec.threads, spec.device, TIMEOUT))
        runs = Runs(store, {spec.cohort.name: cohort}, launcher, "local")
        (result,) = runs.run([spec], Events(listen, lambda result, seconds: None))
    if result.status != "success":
        raise MedgraftError(
            f"the cell did not succeed this time: {result.status}: {result.message}; --results keeps what it wrote"
        )
    return Verified(path, result)


@contextmanager
def _plain(plain: bool) -> Iterator[None]:
    """Workers run with shortcuts, or without, as the cell did."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = "1" if plain else "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


@contextmanager
def folder_for(results: Path | None) -> Iterator[Path]:
    """Where the new result goes: a folder of the user's, or one that is deleted afterwards."""
    if results is not None:
        yield results
        return
    folder = Path(tempfile.mkdtemp(prefix="medgraft-reproduce-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compared(stored: Verified, new: Verified) -> Compared:
    """Whether two results of one cell agree."""
    one, other = stored.cell, new.cell
    names = list(dict.fromkeys([one.primary, *one.metrics, *other.metrics]))
    values = {name: (_value(one, name), _value(other, name)) for name in names}
    moved = {name: pair for name, pair in values.items() if not same_value(*pair, tolerance=0.0)}
    allowed = ROUNDING[one.spec.precision]
    largest = _largest_move(stored.path, new.path)
    changes = environment_changes(one, other)
    if not moved and not largest:
        return Compared("bit for bit", {}, largest, allowed, changes)
    if largest is not None:
        close = largest <= allowed
    else:
        close = set(one.metrics) == set(other.metrics) and all(
            same_value(*pair, tolerance=allowed) for pair in moved.values()
        )
    return Compared("within rounding" if close else "they differ", moved, largest, allowed, changes)


def _value(cell: CellResult, name: str) -> float | None:
    return cell.metrics[name].value if name in cell.metrics else None


def _largest_move(one: Path, other: Path) -> float | None:
    """Largest difference of two results' scores, of scores that are no probabilities over their deviation."""
    try:
        first, second = (read_arrays(path.with_suffix(".npz")) for path in (one, other))
    except UnreadableError:
        return None
    a, b = (np.asarray(each.get("scores", np.empty(0)), np.float64) for each in (first, second))
    same = all(np.array_equal(first.get(name), second.get(name)) for name in ("targets", "groups"))  # pyright: ignore
    if not same or a.shape != b.shape or not a.size:
        return None
    probabilities = a.min() >= 0 and a.max() <= 1
    return float(np.abs(a - b).max() / (1.0 if probabilities else max(1.0, float(a.std()))))


def environment_changes(one: CellResult, other: CellResult) -> tuple[str, ...]:
    """What differs between the machines and versions that made two results, in words."""
    before, after = one.env, other.env
    changes = [
        f"{name}: {_said(before.get(name))}, now {_said(after.get(name))}"
        for name in (*MACHINE, *CODE, "threads")
        if before.get(name) != after.get(name)
    ]
    old, new = before.get("packages") or {}, after.get("packages") or {}
    changes += [
        f"{name} {_said(old.get(name))}, now {_said(new.get(name))}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    return tuple(changes)


def _said(value: Any) -> str:
    return "none" if value is None else one_line(str(value), 60)
