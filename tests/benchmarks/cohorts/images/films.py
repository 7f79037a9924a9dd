"""Makes radiographs with one oddity each: a ramp, dark at the left and bright at the right, in every wording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

RAMP = np.tile(np.linspace(0, 1, 64), (48, 1))
"""What is to be seen, 0..1."""

R8, R12 = (RAMP * 255).astype("u1"), (RAMP * 4095).astype("<u2")
BAND = np.where(np.arange(48)[:, None] < 8, 0, RAMP)
"""The ramp below a black band of eight rows."""


def banded(pixels: np.ndarray, value: int) -> np.ndarray:
    """The pixels with one value in their first eight rows."""
    changed = pixels.copy()
    changed[:8] = value
    return changed


def write(path: Path, pixels: np.ndarray, *, syntax: str = "1.2.840.10008.1.2.1", **fields: Any) -> Path:
    """A DICOM file of 12 bits in 16, or 8 in 8, unless the fields say otherwise; ``None`` leaves a field empty."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ComputedRadiographyImageStorage, generate_uid

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    dataset.Rows, dataset.Columns = pixels.shape[:2] if pixels.ndim == 2 or colour else pixels.shape[1:3]
    dataset.SamplesPerPixel = 3 if colour else 1
    if colour:
        dataset.PlanarConfiguration = 0
    bits = 8 * pixels.dtype.itemsize
    defaults = {
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": 8 if bits == 8 else 12,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
    }
    for name, value in (defaults | fields).items():
        setattr(dataset, name, value)
    if fields.get("PixelPaddingValue") is not None:  # as writers have it who do not look at the sign of the pixels
        dataset["PixelPaddingValue"].VR = "US" if fields["PixelPaddingValue"] >= 0 else "SS"
    if "HighBit" not in fields:
        dataset.HighBit = dataset.BitsStored - 1
    content = pixels.tobytes()
    dataset.PixelData = content + bytes(len(content) % 2)
    big = meta.TransferSyntaxUID == "1.2.840.10008.1.2.2"
    order: dict[str, Any] = {"implicit_vr": False, "little_endian": False} if big else {}
    pydicom.dcmwrite(path, dataset, enforce_file_format=True, **order)
    return path


def overwrite(path: Path, old: bytes, new: bytes) -> Path:
    """The file with some bytes in place of others of the same number."""
    content = path.read_bytes()
    assert content.count(old) == 1 and len(old) == len(new)
    path.write_bytes(content.replace(old, new))
    return path
