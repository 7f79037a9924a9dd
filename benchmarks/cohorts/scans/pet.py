"""Uptake of a tracer relative to a reference region (SUVR)."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.volumes.load import load_series, load_volume
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


def head_mean(uptake: NDArray[np.float32]) -> float:
    """Mean uptake of the head, which SPM calls the global: of voxels above an eighth of the mean of all.

    ``spm_global`` of Statistical Parametric Mapping; it takes out dose and body weight where there is no region, and
    with them a share of any change that is in the whole brain.

    Args:
        uptake: ``float32 [D, H, W]``.

    Raises:
        DataError: It is not above 0.

    Example:
        >>> head_mean(np.array([[[0.0, 0.1, 4.0, 6.0]]], np.float32))
        5.0
    """
    inside = uptake[uptake > uptake.mean(dtype=np.float64) / 8]
    mean = float(inside.mean(dtype=np.float64)) if inside.size else 0.0
    if not (np.isfinite(mean) and mean > 0):
        raise DataError(f"the mean uptake of the head is {mean:g}; it must be above 0", "no uptake there")
    return mean


def load_uptake(
    image: Path, reference: Path | None, labels: tuple[int, ...] = (), *, frames: str = "mean", whole: bool = False
) -> NDArray[np.float32]:
    """A PET image, relative to a reference region if there is one.

    Args:
        image: NIfTI or MGH file of one volume, or NIfTI of the frames of a dynamic scan.
        reference: Mask, or atlas where labels are given, on the same grid; ``None`` for the uptake as it is.
        labels: Numbers in the atlas that make the region; empty for a mask, of whatever is above 0.
        frames: Of a dynamic scan: ``mean`` for their mean over time, ``refuse``.
        whole: Relative to :func:`head_mean` where there is no region.

    Returns:
        ``float32 [x, y, z]`` in RAS.

    Raises:
        DataError: A file cannot be used, or the region does not fit the image.
    """
    uptake, affine = _one_volume(image, frames)
    if reference is None:
        return (uptake / np.float32(head_mean(uptake))).astype(np.float32) if whole else uptake
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


def _one_volume(image: Path, frames: str) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The image, or the mean of its frames, with its affine."""
    try:
        return load_volume(image)
    except DataError as error:
        if error.reason != "not one 3D volume":
            raise
        if frames == "refuse":
            raise DataError(
                f"{image} has more than one frame; set frames=mean, or average them", "dynamic PET"
            ) from error
    series = load_series(image)
    values = series.values
    if not np.isfinite(values).all():
        raise DataError(f"{image} has voxels that are NaN or infinite", "voxels that are NaN or infinite")
    blank = np.flatnonzero(~values.reshape(len(values), -1).any(axis=1))
    if len(blank):
        raise DataError(
            f"{image} is zero in every voxel of frame {int(blank[0]) + 1} of {len(values)}; leave that frame out",
            "frame of zeros",
        )
    weights = frame_seconds(image, len(values))
    return np.average(values, axis=0, weights=weights).astype(np.float32), series.affine


def sidecar(image: Path) -> Path:
    """The JSON file of an image, whether or not it is there."""
    return image.with_name(image.name.split(".nii")[0] + ".json")


def frame_seconds(image: Path, frames: int) -> NDArray[np.float64]:
    """How long each frame is, by ``FrameDuration`` of the JSON file beside it (BIDS); equal where there is none.

    Args:
        image: The image.
        frames: How many it has.

    Returns:
        Seconds, ``float64 [frames]``; ones where nothing is known.

    Raises:
        DataError: The file says so of another number of frames, or no lengths above 0.
    """
    place = sidecar(image)
    if not place.is_file():
        return np.ones(frames)
    try:
        stated = json.loads(place.read_text(encoding="utf-8"))
        lengths = np.asarray(stated.get("FrameDuration") or np.ones(frames), np.float64)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(f"{place} cannot be read: {error}; repair or delete it", "damaged sidecar") from error
    if lengths.shape != (frames,) or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise DataError(
            f"{place} has FrameDuration of {lengths.size} frames, all of which must be above 0, and the image has "
            f"{frames} frames; repair it",
            "frames of other number",
        )
    return lengths


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
