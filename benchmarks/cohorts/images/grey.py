"""Grey values of radiographs, the same way from every format: depth to eight bits, colour to luminance, up to up.

A picture of more than eight bits has no agreed black and white. Its smallest value becomes 0 and its largest 255, so no
depth that a header gets wrong can cost contrast. Where that itself would cost it, because a few pixels lie far outside
(a hot pixel, a burnt-in mark), the middle 99% of the pixels are stretched and the rest is clipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medgraft.errors import DataError

IMAGES_VERSION = 2
"""Raised whenever the same file would be read differently; part of what the caches know."""

MIDDLE = 99.0
FEWEST_LEVELS = 0.25
"""The middle of the pixels is stretched where it covers less than this share of the whole range."""

_SAMPLE = 1 << 20
_LUMINANCE = (0.299, 0.587, 0.114)


def stretched(values: np.ndarray, ignored: np.ndarray | None = None, *, clip: bool = True) -> np.ndarray:
    """Values of any depth as ``uint8``, smallest to 0 and largest to 255.

    Args:
        values: ``float [H, W]``, finite.
        ignored: Boolean ``[H, W]``, true where a value takes no part and becomes 0.
        clip: Leave out a few values that are far outside; not where a display window has cut them off already.

    Returns:
        ``uint8 [H, W]``; 0 all over where all values are one.
    """
    low, high = extremes(values, ignored)
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    if clip:
        step = max(1, values.size // _SAMPLE)
        sample = values.ravel()[::step]
        sample = sample if ignored is None else sample[~ignored.ravel()[::step]]
        edge = (100.0 - MIDDLE) / 2
        middle = np.percentile(sample, [edge, 100.0 - edge]) if sample.size else np.zeros(2)
        if 0 < middle[1] - middle[0] < FEWEST_LEVELS * (high - low):
            low, high = float(middle[0]), float(middle[1])
            values = np.clip(values, low, high)
    grey = (values - low) * (255 / (high - low))
    grey += 0.5
    if ignored is not None:
        grey[ignored] = 0.0
    return grey.astype(np.uint8)


def extremes(values: np.ndarray, ignored: np.ndarray | None) -> tuple[float, float]:
    """Smallest and largest value of ``[H, W]`` that takes part; both 0 where none does."""
    if ignored is None:
        return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    used = values[~ignored]
    return (float(used.min()), float(used.max())) if used.size else (0.0, 0.0)


def luminance(colours: np.ndarray) -> np.ndarray:
    """Brightness of ``[H, W, 3]`` red, green and blue by ITU-R BT.601, ``float64 [H, W]``."""
    red, green, blue = (colours[..., k].astype(np.float64) * share for k, share in enumerate(_LUMINANCE))
    return red + green + blue


def turned(image: np.ndarray, code: int) -> np.ndarray:
    """An image as it is to be shown, by the orientation code of TIFF and EXIF (tag 274, TIFF 6.0, page 36).

    Args:
        image: ``[H, W]`` or ``[H, W, 3]``.
        code: 1 to 8; what the stored first row and first column are of the picture.
    """
    turns: dict[int, Any] = {
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.swapaxes(0, 1),
        6: lambda x: x.swapaxes(0, 1)[:, ::-1],
        7: lambda x: x.swapaxes(0, 1)[::-1, ::-1],
        8: lambda x: x.swapaxes(0, 1)[::-1],
    }
    return np.ascontiguousarray(turns[code](image)) if code in turns else image


def check_contrast(path: str | Path, image: np.ndarray, ignored: np.ndarray | None = None) -> None:
    """Refuses a picture ``[H, W]`` of one grey value: a black film, an empty export.

    Raises:
        DataError: All values are one, or none is left.
    """
    used = image if ignored is None else image[~ignored]
    if not used.size or used.min() == used.max():
        problem = f"is {int(used.flat[0])} in every pixel" if used.size else "is padding in every pixel"
        raise DataError(f"{path} {problem}; take its row out", "one value in every pixel")


def in_colour(grey: np.ndarray) -> np.ndarray:
    """Grey values ``[H, W]`` as red, green and blue, ``[H, W, 3]``."""
    return np.repeat(grey[..., None], 3, axis=2)


def check_colours(path: str | Path, image: np.ndarray) -> None:
    """Refuses a picture ``[H, W, 3]`` of one colour all over.

    Raises:
        DataError: All pixels are one.
    """
    pixels = image.reshape(-1, 3)
    if not len(pixels) or (pixels == pixels[0]).all():
        what = f"is {pixels[0].tolist()} in every pixel" if len(pixels) else "has no pixel"
        raise DataError(f"{path} {what}; take its row out", "one value in every pixel")
