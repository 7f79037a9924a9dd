"""``volume``: intensities ``float32 [D, H, W]``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medgraft.modalities.spatial import Spatial, Variation


class Volume(Spatial):
    """A volume; prepared, ``float32 [channels, D, H, W]``."""

    name = "volume"
    raw = "a volume, float32 [D, H, W]"
    dtype = "float32"
    rank = 3
    axes = 3
    measure_batch = 4
    # Skull-stripped volumes have a background of 0, which a change of brightness would fill.
    variation = Variation(shift=0.05, scale=0.1, contrast=0.1, brightness=0.0)

    def example(self, random: np.random.Generator) -> np.ndarray:
        """Noise on a background of 0, ``float32 [30, 40, 36]``."""
        values = random.random((30, 40, 36), dtype=np.float32) + 0.5
        values[:6] = 0
        return values

    def probes(self) -> Sequence[np.ndarray]:
        """Noise ``float32 [24, 28, 20]``."""
        return [np.random.default_rng(0).random((24, 28, 20), np.float32)]
