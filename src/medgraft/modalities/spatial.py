"""What modalities in space share: views that are moved, scaled and of another contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from medgraft.modality import Modality, draws

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Variation:
    """How far a view may be from its sample; every number is the largest deviation, drawn uniformly.

    Attributes:
        shift: On each axis, as a share of the side.
        scale: Of the size, relative.
        contrast: Of the deviation from the sample's mean (from 0 where ``brightness`` is 0), relative.
        brightness: Added, in deviations of the sample.
    """

    shift: float
    scale: float
    contrast: float
    brightness: float


class Spatial(Modality):
    """Base of modalities whose prepared samples are images or volumes.

    Attributes:
        variation: How far a view may be from its sample.
    """

    variation: ClassVar[Variation]

    def augmentation(self) -> dict[str, float]:
        """The largest deviations."""
        return dict(vars(self.variation))

    def view(self, x: Tensor, index: np.ndarray, view: int) -> Tensor:
        """Images ``[B, C, H, W]`` or volumes ``[B, C, D, H, W]``, moved; see :func:`moved`."""
        return moved(x, index, view, self.variation)


def moved(x: Tensor, index: np.ndarray, view: int, variation: Variation) -> Tensor:
    """One view of each sample: a small shift and change of size, and of contrast and brightness.

    Args:
        x: Prepared images ``[B, C, H, W]`` or volumes ``[B, C, D, H, W]``.
        index: Numbers of the samples, ``int64 [B]``.
        view: Which view, from 0.
        variation: How far a view may be from its sample.

    Returns:
        A tensor like ``x``. Places outside of the sample take the value of its border.
    """
    import torch  # here, since planning does without
    import torch.nn.functional as F

    rank = x.ndim - 2
    drawn = torch.from_numpy(draws(index, view, rank + 3)).to(x.dtype)  # pyright: ignore[reportUnknownMemberType]
    theta = torch.zeros(len(x), rank, rank + 1, dtype=x.dtype)
    theta[:, range(rank), range(rank)] = 1 + variation.scale * drawn[:, :1]
    theta[:, :, rank] = 2 * variation.shift * drawn[:, 1 : rank + 1]  # the grid spans -1 to 1
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    seen = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    ones = (-1, *(1 for _ in x.shape[1:]))
    contrast = 1 + variation.contrast * drawn[:, rank + 1].view(ones)
    if not variation.brightness:
        return seen * contrast
    axes = tuple(range(1, x.ndim))
    mean, deviation = seen.mean(axes, keepdim=True), seen.std(axes, keepdim=True)
    return mean + (seen - mean) * contrast + variation.brightness * deviation * drawn[:, rank + 2].view(ones)
