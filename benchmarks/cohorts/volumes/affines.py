"""Where a NIfTI volume lies: which of its two forms holds, in which unit, and whether its header contradicts itself.

After the NIfTI-1 standard (https://nifti.nimh.nih.gov/nifti-1, section "3D image orientation and location"): method 2
is the quaternion (qform), method 3 the matrix (sform), and each has a code that is zero where it is not set. A form
that is set and cannot be is as one that is not set. Nothing is guessed where neither is left.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medgraft.errors import DataError

Affine = NDArray[np.float64]

QUATERNION_SLACK = 0.01
"""By how much the vector of a unit quaternion may be longer than 1 for rounding; the standard's own code scales it."""

UNITS = {1: 1000.0, 2: 1.0, 3: 0.001}
"""Code of ``xyzt_units`` -> millimetres. No code, or another, means millimetres, as most software has it."""

SMALLEST_MM, LARGEST_MM = 0.005, 100.0
"""Edges of a voxel beyond which the unit of the header must be wrong: microscopes begin below, no scanner is above."""

SCANNER = 1
SAME, STRETCHED = 1.02, 1.5
"""Factor by which ``pixdim`` and the affine may differ: where the affine says where the scanner stood, and where it
aligns to something else (another scan, a template), which may stretch the head."""

_HINT = "convert it again from DICOM"


def affine_of(path: Path, header: Any) -> Affine:
    """Voxels to millimetres by a NIfTI header.

    The sform counts before the qform, where both can be.

    Args:
        path: The file, for errors.
        header: ``Nifti1Header`` or a header derived from it.

    Returns:
        ``float64 [4, 4]``.

    Raises:
        DataError: No form is set, none that is set can be, the two put the axes in different places, or the size of a
            voxel is impossible or contradicts itself.
    """
    codes = {"sform": int(header["sform_code"]), "qform": int(header["qform_code"])}
    if not any(code > 0 for code in codes.values()):
        flaw = "does not say how it is oriented (sform and qform unset)"
        raise DataError(f"{path} {flaw}; {_HINT}", "no orientation")
    sform = _usable(_sform(header)) if codes["sform"] > 0 else None
    qform = _usable(_qform(header)) if codes["qform"] > 0 else None
    chosen = sform if sform is not None else qform
    if chosen is None:
        raise DataError(f"{path} has no usable affine (zero or undefined voxel spacing); {_HINT}", "no usable affine")
    if sform is not None and qform is not None:
        _check_agreement(path, sform, qform)
    code = codes["sform" if sform is not None else "qform"]
    _check_spacing(path, header, chosen, SAME if code == SCANNER else STRETCHED)
    scale = UNITS.get(int(header["xyzt_units"]) & 7, 1.0)
    chosen = np.diag([scale, scale, scale, 1.0]) @ chosen
    check_edges(path, chosen)
    return chosen


def check_edges(path: Path, affine: Affine) -> None:
    """Refuses voxels of a size that no scanner makes.

    Raises:
        DataError: An edge is below :data:`SMALLEST_MM` or above :data:`LARGEST_MM`.
    """
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if edges.min() < SMALLEST_MM or edges.max() > LARGEST_MM:
        size = " x ".join(f"{edge:g}" for edge in edges)
        raise DataError(
            f"{path} has voxels of {size} mm, so the unit in its header is wrong; {_HINT}", "voxels of impossible size"
        )


def is_usable(affine: Any) -> bool:
    """True for a finite ``[4, 4]`` whose axes span space."""
    if affine is None or np.shape(affine) != (4, 4) or not np.isfinite(affine).all():
        return False
    edges = np.linalg.norm(np.asarray(affine)[:3, :3], axis=0)
    return bool(edges.min() > 0 and abs(np.linalg.det(np.asarray(affine)[:3, :3] / edges)) > 1e-3)


def _usable(affine: Affine | None) -> Affine | None:
    return affine if is_usable(affine) else None


def _sform(header: Any) -> Affine:
    rows = [np.asarray(header[f"srow_{axis}"], np.float64) for axis in "xyz"]
    return np.vstack([*rows, [0.0, 0.0, 0.0, 1.0]])


def _qform(header: Any) -> Affine | None:
    """The matrix of the quaternion; ``None`` where it is none or a spacing is not positive."""
    vector = np.array([float(header[f"quatern_{name}"]) for name in "bcd"])
    squared = float(vector @ vector)
    edges = np.asarray(header["pixdim"][1:4], np.float64)
    if not np.isfinite([squared, *edges]).all() or squared > 1 + QUATERNION_SLACK or (edges <= 0).any():
        return None
    from nibabel.quaternions import quat2mat

    first = np.sqrt(max(0.0, 1.0 - squared))
    flip = -1.0 if float(header["pixdim"][0]) < 0 else 1.0
    affine = np.eye(4)
    affine[:3, :3] = quat2mat([first, *vector]) * (edges * [1.0, 1.0, flip])  # normalises what is too long
    affine[:3, 3] = [float(header[f"qoffset_{axis}"]) for axis in "xyz"]
    return affine


def _check_agreement(path: Path, sform: Affine, qform: Affine) -> None:
    """Refuses forms that name the axes differently; two that hardly differ may, where a head lies at 45 degrees."""
    from nibabel.orientations import aff2axcodes

    ways = ["".join(map(str, aff2axcodes(form))) for form in (sform, qform)]
    turned = [form[:3, :3] / np.linalg.norm(form[:3, :3], axis=0) for form in (sform, qform)]
    if ways[0] != ways[1] and np.abs(turned[0] - turned[1]).max() > 0.2:
        flaw = f"is {ways[0]} by its sform, {ways[1]} by its qform"
        raise DataError(f"{path} {flaw}; {_HINT}", "two contradicting orientations")


def _check_spacing(path: Path, header: Any, affine: Affine, factor: float) -> None:
    """Refuses voxels of one size by ``pixdim`` and of another by the affine; an unset ``pixdim`` says nothing."""
    spacing = np.abs(np.asarray(header["pixdim"][1:4], np.float64))
    if not np.isfinite(spacing).all() or (spacing == 0).any():
        return
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    ratio = np.maximum(spacing / edges, edges / spacing)
    if ratio.max() > factor:
        sizes = [" x ".join(f"{edge:.4g}" for edge in each) for each in (spacing, edges)]
        raise DataError(
            f"{path} has voxels of {sizes[0]} by pixdim and of {sizes[1]} by its affine; {_HINT}",
            "spacing contradicts the affine",
        )
