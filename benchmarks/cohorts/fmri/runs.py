"""Runs of fMRI from files: masked, cleaned of motion where asked for, and read one at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.fmri.confounds import kept_volumes, motion_of, read_confounds
from medgraft.benchmarks.cohorts.volumes.load import Series, load_series, load_volume
from medgraft.errors import DataError

RUNS_VERSION = 1
"""Raised whenever the same files would be read differently; part of what the caches know."""

Confounds = Literal["none", "6", "24"]
VOXELS_AT_ONCE = 50_000

LEAST_FREE = 4
"""Volumes that must be left beyond what is regressed out, without which nothing but noise of rounding is left."""


@dataclass(frozen=True)
class Cleaning:
    """What is taken out of a run.

    Attributes:
        confounds: Parameters of motion that are regressed out: none, the six, or the 24 of Friston et al. (1996).
        detrend: Take a linear trend out of each voxel.
        high_pass: Hz below which nothing is kept; 0 for no filter.
        low_pass: Hz above which nothing is kept; 0 for no filter.
        scrub: Volumes with more framewise displacement, in mm, are cut out; 0 keeps all.
        least_kept: Share of the volumes that must be left then.
        spacing: Edge of the voxels in mm that a run is resampled to; 0 leaves it as it is.
    """

    confounds: Confounds = "none"
    detrend: bool = False
    high_pass: float = 0.0
    low_pass: float = 0.0
    scrub: float = 0.0
    least_kept: float = 0.5
    spacing: float = 0.0

    @property
    def regresses(self) -> bool:
        """Whether anything is taken out of the voxels' series."""
        return self.detrend or self.confounds != "none" or self.high_pass > 0 or self.low_pass > 0

    @property
    def needs_table(self) -> bool:
        """Whether it reads a table of confounds."""
        return self.confounds != "none" or self.scrub > 0


@dataclass(frozen=True)
class RunFiles:
    """Where a run lies.

    Attributes:
        image: 4D NIfTI.
        mask: Of the brain; empty where none is given, and the voxels that are ever not 0 are the brain.
        confounds: fMRIPrep's table; empty for none.
        step: Seconds between volumes by a sidecar; 0 to take the header's.
    """

    image: str
    mask: str = ""
    confounds: str = ""
    step: float = 0.0


@dataclass(frozen=True)
class Run:
    """A run as it is read.

    Attributes:
        values: ``float32 [T, x, y, z]``, 0 outside the brain, axes towards right, front and top.
        brain: ``bool [x, y, z]``.
        affine: Voxels to mm, ``[4, 4]``.
        cut: Volumes that were scrubbed.
    """

    values: NDArray[np.float32]
    brain: NDArray[np.bool_]
    affine: NDArray[np.float64]
    cut: int = 0


def read_run(files: RunFiles, how: Cleaning) -> Run:
    """Reads a run.

    Volumes that are scrubbed are left out of regression and filter, too, and the rest is put together, so that a window
    may reach over a gap. A voxel's mean is kept, whatever is regressed out of it: it is what tells grey from white.

    Args:
        files: Where it lies.
        how: What is taken out of it.

    Raises:
        DataError: The file is no run; the mask is of another shape or place; a voxel of the brain is not finite; it is
            0 all over; a table of confounds is missing, of another length or without motion; a filter needs a
            repetition time that neither header nor sidecar has; or too few volumes are left, or fewer than are needed
            for what is regressed out.
    """
    series = load_series(files.image)
    brain = _brain(files, series)
    values = series.values
    if not brain.any() or not values[:, brain].any():
        raise DataError(f"{files.image} is zero in every voxel", "zero in every voxel")
    if not all(np.isfinite(volume[brain]).all() for volume in values):
        raise DataError(f"{files.image} has voxels of the brain that are NaN or infinite", "voxels that are NaN")
    values[:, ~brain] = 0
    motion, kept = None, np.arange(len(values))
    if how.needs_table:
        table = read_confounds(files.confounds, files.image, len(values))
        motion = motion_of(table, how.confounds, files.confounds)
        kept = kept_volumes(table, how.scrub, files.confounds)
    if len(kept) < max(2, how.least_kept * len(values)):
        why = f"{len(kept)} of {len(values)} volumes move by no more than {how.scrub:g} mm"
        raise DataError(f"{files.image}: {why}; leave the run out or raise scrub", "too few volumes without motion")
    cut = len(values) - len(kept)
    if how.regresses:
        step = files.step or series.step
        values = _cleaned(values, brain, how, motion, kept, step, files.image)
    elif cut:
        values = values[kept]
    run = Run(values, brain, series.affine, cut)
    return _resampled(run, how.spacing) if how.spacing else run


