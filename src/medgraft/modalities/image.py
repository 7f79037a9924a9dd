"""``image``: grey values ``uint8 [H, W]``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medgraft.modalities.spatial import Spatial, Variation


class Image(Spatial):
    """A grey image; prepared, ``float32 [channels, H, W]``."""

    name = "image"
    raw = "a grey image, uint8 [H, W]"
    dtype = "uint8"
    rank = 2
    axes = 2
    variation = Variation(shift=0.05, scale=0.1, contrast=0.1, brightness=0.1)

    def example(self, random: np.random.Generator) -> np.ndarray:
        """Noise ``uint8 [70, 60]``."""
        return random.integers(0, 256, (70, 60), dtype=np.uint8)

    def probes(self) -> Sequence[np.ndarray]:
        """Noise ``uint8 [97, 131]``."""
        return [np.random.default_rng(0).integers(0, 256, (97, 131), np.uint8)]
