"""Volumes as slices for 2D encoders: which are taken, what their grey values become, and how short volumes are padded.

Slices are chosen in millimetres where the spacing of the voxels is known, so that scans of different slice thickness
show a 2D encoder the same anatomy at the same steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medgraft.errors import ConfigError, DataError

LOW, HIGH = 0.5, 99.5
"""Percentiles of a volume that become black and white; a few bright vessels do not decide the contrast."""


class SpacedVolume(np.ndarray):
    """A volume ``[D, H, W]`` that knows its voxels' size; an array like any other for whoever does not ask.

    Attributes:
        spacing: Distance of neighbouring voxels in mm on each axis; ``None`` for what was computed from a volume.
    """

    spacing: tuple[float, float, float] | None

    def __array_finalize__(self, parent: Any) -> None:
        self.spacing = None  # a part or a resampled copy has voxels of another size


def spaced(values: np.ndarray, spacing: Sequence[float]) -> SpacedVolume:
    """A volume with the size of its voxels.

    Args:
        values: ``float32 [D, H, W]``.
        spacing: Millimetres per voxel on the three axes.

    Raises:
        DataError: It is no volume, or the spacing is not three positive numbers.
    """
    sizes = tuple(float(size) for size in spacing)
    if np.ndim(values) != 3 or len(sizes) != 3 or not all(np.isfinite(size) and size > 0 for size in sizes):
        raise DataError(
            f"a volume of shape {np.shape(values)} cannot have voxels of {sizes} mm; give three positive sizes"
        )
    volume = np.asarray(values).view(SpacedVolume)
    volume.spacing = (sizes[0], sizes[1], sizes[2])
    return volume


def slice_positions(depth: int, count: int, step: float | None = None) -> np.ndarray:
    """Which of ``depth`` slices are taken.

    Args:
        depth: Slices of the volume, at least 1.
        count: Most slices to take, at least 1.
        step: Distance in slices of the volume between two that are taken; ``None`` to take exactly ``count``, evenly.

    Returns:
        ``int64 [n]``, ascending, ``1 <= n <= count``, centred on the volume. With ``step``, as many as the volume is
        long; one that would need more than ``count`` is covered whole, in wider steps.

    Example:
        >>> slice_positions(10, 4).tolist(), slice_positions(9, 8, step=3.0).tolist()
        ([1, 3, 6, 8], [1, 4, 7])
    """
    n = count if step is None else min(count, max(1, round(depth / step)))
    width = depth / n if step is None or n == count else step
    places = (depth - 1) / 2 + (np.arange(n) - (n - 1) / 2) * width
    return np.clip(np.floor(places + 0.5), 0, depth - 1).astype(np.int64)


def take_slices(raw: Any, axis: int, count: int, spacing: float | None) -> np.ndarray:
    """Slices of a volume as grey images.

    Args:
        raw: ``float32 [D, H, W]``, a :class:`SpacedVolume` where ``spacing`` is asked for.
        axis: Which axis is cut.
        count: Most slices.
        spacing: Distance of the slices in mm; ``None`` to spread ``count`` of them evenly.

    Returns:
        ``uint8 [n, H', W']``; ``n == count`` without ``spacing``.

    Raises:
        DataError: It is no volume, has no slice, holds values that are not finite, or does not say its spacing where
            that is needed.
    """
    values = np.asarray(raw, dtype=np.float32)
    if values.ndim != 3 or 0 in values.shape:
        raise DataError(f"a volume must be [D, H, W] with at least one slice, got shape {list(values.shape)}")
    if not np.isfinite(values).all():
        raise DataError("a volume has voxels that are NaN or infinite; mend it before it is cut into slices")
    step = None
    if spacing is not None:
        sizes = getattr(raw, "spacing", None)
        if sizes is None:
            raise DataError(
                f"slices every {spacing} mm need the size of the voxels; give medgraft.encoders.slices.spaced(volume, "
                "sizes), or leave slice_spacing out"
            )
        step = spacing / sizes[axis]
    stack = np.moveaxis(values, axis, 0)
    low, high = np.percentile(values, [LOW, HIGH])
    grey = (stack[slice_positions(len(stack), count, step)] - low) / max(high - low, 1e-12)
    return np.floor(grey.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def pad_slices(volume: Tensor, count: int) -> Tensor:
    """Appends empty slices, NaN in every place, to a prepared volume ``[C, S, H, W]`` with ``S <= count``.

    Raises:
        ConfigError: It has no slice, or more than ``count``.
    """
    have = volume.shape[1]
    if not 1 <= have <= count:
        raise ConfigError(f"a volume of {have} slices does not fit an encoder of {count}; it needs 1 to {count}")
    return torch.nn.functional.pad(volume, (0, 0, 0, 0, 0, count - have), value=float("nan"))
