"""Uptake of a tracer relative to a reference region (SUVR)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.volumes.load import load_volume
from medgraft.errors import DataError

SAME_MM = 1e-2
"""How far apart the corners of two grids may be that are called one, in mm."""


def suvr(uptake: NDArray[np.float32], region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Uptake over its mean in a reference region, which takes out dose and body weight.

    Args:
        uptake: ``float32 [D, H, W]``.
        region: ``bool [D, H, W]``.

    Returns:
        ``float32 [D, H, W]``, 1 on average in the region.

    Raises:
        DataError: The region has another shape, no voxel, or no uptake above 0.

    Example:
        >>> image = np.array([[[2.0, 4.0], [6.0, 8.0]]], np.float32)
        >>> suvr(image, image < 3).tolist()
        [[[1.0, 2.0], [3.0, 4.0]]]
    """
    if uptake.shape != region.shape:
        raise DataError(
            f"the reference region is {list(region.shape)} and the uptake {list(uptake.shape)}; resample it to the "
            "grid of the PET image",
            "reference region of another shape",
        )
    if not region.any():
        raise DataError("the reference region has no voxel; check its label", "empty reference region")
    mean = float(uptake[region].mean(dtype=np.float64))
    if not (np.isfinite(mean) and mean > 0):
        raise DataError(f"the mean uptake in the reference region is {mean:g}; it must be above 0", "no uptake there")
    return (uptake / np.float32(mean)).astype(np.float32)


def load_uptake(image: Path, reference: Path | None, labels: tuple[int, ...] = ()) -> NDArray[np.float32]:
    """A PET image, relative to a reference region if there is one.

    Args:
        image: NIfTI or MGH file of one volume.
        reference: Mask, or atlas where labels are given, on the same grid; ``None`` for the uptake as it is.
        labels: Numbers in the atlas that make the region; empty for a mask, of whatever is above 0.

    Returns:
        ``float32 [x, y, z]`` in RAS.

    Raises:
        DataError: A file cannot be used, or the region does not fit the image.
    """
    uptake, affine = load_volume(image)
    if reference is None:
        return uptake
    try:
        values, grid = load_volume(reference)
    except DataError as error:
        if error.reason == "zero in every voxel":
            raise DataError(f"the reference region {reference} has no voxel", "empty reference region") from error
        raise
    region = np.isin(np.rint(values), labels) if labels else values > 0
    if values.shape == uptake.shape:
        check_grids(affine, grid, uptake.shape, f"the reference region {reference.name} and {image.name}")
    return suvr(uptake, region)


def check_grids(first: NDArray[np.float64], second: NDArray[np.float64], shape: tuple[int, ...], what: str) -> None:
    """Refuses two images of one shape that lie in different places.

    Args:
        first: Affine, ``[4, 4]``.
        second: The other, ``[4, 4]``.
        shape: Voxels on each axis.
        what: Whose they are, for the error.

    Raises:
        DataError: A corner of one is elsewhere.
    """
    corners = np.array([[i, j, k, 1] for i in (0, shape[0]) for j in (0, shape[1]) for k in (0, shape[2])], float)
    apart = float(np.abs(corners @ (first - second).T).max())
    if apart > SAME_MM:
        raise DataError(f"{what} lie on grids that are up to {apart:.2g} mm apart; resample one", "grids apart")
