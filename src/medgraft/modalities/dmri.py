"""``dmri``: maps of diffusion MRI, such as FA and MD, ``float32 [M, D, H, W]``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medgraft.modalities.volume import Volume


class Dmri(Volume):
    """Maps of one scan side by side; prepared, ``float32 [channels, D, H, W]``, of which each map has as many."""

    name = "dmri"
    raw = "maps of diffusion MRI, float32 [M, D, H, W]"
    rank = 4

    def example(self, random: np.random.Generator) -> np.ndarray:
        """Two maps of noise on a background of 0, ``float32 [2, 30, 40, 36]``."""
        first = super().example(random)
        return np.stack([first, super().example(random)])

    def probes(self) -> Sequence[np.ndarray]:
        """Two maps of noise ``float32 [2, 24, 28, 20]``."""
        return [np.random.default_rng(0).random((2, 24, 28, 20), np.float32)]