def _brain(files: RunFiles, series: Series) -> NDArray[np.bool_]:
    if not files.mask:
        return np.any([np.nan_to_num(volume) != 0 for volume in series.values], axis=0)
    mask, affine = load_volume(files.mask)
    if mask.shape != series.values.shape[1:]:
        shapes = f"{list(mask.shape)} and {list(series.values.shape[1:])} voxels"
        raise DataError(f"{files.mask} and its run have {shapes}; make both anew", "a mask of another shape")
    if not np.allclose(affine, series.affine, atol=0.1):
        raise DataError(f"{files.mask} lies elsewhere than its run; make both anew", "a mask of another place")
    return mask > 0.5


def _cleaned(
    values: NDArray[np.float32],
    brain: NDArray[np.bool_],
    how: Cleaning,
    motion: NDArray[np.float64] | None,
    kept: NDArray[np.int64],
    step: float,
    image: str,
) -> NDArray[np.float32]:
    """The kept volumes ``[T', x, y, z]``, each voxel of the brain cleaned by nilearn and put back to its mean."""
    from nilearn.signal import clean

    filters: dict[str, Any] = {"low_pass": how.low_pass or None, "high_pass": how.high_pass or None}
    if how.high_pass or how.low_pass:
        if step <= 0:
            raise DataError(
                f"{image} has no repetition time in header or sidecar, which a filter needs; set high_pass and "
                "low_pass to 0",
                "no repetition time",
            )
        filters |= {"t_r": step, "filter": "butterworth"}
    columns = None if motion is None else motion[:, motion.std(axis=0) > 0]
    taken = (0 if columns is None else columns.shape[1]) + how.detrend + 1
    if taken + LEAST_FREE > len(kept):
        why = f"a mean, a trend and parameters of motion take {taken} of {len(kept)} volumes"
        raise DataError(f"{image}: {why}, which leaves nothing of them; regress fewer out", "too few volumes to clean")
    mask = kept if len(kept) < len(values) else None
    out = np.zeros((len(kept), *values.shape[1:]), np.float32)
    places = np.flatnonzero(brain)
    flat, result = values.reshape(len(values), -1), out.reshape(len(kept), -1)
    for start in range(0, len(places), VOXELS_AT_ONCE):
        some = places[start : start + VOXELS_AT_ONCE]
        signals = flat[:, some].astype(np.float64)
        found: Any = clean(
            signals, confounds=columns, sample_mask=mask, detrend=how.detrend, standardize=None, **filters
        )
        result[:, some] = found - found.mean(axis=0) + signals[kept].mean(axis=0)
    return out


def _resampled(run: Run, spacing: float) -> Run:
    """The run on voxels of another size, each volume by linear interpolation, the mask by the nearest voxel."""
    from scipy.ndimage import affine_transform

    edges = np.linalg.norm(run.affine[:3, :3], axis=0)
    if np.allclose(edges, spacing, rtol=1e-3):
        return run
    factor = spacing / edges
    shape = tuple(int(n) for n in np.maximum(1, np.round(np.array(run.brain.shape) / factor)))
    offset = (factor - 1) / 2  # the outer edges of the first voxels stay together
    how: dict[str, Any] = {"offset": offset, "output_shape": shape, "mode": "nearest"}
    brain = affine_transform(run.brain.astype(np.uint8), factor, order=0, **how) > 0
    values = np.empty((len(run.values), *shape), np.float32)
    for volume, place in zip(run.values, values, strict=True):
        affine_transform(volume, factor, output=place, order=1, **how)
    values[:, ~brain] = 0
    affine = run.affine.copy()
    affine[:3, :3] *= factor
    affine[:3, 3] += run.affine[:3, :3] @ offset
    return Run(values, brain, affine, run.cut)


def steps_of(files: RunFiles) -> float:
    """Seconds between a run's volumes by its sidecar or header, 0 where neither says or the file cannot be read."""
    if files.step > 0:
        return files.step
    from medgraft.benchmarks.cohorts.volumes.load import series_step

    return series_step(Path(files.image))
