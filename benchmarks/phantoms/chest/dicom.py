"""Writer of phantom radiographs as DICOM files that say of themselves that they are no person's."""

from __future__ import annotations

from pathlib import Path

import numpy as np

_UID_ROOT = "2.25."


def write_dicom(
    path: Path, image: np.ndarray, *, name: str, study: str = "", series: str = "", sex: str, age: int, view: str
) -> None:
    """Writes one frame as an uncompressed Computed Radiography image.

    Args:
        path: New file; its folder exists.
        image: uint8 ``[H, W]``, bright is dense.
        name: SOP instance UID, and the patient's identifier, as in the challenges.
        study: Study instance UID; derived from ``name`` by default.
        series: Series instance UID; derived from ``name`` by default.
        sex: ``F`` or ``M``.
        age: Years.
        view: ``AP`` or ``PA``.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

    def uid(kind: str) -> UID:
        return generate_uid(prefix=_UID_ROOT, entropy_srcs=[kind, name])

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = uid("instance")
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = uid("medgraft")
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID = ComputedRadiographyImageStorage
    dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    dataset.StudyInstanceUID = study or uid("study")
    dataset.SeriesInstanceUID = series or uid("series")
    dataset.Modality, dataset.BodyPartExamined, dataset.ViewPosition = "CR", "CHEST", view
    dataset.PatientName, dataset.PatientID = "PHANTOM", name[:64]
    dataset.PatientSex, dataset.PatientAge = sex, f"{age:03d}Y"
    dataset.ImageComments = "phantom; not a person"
    dataset.Rows, dataset.Columns = image.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
    data = np.ascontiguousarray(image, np.uint8).tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset.save_as(path, enforce_file_format=True)
