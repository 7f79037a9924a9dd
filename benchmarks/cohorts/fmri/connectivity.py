"""Functional connectivity: the correlations between regions of a run, as numbers that a regression reads.

Regions are those of the table beside a run (``.1D``), else of an atlas in the cohort's folder, else blocks: the image
grid cut into so many parts along each axis. The latter follow no anatomy, and results say so.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.fmri.runs import RUNS_VERSION, Cleaning, Run, RunFiles, read_run
from medgraft.benchmarks.cohorts.volumes.load import load_volume
from medgraft.benchmarks.prefix_cache.store import entry
from medgraft.errors import DataError
from medgraft.files.content import file_facts

logger = logging.getLogger(__name__)

Array = NDArray[Any]

BLOCKS = 4
"""Parts of each axis where there is no atlas."""

LEAST_VOXELS = 4
"""Voxels of the brain that a region needs."""

HIGHEST = 1 - 1e-7
"""Correlations are cut off there, whose Fisher z would have no end."""

LEAST_VOLUMES = 4


@dataclass(frozen=True)
class Connectivity:
    """Fisher z of the correlations of every pair of regions.

    Attributes:
        values: ``float64 [n, R (R - 1) / 2]``, ``nan`` where a run has no series of a region, or none at all.
        regions: What the regions are, in words.
        reasons: Why runs have none -> how many.
        series: Mean of each region over time, ``float32 [T, R]`` of each run, ``[0, R]`` of one that has none; ``nan``
            in a region that it lacks.
    """

    values: Array
    regions: str
    reasons: dict[str, int]
    series: list[Array]


def fisher_z(series: Array) -> Array:
    """Fisher z of the correlations between columns ``[T, R]``: the upper triangle, row by row, ``[R (R - 1) / 2]``.

    Raises:
        DataError: There are fewer than four volumes.

    Example:
        >>> series = np.array([[0.0, 0.0, 1.0], [1.0, 2.0, 1.0], [0.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
        >>> fisher_z(series).round(3).tolist()
        [1.497, nan, nan]
    """
    if len(series) < LEAST_VOLUMES:
        raise DataError(f"correlations need {LEAST_VOLUMES} volumes, got {len(series)}", "too few volumes to correlate")
    centred = series - series.mean(axis=0)
    scale = np.sqrt(np.square(centred).sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        scale = np.where(scale > 1e-12 * np.abs(series).max(axis=0), scale, np.nan)
        scaled = centred / scale
    correlation = scaled.T @ scaled
    upper = correlation[np.triu_indices(series.shape[1], 1)]
    return np.arctanh(np.clip(upper, -HIGHEST, HIGHEST))


def read_regions(path: str) -> Array:
    """Series by region from a table ``.1D``: a line of names behind ``#``, then a row for each volume, ``[T, R]``.

    Raises:
        DataError: It is none.
    """
    try:
        values = np.loadtxt(path, comments="#", ndmin=2)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a table of regions ({error})", "no table of regions") from error
    if values.size == 0 or not np.isfinite(values).all():
        raise DataError(f"{path} holds no numbers or such without end; make it anew", "no table of regions")
    return values


def labelled_blocks(shape: Sequence[int], blocks: int = BLOCKS) -> Array:
    """Number of the block of each voxel, ``int64 [x, y, z]`` from 1: each axis is cut into ``blocks`` parts.

    Example:
        >>> labelled_blocks((2, 2, 1), 2)[..., 0].tolist()
        [[1, 3], [5, 7]]
    """
    x, y, z = (np.arange(n) * blocks // n for n in shape)
    return 1 + (x[:, None, None] * blocks + y[None, :, None]) * blocks + z[None, None, :]


def region_means(run: Run, labels: Array, count: int) -> Array:
    """Mean over the brain's voxels of each region, ``float64 [T, count]``; ``nan`` for one of too few voxels.

    Args:
        run: The run.
        labels: Region of each voxel, 0 for none, ``[x, y, z]``.
        count: Highest number of a region.
    """
    inside = labels[run.brain].astype(np.int64)
    sizes = np.bincount(inside, minlength=count + 1)[1:]
    means = np.full((len(run.values), count), np.nan)
    for row, volume in zip(means, run.values, strict=True):
        sums = np.bincount(inside, volume[run.brain].astype(np.float64), minlength=count + 1)[1:]
        row[:] = np.where(sizes >= LEAST_VOXELS, sums / np.maximum(sizes, 1), np.nan)
    return means


def _on_grid(atlas: tuple[Array, Array], run: Run) -> Array:
    """The labels of an atlas at the voxels of a run, by the nearest one."""
    from nibabel.nifti1 import Nifti1Image
    from nilearn.image import resample_img

    labels, affine = atlas
    image: Any = resample_img(
        Nifti1Image(labels.astype(np.int32), affine),
        target_affine=run.affine,
        target_shape=run.brain.shape,
        interpolation="nearest",
        force_resample=True,
        copy_header=True,
    )
    return np.asarray(image.dataobj).astype(np.int64)


def connectivity(
    runs: Sequence[RunFiles], tables: Sequence[str], how: Cleaning, root: Path, atlas: Path | None = None
) -> Connectivity:
    """Connectivity of some runs, kept beside the cache, since reading them takes long.

    Args:
        runs: Where they lie.
        tables: Series by region of each, empty for none; they are read where all runs have one, as they are.
        how: What is taken out of the runs, where these are read.
        root: Of the cohort.
        atlas: Labelled volume, read where there are no tables.
    """
    ready = bool(tables) and all(tables)
    files = list(tables) if ready else [part for run in runs for part in (run.image, run.mask, run.confounds) if part]
    facts = {
        "kind": "connectivity and series",
        "version": RUNS_VERSION,
        "files": file_facts([*files, *([str(atlas)] if atlas and not ready else [])], root),
        "cleaning": None if ready else vars(how),
        "steps": None if ready else [run.step for run in runs],
        "blocks": BLOCKS,
    }

    def build(folder: Path) -> None:
        found = _from_tables(tables) if ready else _from_runs(runs, how, atlas)
        np.save(folder / "values.npy", found.values)
        np.save(folder / "series.npy", np.concatenate(found.series).astype(np.float32))
        np.save(folder / "lengths.npy", np.array([len(each) for each in found.series]))
        (folder / "facts_of.json").write_text(json.dumps({"regions": found.regions, "reasons": found.reasons}))

    kept = entry(facts, build, needs=("values.npy", "series.npy", "lengths.npy", "facts_of.json"))
    said = json.loads((kept.folder / "facts_of.json").read_text())
    ends = np.cumsum(np.load(kept.folder / "lengths.npy"))[:-1]
    series = np.split(np.load(kept.folder / "series.npy", mmap_mode="r"), ends)
    return Connectivity(np.load(kept.folder / "values.npy"), said["regions"], said["reasons"], series)


def _from_tables(tables: Sequence[str]) -> Connectivity:
    rows, series, reasons = [], [], Counter[str]()
    for path in tables:
        try:
            values = read_regions(path)
            rows.append(fisher_z(values))
            series.append(values)
        except DataError as error:
            reasons[error.reason or "not readable"] += 1
            rows.append(np.empty(0))
            series.append(np.empty((0, 0)))
    counts = Counter(len(row) for row in rows if len(row))
    pairs = counts.most_common(1)[0][0] if counts else 0
    if odd := sum(counts.values()) - counts[pairs]:
        reasons["another number of regions"] += odd
    values = np.stack([row if len(row) == pairs else np.full(pairs, np.nan) for row in rows])
    regions = round((1 + np.sqrt(1 + 8 * pairs)) / 2)
    series = [each if each.shape[1] == regions else np.empty((0, regions)) for each in series]
    return Connectivity(values, f"{regions} regions of the tables beside the runs", dict(reasons), series)


def _from_runs(runs: Sequence[RunFiles], how: Cleaning, atlas: Path | None) -> Connectivity:
    labels = None if atlas is None else load_volume(atlas)
    count = BLOCKS**3 if labels is None else int(labels[0].max())
    values, reasons = np.full((len(runs), count * (count - 1) // 2), np.nan), Counter[str]()
    series = [np.empty((0, count)) for _ in runs]
    for k, (row, files) in enumerate(zip(values, runs, strict=True)):
        try:
            run = read_run(files, how)
            grid = labelled_blocks(run.brain.shape) if labels is None else _on_grid(labels, run)
            means = region_means(run, grid, count)
            row[:] = fisher_z(means)
            series[k] = means
        except DataError as error:
            logger.info("without connectivity: %s", error)
            reasons[error.reason or "not readable"] += 1
    what = (
        f"{BLOCKS} x {BLOCKS} x {BLOCKS} blocks of the image grid, no atlas"
        if atlas is None
        else f"{count} regions of an atlas"
    )
    return Connectivity(values, what, dict(reasons), series)
