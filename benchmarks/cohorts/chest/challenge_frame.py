"""Whose pixels the boxes and masks of a challenge's table count, where the images are a resized copy.

The images of the RSNA and of the SIIM-ACR challenge are squares of 1024 pixels, and what their tables draw is in those
pixels. Most people keep smaller copies. A square copy shows the same field, so what is drawn is scaled with it; of any
other shape it cannot be known what became of the field, so such an image is left out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER
from medgraft.errors import DataError

CHALLENGE_SIDE = 1024
"""Pixels of a side of every image of both challenges."""

DrawnOn = Literal["challenge", "copy"]
"""Whose pixels a table counts: those of the challenge's images, or those of the images in this copy."""

TELLING = 20
"""Regions of a table from which on it is hardly chance that every one of them ends inside a smaller image."""


def frame_side(home: Path, *, phantom: bool) -> int | None:
    """Side of the square that a table's pixels count: the challenge's, or of a phantom the one that it was made at.

    Args:
        home: Folder of the table.
        phantom: Whether the copy is a phantom.

    Returns:
        Pixels; ``None`` for a phantom whose marker was not copied along, whose images are taken as they are.
    """
    if not phantom:
        return CHALLENGE_SIDE
    for folder in (home, *list(home.parents)[:2]):
        try:
            record: Any = json.loads((folder / PHANTOM_MARKER).read_text(encoding="utf-8"))
            size = record["config"]["size"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if isinstance(size, int) and size > 0:
            return size
    return None


def check_drawn_on(side: int, reach: Sequence[float], sides: Sequence[float], what: str) -> None:
    """Refuses a table that fits a smaller copy as it is: someone has scaled it, or it is of that size by chance.

    Args:
        side: Of the challenge's frame.
        reach: For each drawn image, how far its regions reach to the right or down, in the table's pixels.
        sides: Side of each of these images.
        what: The table and its regions, for the error.

    Raises:
        DataError: All of many regions end inside images that are smaller than the frame.
    """
    smaller = [(far, image_side) for far, image_side in zip(reach, sides, strict=True) if image_side < side]
    if len(smaller) >= TELLING and all(far <= image_side for far, image_side in smaller):
        raise DataError(
            f"{what} all end inside images of {max(image_side for _, image_side in smaller):g} pixels as they are, "
            f"while the challenge's have {side}: it cannot be known whether they were scaled with the images. If they "
            "were, say `drawn_on: copy` in the task's options; else bring the challenge's own table"
        )


def unscaled(shape: tuple[int, int]) -> str:
    """Why what is drawn cannot be scaled to an image of that height and width; empty where it can."""
    return "" if shape[0] == shape[1] else "image that is no square, so where its regions lie is not known"


def resampled(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A boolean mask ``[h, w]`` at another size ``[H, W]``: each pixel is as the one that its middle lies in."""
    if mask.shape == tuple(shape):
        return mask
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * old / new).astype(int), old - 1)
        for new, old in zip(shape, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
