"""``volume_sequence``: volumes over time ``float32 [T, D, H, W]``, such as functional MRI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medgraft.modalities.spatial import Variation, moved
from medgraft.modality import Modality

if TYPE_CHECKING:
    from torch import Tensor


class VolumeSequence(Modality):
    """Volumes over time; prepared, ``float32 [channels, T, D, H, W]``."""

    name = "volume_sequence"
    raw = "a sequence of volumes, float32 [T, D, H, W]"
    dtype = "float32"
    rank = 4
    measure_batch = 4
    variation = Variation(shift=0.05, scale=0.1, contrast=0.1, brightness=0.0)

    def example(self, random: np.random.Generator) -> np.ndarray:
        """Noise on a background of 0, ``float32 [24, 10, 12, 11]``."""
        values = random.random((24, 10, 12, 11), dtype=np.float32) + 0.5
        values[:, :2] = 0
        return values

    def augmentation(self) -> dict[str, float]:
        """The largest deviations."""
        return dict(vars(self.variation))

    def view(self, x: Tensor, index: np.ndarray, view: int) -> Tensor:
        """Sequences ``[B, C, T, D, H, W]``, all volumes of one moved alike."""
        return moved(x.flatten(1, 2), index, view, self.variation).view(x.shape)
