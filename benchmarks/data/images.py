"""Radiographs as files: DICOM or ordinary images, found by name and loaded as grey values.

DICOM is read after its standard, part 3: the modality transform first, then the display window, and MONOCHROME1 (bright
is sparse) turned round, so that every radiograph shows dense parts bright.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medgraft.benchmarks.data.chexpert import load_image
from medgraft.benchmarks.data.reading import ReadReport
from medgraft.errors import DataError

SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg")
_DICOM = (".dcm", ".dicom")
_OTHER_COHORT = "mimic-cxr-2.0.0"


def load_radiograph(path: str | Path) -> np.ndarray:
    """Loads a DICOM file or an ordinary image as a writable uint8 ``[H, W]``, bright is dense.

    Raises:
        DataError: The file is missing, damaged, holds more than one frame, or is compressed in a way that cannot be
            decoded here.
    """
    if str(path).lower().endswith(_DICOM):
        return load_dicom(path)
    return np.array(load_image(path))


def load_dicom(path: str | Path) -> np.ndarray:
    """Loads one DICOM radiograph as uint8 ``[H, W]``.

    Eight-bit values without a window stay as they are; all others are stretched from their smallest to their largest
    value, after the file's modality transform and its first display window.

    Raises:
        DataError: See :func:`load_radiograph`.
    """
    import pydicom
    from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pydicom warns of every oddity of a header that it can read all the same
            dataset = pydicom.dcmread(path)
            values = apply_voi_lut(apply_modality_lut(dataset.pixel_array, dataset), dataset)
            values = np.asarray(values, np.float64)
            depth, kind = int(dataset.BitsStored), str(dataset.PhotometricInterpretation)
    except Exception as error:  # a damaged file makes pydicom stumble in its own code, over whatever is damaged
        raise DataError(
            f"{path} is not a DICOM image that can be decoded ({type(error).__name__}: {error}); copy it again, "
            "or store it uncompressed"
        ) from error
    if values.ndim == 3 and values.shape[-1] == 3:
        values = values.mean(axis=-1)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise DataError(f"{path} holds an array of shape {values.shape}, not one grey image; take its row out")
    low, high = float(values.min()), float(values.max())
    if depth > 8 or low < 0 or high > 255:
        values = (values - low) * (255 / (high - low)) if high > low else np.zeros_like(values)
    grey = (values + 0.5).astype(np.uint8)
    return 255 - grey if kind == "MONOCHROME1" else grey


def image_shape(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels, from the header alone.

    Raises:
        DataError: There is no readable header.
    """
    try:
        if str(path).lower().endswith(_DICOM):
            import pydicom

            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
            return int(header.Rows), int(header.Columns)
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # as in load_dicom
        raise DataError(f"{path} has no readable image header ({error}); copy it again") from error


def squared(image: np.ndarray) -> np.ndarray:
    """Pads ``[H, W]`` with black below or to the right to a square.

    Encoders cut or squash what is not square, each in its own way; places in a square image are places in every
    encoder's input.
    """
    height, width = image.shape
    side = max(height, width)
    return image if height == width else np.pad(image, ((0, side - height), (0, side - width)))


def find_home(root: Path, tables: Sequence[str], what: str) -> tuple[Path, Path]:
    """The folder that holds one of the named tables, and the table: the root or a folder one level below it.

    Args:
        root: Folder that the user named.
        tables: Accepted names, the preferred first.
        what: Name of the cohort, for the error.

    Raises:
        DataError: There is none.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; name the folder that holds a copy of {what}")
    folders = [root.absolute(), *sorted(child.absolute() for child in root.iterdir() if child.is_dir())]
    for folder in folders:
        for name in tables:
            if (folder / name).is_file():
                return folder, folder / name
    raise DataError(
        f"no {' or '.join(tables)} in {root} or one level below; name the folder of {what} that holds this table"
    )


def index_images(home: Path) -> dict[str, str]:
    """File name without suffix -> absolute path, for every image below ``home``; of equal names the first wins.

    A copy of MIMIC-CXR below ``home`` is passed over: its images are found by their numbers, and there are many.
    """
    found: dict[str, str] = {}
    for folder, below, names in os.walk(home):
        if Path(folder) != home and any(name.startswith(_OTHER_COHORT) for name in names):
            below.clear()
            continue
        below.sort()
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in SUFFIXES:
                found.setdefault(stem, os.path.join(folder, name))
    return found


def located(
    names: Iterable[str], images: dict[str, str], report: ReadReport, expected: Callable[[str], str]
) -> list[int]:
    """Positions of the names whose image exists; the others are counted.

    Args:
        names: File names without suffix.
        images: What :func:`index_images` found.
        report: Where missing ones are counted.
        expected: Where the image of a name should be, for the error.

    Raises:
        DataError: Not one of them exists.
    """
    names = list(names)
    there = [row for row, name in enumerate(names) if name in images]
    if names and not there:
        raise DataError(f"none of the {len(names)} images is there; one should be {expected(names[0])}")
    if len(there) < len(names):
        report.skip("image missing", count=len(names) - len(there))
    return there
