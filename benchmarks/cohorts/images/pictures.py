"""Pictures as PNG, JPEG or TIFF: opened as nothing else, checked to the end, and read as grey values or in colour."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.benchmarks.cohorts.files.streams import starts_with
from medgraft.benchmarks.cohorts.images.grey import in_colour, luminance, stretched, turned
from medgraft.errors import DataError
from medgraft.files.limits import within
from medgraft.files.one_file import one_file

FORMATS = ("PNG", "JPEG", "TIFF")
"""What the chest cohorts and copies of them have. Pillow knows sixty formats, and hands some to other programs."""

_ORIENTATION, _PHOTOMETRIC = 274, 262
_CUT = "no image, or cut"
_DEEP = ("I", "F")


def load_image(path: str | Path, formats: Sequence[str] = FORMATS, *, places: bool = False) -> np.ndarray:
    """Loads a picture as grey values.

    Eight bits stay as they are and colour becomes luminance; more bits are stretched, see
    :mod:`medgraft.benchmarks.cohorts.images.grey`. What is transparent is black, and the orientation that a camera or
    scanner wrote down is honoured.

    Args:
        path: The file; its content decides, not its suffix.
        formats: Pillow's names of the formats to open.
        places: Something is to be found in the picture as stored; one that is to be turned for display is refused.

    Returns:
        Writable ``uint8 [H, W]``.

    Raises:
        DataError: The file is missing, empty, truncated, damaged, not a picture of these formats, of several frames, or
            larger than ``MEDGRAFT_MAX_PIXELS``.
    """
    return _load(path, formats, _grey, places=places)


def load_colours(path: str | Path, formats: Sequence[str] = FORMATS) -> np.ndarray:
    """Loads a picture as red, green and blue.

    As :func:`load_image` in all else: what is transparent is black, 16 bits a colour keep their upper eight, and grey
    values, whatever their depth, are the same ones three times. CMYK, YCbCr and palettes become what Pillow makes of
    them; a colour profile that the file has embedded is not applied.

    Args:
        path: The file; its content decides, not its suffix.
        formats: Pillow's names of the formats to open.

    Returns:
        Writable ``uint8 [H, W, 3]``.

    Raises:
        DataError: As :func:`load_image`.
    """
    return _load(path, formats, _colours)


_Decode = Callable[[str | Path, Any, str], np.ndarray]
"""Path, the open picture, and how the file stores it in Pillow's words -> values as decoded."""


def _load(path: str | Path, formats: Sequence[str], decode: _Decode, *, places: bool = False) -> np.ndarray:
    with one_file(path, "an image, it is missing or damaged", _CUT, "copy it again or take its row out"):
        _check_name(path)
        with _opened(path, formats) as image:
            raw_modes = str([tile[3] for tile in image.tile])  # before anything is decoded
            stated = image.getexif().get(_ORIENTATION, 1)
            if (frames := _frames(image)) > 1:
                raise DataError(f"{path} holds {frames} frames, not one image; take its row out", "more than one frame")
            if image.format == "TIFF" and stated in range(5, 9):  # Pillow confuses height and width of some of them
                raise DataError(f"{path} is a TIFF on its side; store it upright", "TIFF on its side")
            image.load()
            code = image.getexif().get(_ORIENTATION, 1)  # 1 where Pillow has turned it itself, as it does with TIFF
            values = decode(path, image, raw_modes)
    if places and stated in range(2, 9):
        raise DataError(
            f"{path} is stored turned (orientation {stated}), and the task has places in it; store it upright",
            "stored turned, in a task with places",
        )
    return turned(values, code)


def picture_shape(path: str | Path, formats: Sequence[str] = FORMATS) -> tuple[int, int]:
    """Height and width as stored, from the header alone.

    Raises:
        DataError: There is no readable header.
    """
    with one_file(path, "an image, it is missing or damaged", _CUT), _opened(path, formats, whole=False) as image:
        return image.height, image.width


