"""Occlusion (Zeiler & Fergus, ECCV 2014) by captum: what the decision loses where a part of the input is hidden."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from medgraft.benchmarks.explain.captum_library import captum_attr
from medgraft.benchmarks.explain.scorer import Scorer
from medgraft.errors import ConfigError

PARTS = {1: 16, 2: 8, 3: 6}
"""Axes of the input -> how many windows lie side by side on each."""

AT_ONCE = {1: 32, 2: 16, 3: 4}
"""Axes of the input -> occluded copies in one batch."""


def occlusion(
    scorer: Scorer, x: Tensor, target: int, window: Sequence[int] | None = None, stride: Sequence[int] | None = None
) -> Tensor:
    """Loss of evidence for the target at each place, averaged over the windows that hide it.

    Windows are filled with the input's own mean, channel by channel. Evidence is the log odds of the class (natural
    logarithm), or the predicted number.

    Args:
        scorer: The graft.
        x: One prepared image or volume, ``[1, C, *size]``.
        target: Number of the class.
        window: Its side on each axis; an eighth of an image's, a sixth of a volume's by default.
        stride: Its step on each axis; half a window by default, a whole one in a volume.

    Returns:
        Positive where hiding the place speaks against the target, ``[*size]``.

    Raises:
        ConfigError: captum is missing, or window and stride do not fit the input.
    """
    library = captum_attr()
    size = tuple(x.shape[2:])
    window = windows(size) if window is None else tuple(window)
    if stride is None:  # half of it in a volume would be eight times the work
        stride = window if len(size) == 3 else [max(1, side // 2) for side in window]
    stride = tuple(stride)
    if len(window) != len(size) or not all(0 < side <= most for side, most in zip(window, size, strict=True)):
        raise ConfigError(f"an occluding window of {list(window)} does not fit an input of {list(size)}")
    if len(stride) != len(size) or not all(0 < s <= side for s, side in zip(stride, window, strict=True)):
        raise ConfigError(f"steps of {list(stride)} leave gaps between windows of {list(window)}; make them smaller")
    channels = x.shape[1]
    with torch.no_grad():
        attribution = library.Occlusion(scorer.evidence).attribute(
            x,
            sliding_window_shapes=(channels, *window),
            strides=(channels, *stride),
            baselines=fill_value(x),
            target=target,
            perturbations_per_eval=AT_ONCE[len(size)],
        )
    return attribution[0, 0].float()


def windows(size: Sequence[int]) -> tuple[int, ...]:
    """Sides of the windows for an input of a size."""
    return tuple(max(1, math.ceil(side / PARTS[len(size)])) for side in size)


def fill_value(x: Tensor) -> Tensor:
    """The mean of each channel, ``[1, C, *size]``, of what is not padding."""
    return x.nanmean(dim=tuple(range(2, x.ndim)), keepdim=True).expand_as(x)
