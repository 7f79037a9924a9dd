"""``volume_sequence``: volumes over time ``float32 [T, D, H, W]``, such as functional MRI."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from medgraft.modalities.spatial import Variation, moved
from medgraft.modality import Modality

if TYPE_CHECKING:
    from torch import Tensor

    from medgraft.encoder import EncoderSpec


class VolumeSequence(Modality):
    """Volumes over time; prepared, ``float32 [channels, T, D, H, W]``.

    A tower that sums time up takes ``float32 [channels, D, H, W]``, and is one of volumes to adapters.
    """

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

    def axes_of(self, spec: EncoderSpec) -> int:
        """Three, where time is summed up; else none that an adapter could convolve over at once."""
        return 3 if len(spec.input_size) == 3 else 0

    def augmentation(self) -> dict[str, float]:
        """The largest deviations."""
        return dict(vars(self.variation))

    def view(self, x: Tensor, index: np.ndarray, view: int) -> Tensor:
        """Sequences ``[B, C, T, D, H, W]``, all volumes of one moved alike, or ``[B, C, D, H, W]`` without time."""
        return moved(x.flatten(1, x.ndim - 4), index, view, self.variation).view(x.shape)
