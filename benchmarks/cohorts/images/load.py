"""Images as files: DICOM or ordinary ones, found by name; grey values, where dense parts are bright, or colours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from medgraft.benchmarks.cohorts.files.walking import not_raw, walk
from medgraft.benchmarks.cohorts.images.dicom import dicom_shape, load_dicom, load_dicom_colours
from medgraft.benchmarks.cohorts.images.grey import check_colours, check_contrast
from medgraft.benchmarks.cohorts.images.pictures import load_colours, load_image, picture_shape
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import DataError

SUFFIXES = (".dcm", ".dicom", ".png", ".jpg", ".jpeg")
_DICOM = (".dcm", ".dicom")
_OTHER_COHORT = "mimic-cxr-2.0.0"


def load_radiograph(path: str | Path, *, places: bool = False) -> np.ndarray:
    """Loads a DICOM file or an ordinary image as a writable uint8 ``[H, W]``, bright is dense, upright as it hangs.

    Args:
        path: The file.
        places: Something is to be found in the picture as stored; one that hangs otherwise than stored is refused.

    Raises:
        DataError: The file is missing, damaged, larger than allowed, holds more than one frame or one value all over,
            contradicts itself, or is compressed in a way that cannot be decoded here.
    """
    if is_dicom(path):
        return load_dicom(path, places=places)
    image = load_image(path, places=places)
    check_contrast(path, image)
    return image


def load_photograph(path: str | Path) -> np.ndarray:
    """Loads a DICOM file or an ordinary image in colour: a writable uint8 ``[H, W, 3]`` of red, green and blue.

    Grey values are the same ones three times, read as :func:`load_radiograph` reads them.

    Args:
        path: The file.

    Raises:
        DataError: As :func:`load_radiograph`.
    """
    if is_dicom(path):
        return load_dicom_colours(path)
    image = load_colours(path)
    check_colours(path, image)
    return image


def is_dicom(path: str | Path) -> bool:
    """True where the name says DICOM."""
    return str(path).lower().endswith(_DICOM)


def image_shape(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels as stored, from the header alone.

    Raises:
        DataError: There is no readable header.
    """
    return dicom_shape(path) if is_dicom(path) else picture_shape(path)


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


def index_images(home: Path, preferred: str = "", report: ReadReport | None = None) -> dict[str, str]:
    """File name without suffix -> absolute path, for every image below ``home``.

    Of equal names the one in the cohort's own folder counts, then DICOM before pictures made of it, then the first by
    path; what BIDS calls no raw data comes last. A copy of MIMIC-CXR below ``home`` is passed over: its images are
    found by their numbers, and there are many.

    Args:
        home: Where to look.
        preferred: Beginning of the names of the cohort's own folders of images.
        report: Where further images of one name are noted.
    """
    best: dict[str, tuple[tuple[bool, bool, int, str], str]] = {}
    further = 0
    for here in walk(home):
        if here.inside and any(name.startswith(_OTHER_COHORT) for name in here.files):
            here.folders.clear()
            continue
        parts = here.inside.split("/")
        late = any(not_raw(part) for part in parts)
        inside = bool(preferred) and any(part.startswith(preferred) for part in parts)
        for name in here.files:
            stem, suffix = os.path.splitext(name)
            if suffix.lower() not in SUFFIXES:
                continue
            rank = late, not inside, SUFFIXES.index(suffix.lower()), here.inner(name)
            further += stem in best
            if stem not in best or rank < best[stem][0]:
                best[stem] = rank, os.path.join(here.path, name)
    if further and report is not None:
        report.note("further image of the same name; the cohort's own is used", further)
    return {stem: path for stem, (_, path) in best.items()}


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
