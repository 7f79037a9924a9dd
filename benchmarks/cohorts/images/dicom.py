"""DICOM radiographs as grey values, after part 3 of the standard: padding, modality, window, polarity, orientation.

In this order: stored bits (part 5, 8.1.1), padding (C.7.5.1.1.2), modality transform (C.11.1), the first display
window that shows something (C.11.2), MONOCHROME1 turned round so that dense parts are bright, padding painted black,
and the film turned to the way it hangs (C.7.6.1.1.1). Fields that are empty say nothing. Two that contradict each other
are no picture that can be trusted: the file is left out, and counted by that reason.
"""

from __future__ import annotations

import io
import warnings
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np

from medgraft.benchmarks.cohorts.files.streams import GZIP, Within, starts_with
from medgraft.benchmarks.cohorts.images.dicom_display import after_display, after_modality, hanging, is_inverted
from medgraft.benchmarks.cohorts.images.dicom_fields import first_number, numbers, word
from medgraft.benchmarks.cohorts.images.dicom_stored import as_colours, padding_of, stored_values
from medgraft.benchmarks.cohorts.images.grey import (
    check_colours,
    check_contrast,
    extremes,
    in_colour,
    luminance,
    stretched,
    turned,
)
from medgraft.errors import DataError
from medgraft.files.limits import within, within_unpacked
from medgraft.files.one_file import one_file

_CUT, _MISNAMED = "no DICOM image, or cut", "named otherwise than its content"
_REMEDY = "copy it again, or store it uncompressed"
_OTHERS = {
    GZIP: "a gzip file; unpack it",
    b"\xff\xd8\xff": "a JPEG; rename it to .jpg",
    b"\x89PNG": "a PNG; rename it to .png",
}
_STEP = 1 << 18


def load_dicom(path: str | Path, *, places: bool = False) -> np.ndarray:
    """Loads one DICOM radiograph as ``uint8 [H, W]``, bright is dense.

    Eight-bit values without a scale stay as they are. All others are stretched after modality transform and window,
    see :mod:`medgraft.benchmarks.cohorts.images.grey`.

    Args:
        path: The file.
        places: Something is to be found in the picture as stored; one that hangs otherwise than stored is refused.

    Raises:
        DataError: The file is missing, damaged, holds more than one frame or more than ``MEDGRAFT_MAX_PIXELS``, is
            compressed in a way that cannot be decoded here, contradicts itself, or shows one value all over.
    """
    with one_file(path, "a DICOM image", _CUT, _REMEDY), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom warns of every oddity of a header that it can read all the same
        dataset = _read(Path(path))
        _check_frame(path, dataset)
        grey, ignored = _picture(path, dataset)
        check_contrast(path, grey, ignored)
        code = hanging(path, dataset)
    if places and code != 1:
        raise DataError(
            f"{path} hangs otherwise than it is stored (PatientOrientation {word(dataset, 'PatientOrientation')}), and "
            "the task has places in it; store it upright",
            "stored turned, in a task with places",
        )
    return turned(grey, code)


def load_dicom_colours(path: str | Path) -> np.ndarray:
    """Loads one DICOM image in colour, ``uint8 [H, W, 3]``; grey values as :func:`load_dicom`, three times.

    Colours of more than eight bits are stretched, all three alike.

    Args:
        path: The file.

    Raises:
        DataError: As :func:`load_dicom`.
    """
    with one_file(path, "a DICOM image", _CUT, _REMEDY), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = _read(Path(path))
        _check_frame(path, dataset)
        kind = _kind(path, dataset)
        if kind.startswith("MONOCHROME"):
            grey, ignored = _picture(path, dataset)
            check_contrast(path, grey, ignored)
            colours = in_colour(grey)
        else:
            colours = as_colours(dataset, kind)
            colours = colours.copy() if colours.dtype == np.uint8 else stretched(colours.astype(np.float64))
            check_colours(path, colours)
        return turned(colours, hanging(path, dataset))


def dicom_shape(path: str | Path) -> tuple[int, int]:
    """Rows and columns as stored, from the header alone.

    Raises:
        DataError: There is no readable header.
    """
    with one_file(path, "a DICOM image", _CUT, _REMEDY), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = _read(Path(path), stop_before_pixels=True, specific_tags=["Rows", "Columns"])
        return int(header.Rows), int(header.Columns)


