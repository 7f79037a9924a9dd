"""A phantom volume as it would come from the scanner, before anyone has corrected, turned or registered it.

What preprocessing has to undo: the head lies at an angle and off the middle; slices are sagittal and thicker than the
pixels in them, so the array's axes run to the back, down and to the right; a strong shading lies over it; and its units
are the scanner's. The head has no skull, as the template has none: what a skull does to registration, this form does
not show.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.phantoms.brain.latents import STREAM_RAW

Array = NDArray[Any]

DEGREES, MILLIMETRES, SHADING, SLICE = 8.0, 12.0, 0.30, 1.2
"""Largest turn about each axis, largest shift along it, share by which the shading raises or lowers a corner, and
thickness of a slice in pixels."""

SAGITTAL = ("P", "I", "R")


def as_acquired(image: Array, affine: Array, seed: int, index: int, month: int) -> tuple[Array, Array]:
    """The raw form of one visit's image.

    Args:
        image: Processed volume in RAS, ``[x, y, z]``, 0 outside the head.
        affine: Voxel to MNI mm, ``[4, 4]``.
        seed: The cohort's seed.
        index: The subject.
        month: The visit.

    Returns:
        ``int16`` volume, axes to the back, down and to the right, and its affine to scanner mm.
    """
    from nibabel.nifti1 import Nifti1Image
    from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    rng = np.random.default_rng([seed, STREAM_RAW, index, month])
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", rng.uniform(-DEGREES, DEGREES, 3), degrees=True).as_matrix()
    pose[:3, 3] = rng.uniform(-MILLIMETRES, MILLIMETRES, 3)
    grid = affine @ np.diag([SLICE, 1.0, 1.0, 1.0])
    shape = (round(image.shape[0] / SLICE), *image.shape[1:])
    to_head: Any = np.linalg.inv(pose @ affine) @ grid  # from a voxel of the scanner to one of the image
    moved = ndimage.affine_transform(image, to_head[:3, :3], to_head[:3, 3], output_shape=shape, order=1)
    slopes, gain = rng.uniform(-1, 1, 3), rng.uniform(300, 900)
    ramps = (k * np.linspace(-1, 1, n).reshape([-1 if d == axis else 1 for d in range(3)])
             for axis, (k, n) in enumerate(zip(slopes, shape, strict=True)))  # fmt: skip
    shading = 1 + SHADING * sum(ramps) / np.abs(slopes).sum()
    counts = np.clip(np.rint(gain * moved * shading), 0, 32_000).astype(np.int16)
    turn: Any = ornt_transform(io_orientation(grid), axcodes2ornt(SAGITTAL))
    turned = Nifti1Image(counts, grid).as_reoriented(turn)
    return np.asarray(turned.dataobj), np.asarray(turned.affine)
