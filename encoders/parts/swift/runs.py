"""A run of fMRI as SwiFT reads it: z-scores of the brain, windows of volumes, one size in space.

After the authors' preparation. A run is in MNI space at 2 mm and its background is 0. Mean and deviation are those of
all its voxels that are not 0, at all times; the background becomes the lowest z-score. Windows follow each other
without a gap or an overlap, and what is left at the end is not read. Each axis is padded with the value of a window's
first voxel, or cropped, the larger half at its beginning: 91 x 109 x 91 becomes 96 x 96 x 96 as the UK Biobank of
the authors does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medgraft.errors import DataError


class BrainScale(NamedTuple):
    """What turns values of a run into z-scores.

    Attributes:
        mean: Of all voxels that are not 0.
        deviation: Their standard deviation, of a sample (divided by one less than their number).
        lowest: Their lowest z-score.
    """

    mean: float
    deviation: float
    lowest: float


def brain_scale(run: np.ndarray) -> BrainScale:
    """Mean, deviation and lowest z-score of a run ``[T, x, y, z]`` where it is not 0, summed in double precision.

    Raises:
        DataError: It is 0 nearly everywhere, or has one value only.
    """
    count = int(np.count_nonzero(run))
    mean = float(sum(volume.sum(dtype=np.float64) for volume in run)) / max(count, 1)
    squares, lowest = 0.0, np.inf
    for volume in run:  # a long run of full size is larger than what a copy of it may take
        inside = volume[volume != 0].astype(np.float64)
        squares += float(np.square(inside - mean).sum())
        lowest = min(lowest, float(inside.min(initial=np.inf)))
    deviation = (squares / max(count - 1, 1)) ** 0.5
    if deviation <= 1e-6 * abs(mean) or count < 2:
        raise DataError(
            f"a run of shape {list(run.shape)} has {count} voxels that are not 0 and a deviation of {deviation:.3g} "
            "over them, so it shows no brain; leave the run out or look at its mask",
            "no brain in it",
        )
    return BrainScale(mean, deviation, (lowest - mean) / deviation)


def window_starts(volumes: int, frames: int, windows: int) -> list[int]:
    """First volumes of the windows that are read.

    Args:
        volumes: Of the run, at least ``frames``.
        frames: Of a window.
        windows: Most windows.

    Returns:
        Ascending multiples of ``frames``: every window of the run, or ``windows`` of them, evenly spread.

    Example:
        >>> window_starts(70, 20, 4), window_starts(200, 20, 4)
        ([0, 20, 40], [20, 60, 120, 160])
    """
    whole = volumes // frames
    count = min(whole, windows)
    return [int((number + 0.5) * whole / count) * frames for number in range(count)]


def prepare_run(raw: Any, size: Sequence[int], frames: int, windows: int) -> Tensor:
    """Run ``[T, x, y, z]`` -> windows of z-scores ``float32 [1, windows * frames, *size]``.

    A run with fewer windows has zeros in the places of the others, see :func:`real_windows`.

    Args:
        raw: Values of any scale, 0 in the background.
        size: Voxels along the three axes of space.
        frames: Volumes of a window.
        windows: Most windows.

    Raises:
        DataError: It is no run, shorter than a window, holds what is not a number, or shows no brain.
    """
    run = np.asarray(raw)
    if run.ndim != 4 or 0 in run.shape or run.dtype.kind not in "fiu":
        raise DataError(f"a run must be numbers [T, x, y, z], got {run.dtype} of shape {list(run.shape)}")
    if len(run) < frames:
        problem = f"a run of {len(run)} volumes is shorter than a window of {frames}; leave the run out"
        raise DataError(problem, "shorter than a window")
    if not all(np.isfinite(volume).all() for volume in run):
        problem = "a run must be finite; it holds nan or inf, so censored volumes must be cut out of it"
        raise DataError(problem, "not finite")
    scale = brain_scale(run)
    prepared = torch.zeros(1, windows * frames, *size)
    for number, start in enumerate(window_starts(len(run), frames, windows)):
        window = run[start : start + frames].astype(np.float32)
        scores = np.where(window != 0, (window - scale.mean) / scale.deviation, scale.lowest).astype(np.float32)
        prepared[0, number * frames : (number + 1) * frames] = torch.from_numpy(centred(scores, size))
    return prepared


def centred(window: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """A window ``[T, x, y, z]`` padded with its first voxel's value, or cropped, on each axis: ``[T, *size]``.

    Of an odd number of places the larger half is put on, or taken off, at the beginning.
    """
    lack = [wanted - length for wanted, length in zip(size, window.shape[1:], strict=True)]
    for axis, more in enumerate(lack, start=1):
        if more < 0:
            first = (1 - more) // 2
            window = np.take(window, range(first, first + size[axis - 1]), axis=axis)
    pads = [((more + 1) // 2, more // 2) if more > 0 else (0, 0) for more in lack]
    return np.pad(window, [(0, 0), *pads], constant_values=window.flat[0])


def real_windows(windows: Tensor) -> Tensor:
    """Which windows ``[B, K, ...]`` are no padding, ``bool [B, K]``: those that are not one value all over.

    A sample without such a window, as a blank one is, counts as real throughout.
    """
    flat = windows.flatten(2)
    real = flat.amax(dim=2) > flat.amin(dim=2)
    return real | ~real.any(dim=1, keepdim=True)