@contextmanager
def _opened(path: str | Path, formats: Sequence[str], *, whole: bool = True) -> Iterator[Any]:
    """A picture of allowed size, in the end of a PNG whose checksums all hold."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None  # the limit below has a name that a person can raise
    try:
        with Image.open(path, formats=list(formats)) as image:
            pixels = image.width * image.height
            within(
                "MEDGRAFT_MAX_PIXELS",
                pixels,
                f"{path} has {pixels:,} pixels by its header",
                lambda sentence: DataError(sentence, "more pixels than allowed"),
            )
            if whole and image.format == "PNG":
                with Image.open(path, formats=["PNG"]) as again:
                    again.verify()  # decoding stops before the checksums
            yield image
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _frames(image: Any) -> int:
    """Frames of a picture; of a camera's file the first is the picture, and the others are previews."""
    return 1 if image.format == "MPO" else getattr(image, "n_frames", 1)


def _check_name(path: str | Path) -> None:
    if starts_with(Path(path), b"DICM", at=128):
        raise DataError(f"{path} is a DICOM file; rename it to .dcm", "named otherwise than its content")


def _grey(path: str | Path, image: Any, raw_modes: str) -> np.ndarray:
    """Grey values as decoded, ``uint8 [H, W]``; ``raw_modes`` is how the file stores them, in Pillow's words."""
    if image.mode.startswith(_DEEP):
        return _deep(path, image)
    _check_depth(path, image, raw_modes)
    if "A" not in image.getbands() and "transparency" not in image.info:
        return np.array(image.convert("L"))
    values = np.asarray(image.convert("RGBA"))
    alpha = values[..., 3].astype(np.float64) / 255
    grey = np.asarray(image.convert("RGBA").convert("RGB").convert("L"))
    if not alpha.any():  # a channel that was never filled
        return np.array(grey)
    return (grey * alpha + 0.5).astype(np.uint8)


def _colours(path: str | Path, image: Any, raw_modes: str) -> np.ndarray:
    """Red, green and blue as decoded, ``uint8 [H, W, 3]``."""
    if image.mode.startswith(_DEEP):
        return in_colour(_deep(path, image))
    _check_depth(path, image, raw_modes)
    if "A" not in image.getbands() and "a" not in image.mode and "transparency" not in image.info:
        return np.array(image.convert("RGB"))
    values = np.array(image.convert("RGBA"))
    colours, alpha = values[..., :3], values[..., 3:].astype(np.float64) / 255
    return colours.copy() if not alpha.any() else (colours * alpha + 0.5).astype(np.uint8)


def _check_depth(path: str | Path, image: Any, raw_modes: str) -> None:
    """Refuses colours of which Pillow, which keeps the upper eight of sixteen bits, keeps next to nothing."""
    if ";16" in raw_modes and np.asarray(image).max(initial=0) < 128:
        raise DataError(
            f"{path} has 16 bits a colour and uses the lower ones only; store it as grey, or with 8 bits a colour",
            "16-bit colour",
        )


def _deep(path: str | Path, image: Any) -> np.ndarray:
    """Values of more than eight bits, stretched; one value all over keeps its upper eight bits."""
    clear = image.info.get("transparency")
    inverted = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # white is zero, which Pillow leaves here
    values = np.asarray(image)
    if values.ndim == 3:
        values = luminance(values[..., :3])
    if not np.isfinite(values).all():
        raise DataError(f"{path} has pixels that are NaN or infinite", "pixels that are NaN or infinite")
    ignored = values == clear if isinstance(clear, int) else None
    if values.size and values.min() == values.max() and values.dtype.kind in "iu":
        return (values.astype(np.int64) >> 8 if values.max() > 255 else values).clip(0, 255).astype(np.uint8)
    grey = stretched(values.astype(np.float64), ignored)
    if inverted:
        grey = 255 - grey if ignored is None else np.where(ignored, np.uint8(0), 255 - grey)
    return grey
