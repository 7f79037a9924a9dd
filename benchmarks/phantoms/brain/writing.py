"""Writes phantom volumes as NIfTI, in one file or in a pair, and as Analyze 7.5; each says that it is no person's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

INT16_PER_UNIT = 1000.0
_DESCRIPTION = b"phantom; not a person"


def in_thousandths(image: Array) -> Array:
    """A processed image ``[D, H, W]`` in steps of a thousandth, ``int16 [D, H, W]``."""
    return np.rint(INT16_PER_UNIT * np.clip(image, 0, 4)).astype(np.int16)


def write_processed(path: Path, image: Array, affine: Array) -> None:
    """Writes a processed image ``[D, H, W]`` in steps of a thousandth."""
    save_volume(path, in_thousandths(image), affine)


def save_volume(path: Path, image: Array, affine: Array) -> None:
    """Writes NIfTI-1: one file, or a pair where the name ends in ``.hdr`` or ``.img``.

    Args:
        path: The file.
        image: ``int16`` or ``float32 [x, y, z]``, or with a trailing axis of 1.
        affine: Voxels to mm, ``[4, 4]``.
    """
    from nibabel.loadsave import save
    from nibabel.nifti1 import Nifti1Image, Nifti1Pair

    path.parent.mkdir(parents=True, exist_ok=True)
    paired = path.name.endswith((".hdr", ".img"))
    volume = (Nifti1Pair if paired else Nifti1Image)(image, affine)
    header: Any = volume.header
    header["descrip"] = _DESCRIPTION
    header.set_xyzt_units("mm")
    volume.to_filename(path) if paired else save(volume, path)


def write_analyze(path: Path, image: Array, spacing: float) -> None:
    """Writes a big-endian pair of Analyze 7.5 with a trailing axis of 1, first axis to the left, as OASIS-1's are.

    Args:
        path: The header, ``.hdr``.
        image: ``int16 [x, y, z]``, axes to the right, front and top.
        spacing: Edge of a voxel, mm.
    """
    from nibabel.analyze import AnalyzeHeader

    header: Any = AnalyzeHeader(endianness=">")
    header.set_data_dtype(np.int16)
    header.set_data_shape((*image.shape, 1))
    header.set_zooms((spacing, spacing, spacing, 1.0))
    header["descrip"] = _DESCRIPTION
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.binaryblock)
    path.with_suffix(".img").write_bytes(image[::-1].astype(">i2").tobytes(order="F"))
