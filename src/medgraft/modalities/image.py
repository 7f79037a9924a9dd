"""``image``: grey values ``uint8 [H, W]``, or red, green and blue ``uint8 [H, W, 3]``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from medgraft.modalities.spatial import Spatial, Variation
from medgraft.typed.values import is_a

if TYPE_CHECKING:
    from medgraft.encoder import EncoderSpec

_SHARES = np.array((19595, 38470, 7471), np.uint32)
"""0.299, 0.587 and 0.114 of ITU-R BT.601, in parts of 65536 that sum to it, so that grey stays what it is."""


class Image(Spatial):
    """An image, grey or in colour; prepared, ``float32 [channels, H, W]``."""

    name = "image"
    raw = "an image, uint8 [H, W] of grey values or [H, W, 3] of red, green and blue"
    dtype = "uint8"
    rank = 2
    axes = 2
    variation = Variation(shift=0.05, scale=0.1, contrast=0.1, brightness=0.1)

    def example(self, random: np.random.Generator) -> np.ndarray:
        """Noise ``uint8 [70, 60]``."""
        return random.integers(0, 256, (70, 60), dtype=np.uint8)

    def check(self, raw: Any) -> None:
        """Refuses what is neither grey values nor red, green and blue."""
        self.check_array(raw, self.dtype, 3 if is_colour(raw) else self.rank)

    def probes(self) -> Sequence[np.ndarray]:
        """Noise ``uint8 [97, 131]``."""
        return [np.random.default_rng(0).integers(0, 256, (97, 131), np.uint8)]

    def colour_probes(self) -> Sequence[np.ndarray]:
        """Noise ``uint8 [97, 131, 3]``."""
        return [np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)]

    def fitted(self, raw: Any, spec: EncoderSpec) -> Any:
        """The luminance of a coloured image for a tower of one channel, ``[H, W]``; any other image as it is."""
        return luminance(raw) if spec.channels == 1 and is_colour(raw) else raw


def is_colour(raw: Any) -> bool:
    """Whether an image is red, green and blue ``[H, W, 3]``, by its shape."""
    return is_a(raw, np.ndarray) and raw.ndim == 3 and raw.shape[2] == 3


def luminance(image: np.ndarray) -> np.ndarray:
    """Brightness of an image by ITU-R BT.601, rounded as Pillow rounds it in ``convert("L")``.

    Args:
        image: ``uint8 [H, W, 3]``; grey values ``[H, W]`` are given back.

    Returns:
        ``uint8 [H, W]``. Where the three channels are equal, these values.

    Example:
        >>> luminance(np.array([[[255, 0, 0], [7, 7, 7]]], np.uint8))
        array([[76,  7]], dtype=uint8)
    """
    if not is_colour(image):
        return image
    return ((image.astype(np.uint32) @ _SHARES + 0x8000) >> 16).astype(np.uint8)