def _read(path: Path, **how: Any) -> Any:
    import pydicom
    from pydicom.filereader import read_file_meta_info

    if not starts_with(path, b"DICM", at=128):
        for prefix, kind in _OTHERS.items():
            if starts_with(path, prefix):
                raise DataError(f"{path} is {kind}", _MISNAMED)
    meta = read_file_meta_info(path)
    if getattr(meta.get("TransferSyntaxUID"), "is_deflated", False):
        _check_deflated(path, meta)
    with Within(path) as stream:
        return pydicom.dcmread(cast(Any, io.BufferedReader(stream)), **how)


def _check_deflated(path: Path, meta: Any) -> None:
    """Unpacks a deflated file once and keeps nothing of it; pydicom unpacks whatever comes."""
    if "FileMetaInformationGroupLength" not in meta:
        raise ValueError("it is deflated and does not say from where on (0002,0000)")
    count, block, stream = 0, b"", zlib.decompressobj(wbits=-15)
    with path.open("rb") as handle:
        handle.seek(128 + 4 + 12 + int(meta.FileMetaInformationGroupLength))
        while not stream.eof and (left := stream.unconsumed_tail or handle.read(_STEP)):
            block = stream.decompress(left, _STEP)
            count += len(block)
            within_unpacked(
                handle.tell(), count, str(path), lambda sentence: DataError(sentence, "unpacks to more than allowed")
            )


def _check_frame(path: str | Path, dataset: Any) -> None:
    """Refuses more than one frame, too many pixels and pixels that are not square, before anything is decoded."""
    frames = first_number(dataset, "NumberOfFrames") or 1
    if frames > 1:
        raise DataError(f"{path} holds {frames:g} frames, not one grey image; take its row out", "more than one frame")
    samples = first_number(dataset, "SamplesPerPixel") or 1
    pixels = int(dataset.Rows) * int(dataset.Columns) * int(samples)
    within(
        "MEDGRAFT_MAX_PIXELS",
        pixels,
        f"{path} has {pixels:,} pixels by its header",
        lambda sentence: DataError(sentence, "more pixels than allowed"),
    )
    for name in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        sizes = [size for size in numbers(dataset, name)[:2] if size > 0]
        if len(sizes) == 2:
            if max(sizes) > 1.05 * min(sizes):
                raise DataError(f"{path} has pixels that are not square ({name} {sizes})", "pixels that are not square")
            return


def _picture(path: str | Path, dataset: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """Grey values as stored, ``uint8 [H, W]``, and where they are padding."""
    kind = _kind(path, dataset)
    if not kind.startswith("MONOCHROME"):
        colours = as_colours(dataset, kind)
        grey = luminance(colours)
        return ((grey + 0.5).astype(np.uint8) if colours.dtype == np.uint8 else stretched(grey)), None
    stored = stored_values(path, dataset)
    ignored = padding_of(dataset, stored)
    values, scaled = after_modality(dataset, stored.values)
    values, windowed = after_display(dataset, values, ignored)
    low, high = extremes(values, ignored)
    if not np.isfinite([low, high]).all():
        raise DataError(f"{path} has pixels that are NaN or infinite", "pixels that are NaN or infinite")
    if stored.depth == 8 and not scaled and low >= 0 and high <= 255:
        whole = values.dtype == np.uint8  # neither shifted nor windowed
        grey = values if whole else (np.clip(values, 0, 255) + 0.5).astype(np.uint8)
    else:
        grey = stretched(values.astype(np.float64, copy=False), ignored, clip=not windowed)
    if is_inverted(path, dataset, kind):
        grey = 255 - grey
    return (grey if ignored is None else np.where(ignored, np.uint8(0), grey)), ignored


def _kind(path: str | Path, dataset: Any) -> str:
    """The photometric interpretation, in capitals, as pydicom wants it; the data set is given it too."""
    kind = word(dataset, "PhotometricInterpretation")
    dataset.PhotometricInterpretation = kind
    if not kind:
        raise DataError(f"{path} does not say whether bright is dense (0028,0004)", "polarity unknown")
    return kind
