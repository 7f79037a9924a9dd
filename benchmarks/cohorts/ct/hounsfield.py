"""CT volumes in Hounsfield units, and the windows that turn them into grey values."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from medgraft.benchmarks.cohorts.volumes.load import load_spaced
from medgraft.encoders.slices import SpacedVolume, spaced
from medgraft.errors import DataError
from medgraft.files.limits import within
from medgraft.files.one_file import one_file

Window = Literal["hu", "ct_clip", "m3d", "lung", "mediastinum", "bone"]
WINDOWS: dict[str, tuple[float, float]] = {
    "hu": (-1000, 1000),
    "ct_clip": (-1000, 1000),
    "lung": (-1350, 150),
    "mediastinum": (-160, 240),
    "bone": (-450, 1050),
}
"""Lowest and highest HU of each window; ``m3d`` has none, it takes the whole range of a volume."""
M3D_SIZE = (32, 256, 256)
"""Slices, rows and columns that M3D's preparation resizes to."""

READER_VERSION = 1
"""Raised whenever the same file would be read differently; part of what the caches know."""


def load_hounsfield(
    path: str | Path, *, slope: float = 1.0, intercept: float = 0.0, spacing: tuple[float, float, float] | None = None
) -> SpacedVolume:
    """A NIfTI volume in HU, ``float32 [x, y, z]`` with axes to the right, front and top.

    Args:
        path: The file.
        slope: HU per unit of the values in the file, where its header does not say so itself.
        intercept: HU of a value of 0.
        spacing: Millimetres per voxel along left-right, back-front and bottom-top; ``None`` for the header's.

    Raises:
        DataError: The file cannot be used; see :func:`~medgraft.benchmarks.cohorts.volumes.load.load_volume`.
    """
    volume = load_spaced(path)
    hu = np.asarray(volume, np.float32) * np.float32(slope) + np.float32(intercept)
    sizes = spacing or volume.spacing
    assert sizes is not None  # load_spaced always says it
    return spaced(hu, sizes)


def windowed(hu: SpacedVolume, window: Window) -> SpacedVolume:
    """Grey values of a volume ``[x, y, z]`` in HU.

    - ``hu``, ``lung``, ``mediastinum``, ``bone``: values are clipped to :data:`WINDOWS` and scaled to 0..1.
    - ``ct_clip``: clipped to -1000..1000 and divided by 1000, to -1..1, as CT-CLIP's scripts do.
    - ``m3d``: the whole range is scaled to 0..1, the body cut out, and the rest resized to 32 slices of 256 x 256, as
      M3D's preparation does; the size of the voxels is no longer known then.
    """
    if window == "m3d":
        from medgraft.encoders.m3d import prepare_volume

        stack = prepare_volume(np.asarray(hu).T, M3D_SIZE)[0].numpy()
        return np.ascontiguousarray(stack.T).view(SpacedVolume)
    low, high = WINDOWS[window]
    clipped = np.clip(np.asarray(hu), low, high)
    grey = clipped / 1000 if window == "ct_clip" else (clipped - low) / (high - low)
    sizes = hu.spacing
    return spaced(grey.astype(np.float32), sizes) if sizes else grey.astype(np.float32).view(SpacedVolume)


def load_stack(path: str | Path) -> np.ndarray:
    """An array of M3D, as it is stored: ``float32 [columns, rows, slices]``.

    The axes are turned so that encoders of volumes, which take ``[x, y, z]``, see slices along the last one, and the
    encoder ``m3d`` sees exactly what was stored. Which way a stack runs is not published.

    Args:
        path: ``.npy`` with ``[1, slices, rows, columns]`` or ``[slices, rows, columns]``.

    Raises:
        DataError: The file is missing, no array of numbers, of another shape, too large, constant or not finite.
    """
    with one_file(path, "an array of numpy", "no array of numbers"):
        # Mapped, so that what the header promises is known before anything is allocated.
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
        if stored.ndim == 4 and stored.shape[0] == 1:
            stored = stored[0]
        if stored.ndim != 3 or 0 in stored.shape or stored.dtype.kind not in "iuf":
            shape = tuple(stored.shape)
            raise DataError(
                f"{path} has shape {shape} of {stored.dtype}; [1, slices, rows, columns] is expected", "shape"
            )
        within(
            "MEDGRAFT_MAX_VOXELS",
            int(np.prod(stored.shape)),
            f"{path} has {int(np.prod(stored.shape)):,} voxels",
            lambda sentence: DataError(sentence, "more voxels than allowed"),
        )
        values = np.array(stored, np.float32)
    if not np.isfinite(values).all():
        raise DataError(f"{path} has voxels that are NaN or infinite", "voxels that are NaN or infinite")
    if values.min() == values.max():
        raise DataError(f"{path} has the same value in every voxel", "the same value in every voxel")
    return np.ascontiguousarray(values.T)
