"""Embeddings of a cell's test samples before and after training, in two dimensions, as a picture.

A result keeps predictions and no features, so its cell is run again, to the same numbers. Projections are t-SNE (van
der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008) or the first two principal components, fitted to each
panel by itself: distances within a panel mean something, places in two panels do not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from medgraft.benchmarks.cohorts import places as cohorts
from medgraft.benchmarks.figures.planes import Array, Method, Plane, draw_planes
from medgraft.benchmarks.measure.environment import use_threads
from medgraft.benchmarks.prefix_cache.store import cache_root
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import UnreadableError, read_json
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.commands.plain_text import one_line
from medgraft.errors import ConfigError, DataError, MedgraftError
from medgraft.objective import objective_class
from medgraft.task.names import build_task

if TYPE_CHECKING:  # boards are drawn where torch need not be imported
    from medgraft.benchmarks.cell.steps.precomputing import Ready

FEWEST = 5
"""Test samples below which a picture says nothing."""


@dataclass(frozen=True)
class Embedded:
    """A cell's test samples.

    Attributes:
        title: Which cell it is.
        classes: Names of the classes.
        targets: ``int64 [n]``.
        before: What the head reads through the graft at step 0, ``[n, D]``.
        after: The same after training, ``[n, D]``.
        metric: Name of the task's main metric.
        value: That metric of this run.
        stored: The same in the result.
        phantom: The cohort is generated.
    """

    title: str
    classes: tuple[str, ...]
    targets: Array
    before: Array
    after: Array
    metric: str
    value: float | None
    stored: float | None
    phantom: bool


def read_result(path: Path) -> CellResult:
    """One result that can be run again.

    Raises:
        MedgraftError: The file is no result, or one of a cell that failed or that has no classes.
    """
    try:
        result = CellResult.model_validate(read_json(path))
    except (UnreadableError, ValidationError) as error:
        raise MedgraftError(f"{path} is not a readable result: {one_line(str(error), 200)}") from error
    if result.status != "success":
        raise MedgraftError(f"{path} is the result of a cell that failed ({result.status}); run it again first")
    objective = result.data.get("objective")
    if not isinstance(objective, str) or not objective_class(objective).one_class_each:
        raise ConfigError(f"{path}: the task is {objective}; embed colours samples by one class each (multiclass)")
    return result


def cohort_root(spec: CellSpec, data: Mapping[str, str]) -> Path:
    """Folder of the cohort that a cell read: one that is given, or the phantom in the cache.

    Raises:
        DataError: There is none, or the given one has other tables.
    """
    recorded = spec.cohort
    if recorded.name in data:
        root = cohorts.folder_of(recorded.name, Path(data[recorded.name]))
        loaded = {spec.task: build_task(spec.task, spec.task_options).load(root)}
        cohort = cohorts.cohort_at(recorded.name, root, loaded)
        if (revision := cohort.of(spec.task).revision) != recorded.revision:
            raise DataError(
                f"--data {recorded.name}={data[recorded.name]} has revision {revision}, and the result was made "
                f"on {recorded.revision}; run the sweep on this copy first"
            )
        return cohort.root
    if recorded.phantom:
        for root in sorted((cache_root() / "cohorts").glob("*/")):
            if (root / cohorts.PHANTOM_MARKER).is_file() and cohorts.revision(root) == recorded.revision:
                return root
    raise DataError(
        f"cohort {recorded.name} of the result is not here; give its folder with --data {recorded.name}=PATH"
    )


def embed(result: CellResult, root: Path, progress: Callable[[float], None] = lambda share: None) -> Embedded:
    """Runs the cell of a result again and keeps what its head reads.

    Args:
        result: Of a multi-class task.
        root: Folder of its cohort.
        progress: Called with the share of the training that is done.
    """
    from medgraft.benchmarks.cell.steps.evaluation import evaluate
    from medgraft.benchmarks.cell.steps.loading import load
    from medgraft.benchmarks.cell.steps.operations import operations
    from medgraft.benchmarks.cell.steps.precomputing import build
    from medgraft.benchmarks.cell.steps.training import train

    spec = result.spec
    use_threads(spec.threads)
    with operations(spec):
        loaded = load(spec, root)
        ready = build(loaded)
        before = _test_embeddings(ready)
        train(ready, progress)
        after = _test_embeddings(ready)
        metrics = evaluate(ready).metrics
    data = loaded.data
    named = metrics.get(result.primary)
    stored = result.metrics.get(result.primary)
    return Embedded(
        title=f"{spec.task}, {spec.encoder}, {spec.adapter}{_setting(spec)}, seed {spec.seed}",
        classes=tuple(data.classes),
        targets=data.targets[loaded.splits["test"]],
        before=before,
        after=after,
        metric=result.primary,
        value=None if named is None else named.value,
        stored=None if stored is None else stored.value,
        phantom=data.phantom,
    )


def _test_embeddings(ready: Ready) -> Array:
    import torch

    from medgraft.benchmarks.objectives.heads import joined
    from medgraft.benchmarks.training.trainer import EVAL_BATCH, batches

    ready.grafted.eval()
    with torch.no_grad():
        rows = [
            joined(ready.runner.outputs(part), ready.loaded.task.inputs).float().cpu().numpy()
            for part in batches(ready.loaded.splits["test"], EVAL_BATCH)
        ]
    return np.concatenate(rows)


def _setting(spec: CellSpec) -> str:
    """What tells the rows of one adapter apart at a glance."""
    names = [str(spec.adapter_options[key]) for key in ("setting", "architecture") if key in spec.adapter_options]
    return f" ({', '.join(names)})" if names else ""


def flatten(values: Array, method: Method = "tsne", seed: int = 0) -> Array:
    """Embeddings ``[n, D]``, each column standardised, in the plane: ``[n, 2]``.

    Raises:
        DataError: There are fewer than :data:`FEWEST` samples.
    """
    if len(values) < FEWEST:
        raise DataError(f"{len(values)} test samples make no picture; at least {FEWEST} are needed")
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    deviation = values.std(axis=0)
    scaled = (values - values.mean(axis=0)) / np.where(deviation > 0, deviation, 1.0)
    if not scaled.any():
        return np.zeros((len(values), 2))  # samples that are all alike lie in one place; t-SNE would divide by zero
    if scaled.shape[1] == 1:
        scaled = np.concatenate([scaled, np.zeros_like(scaled)], axis=1)
    if method == "pca":
        return PCA(2, random_state=seed).fit_transform(scaled)
    perplexity = min(30.0, (len(values) - 1) / 3)
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(scaled)


def plane(cell: Embedded, method: Method = "tsne") -> Plane:
    """A cell's samples, brought into the plane."""
    score = "" if cell.value is None else f"\n{cell.metric} {cell.value:.2f}"
    title = f"{'PHANTOM ' if cell.phantom else ''}{cell.title}{score}"
    return Plane(title, cell.classes, cell.targets, flatten(cell.before, method), flatten(cell.after, method))


def draw(cells: Sequence[Embedded], out: Path, method: Method = "tsne") -> None:
    """Writes an SVG: a row per cell, before training on the left and after it on the right, a mark per class.

    Raises:
        MedgraftError: The file cannot be written.
    """
    draw_planes([plane(cell, method) for cell in cells], out, method)
