"""Whether a prepared input shows the whole sample, so that a map of it can be laid over the sample itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor

from medgraft.encoder import Encoder
from medgraft.encoders.slices import SpacedVolume, spaced
from medgraft.errors import MedgraftError

BLOCKS = 8
"""Blocks of noise on each axis of the sample that tells."""

ALIKE = 0.9
"""Rank correlation from which on two pictures of the noise count as one: a crop of nine tenths has less than a half."""

MODES = {2: "bilinear", 3: "trilinear"}


def resized(values: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """An image or a volume, ``[*any]``, interpolated linearly to another size, ``float32 [*size]``."""
    x = torch.from_numpy(np.ascontiguousarray(values, np.float32))[None, None]
    return F.interpolate(x, size=size, mode=MODES[len(size)], align_corners=False)[0, 0].numpy()


def shows_whole(tower: Encoder, raw: np.ndarray) -> bool:
    """Whether a tower's input is the whole sample, brought to another size, axis by axis.

    Blocks of noise of the sample's size are prepared like it and compared with the same blocks resized; what crops,
    pads, turns or reslices gives another picture.

    Args:
        tower: Whose :meth:`prepare`.
        raw: An image ``[H, W]`` or a volume ``[D, H, W]``.
    """
    size = tuple(tower.spec.input_size)
    if raw.ndim != len(size) or min(raw.shape) < BLOCKS:
        return False
    random = np.random.default_rng(0)
    coarse = random.permutation(BLOCKS**raw.ndim).reshape((BLOCKS,) * raw.ndim) / BLOCKS**raw.ndim
    places = np.ix_(*[np.arange(side) * BLOCKS // side for side in raw.shape])
    noise: Any = coarse[places]
    sample = (40 + 170 * noise).astype(np.uint8) if raw.dtype == np.uint8 else (1 + noise).astype(np.float32)
    if isinstance(raw, SpacedVolume) and raw.spacing is not None:
        sample = spaced(sample, raw.spacing)
    try:
        prepared: Tensor = torch.as_tensor(tower.prepare(sample))
    except (MedgraftError, ValueError, RuntimeError):  # another library's preprocessing may refuse noise
        return False
    if tuple(prepared.shape[1:]) != size or not bool(prepared[0].isfinite().all()):
        return False
    seen, expected = prepared[0].float().numpy().ravel(), resized(sample.astype(np.float32), size).ravel()
    alike: Any = spearmanr(seen, expected)
    return bool(alike.statistic >= ALIKE)
