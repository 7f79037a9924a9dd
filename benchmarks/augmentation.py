"""Augmented views of prepared images and volumes: few, fixed, and so fit for a cache of frozen features.

Random augmentation and a cache of what a frozen encoder makes of its inputs exclude each other. A fixed number of views
per sample, one of which is drawn in each epoch, keeps most of the first and all of the second. View ``k`` of a sample
depends on ``k`` and the sample's number alone: a small shift and change of size, and a small change of contrast and
brightness. Texts have none.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
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


AUGMENTATIONS: Mapping[str, Augmentation] = {
    "image": Augmentation(shift=0.05, scale=0.1, contrast=0.1, brightness=0.1),
    # Skull-stripped volumes have a background of 0, which a change of brightness would fill.
    "volume": Augmentation(shift=0.05, scale=0.1, contrast=0.1, brightness=0.0),
}


def augmented(x: Tensor, modality: str, index: np.ndarray, view: int) -> Tensor:
    """One view of each sample.

    Args:
        x: Prepared images ``[B, C, H, W]`` or volumes ``[B, C, D, H, W]``.
        modality: ``image`` or ``volume``; anything else comes back as it is.
        index: Numbers of the samples ``[B]``.
        view: Which view, from 0.

    Returns:
        A tensor like ``x``. Places outside of the sample take the value of its border.
    """
    own = AUGMENTATIONS.get(modality)
    if own is None:
        return x
    rank = x.ndim - 2
    draws = np.stack([np.random.default_rng([29, view, int(i)]).uniform(-1, 1, rank + 3) for i in index])
    drawn = torch.from_numpy(draws).to(x.dtype)
    theta = torch.zeros(len(x), rank, rank + 1, dtype=x.dtype)
    theta[:, range(rank), range(rank)] = 1 + own.scale * drawn[:, :1]
    theta[:, :, rank] = 2 * own.shift * drawn[:, 1 : rank + 1]  # the grid spans -1 to 1
    grid = F.affine_grid(theta, list(x.shape), align_corners=False)
    moved = F.grid_sample(x, grid, padding_mode="border", align_corners=False)
    ones = (-1, *(1 for _ in x.shape[1:]))
    contrast = 1 + own.contrast * drawn[:, rank + 1].view(ones)
    if not own.brightness:
        return moved * contrast
    axes = tuple(range(1, x.ndim))
    mean, deviation = moved.mean(axes, keepdim=True), moved.std(axes, keepdim=True)
    return mean + (moved - mean) * contrast + own.brightness * deviation * drawn[:, rank + 2].view(ones)
