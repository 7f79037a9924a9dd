"""What dense objectives share: the token grid as a map, which part of an image an encoder sees, light convolutions.

Their heads read the token grid of the last layer, so any encoder with a two-dimensional grid has them, and any adapter
can be compared on them. Places are fractions of the part of the image that the encoder sees (see :func:`window`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.benchmarks.objectives.classes import subjects_in
from medgraft.encoder import Encoder
from medgraft.errors import DataError, IncompatibleError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.metric import Predictions
from medgraft.modality import find_modality
from medgraft.objective import Objective
from medgraft.task import TaskData

Window = tuple[float, float, float, float]

WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
PROBE = 256


def token_map(features: Features) -> Tensor:
    """Tokens as a feature map ``[B, C, h, w]``, prefix tokens left out.

    Raises:
        IncompatibleError: The tokens do not lie on a two-dimensional grid.
    """
    tokens = features.tokens[:, features.n_prefix :].float()
    if len(features.grid) != 2 or tokens.shape[1] != features.grid[0] * features.grid[1]:
        raise IncompatibleError(
            f"a dense task needs tokens on a two-dimensional grid; this encoder gives {tokens.shape[1]} tokens and the "
            f"grid {features.grid}. An adapter that replaces the tokens cannot be used either"
        )
    return tokens.transpose(1, 2).unflatten(2, features.grid)


def window(tower: Encoder) -> Window:
    """Which part of a square image the tower sees: left, top, right and bottom in fractions.

    Evaluation transforms often cut the border off. Which part is left is read from what the tower makes of two ramps of
    grey; a tower that scales each image by its own values hides it, and is taken to see the whole.
    """
    ramp = np.tile(np.arange(PROBE, dtype=np.uint8), (PROBE, 1))
    black, white = (float(tower.prepare(np.full_like(ramp, grey)).float().mean()) for grey in (0, PROBE - 1))
    if not np.isfinite(black + white) or abs(white - black) < 1e-6:
        return WHOLE
    ends: list[tuple[float, float]] = []
    for image, axis in ((ramp, -2), (np.ascontiguousarray(ramp.T), -1)):
        prepared = tower.prepare(image).float()
        profile = prepared.reshape(-1, *prepared.shape[-2:])[0].mean(dim=axis).numpy()
        place = ((profile - black) / (white - black) * (PROBE - 1) + 0.5) / PROBE
        inner = np.arange(len(place))[len(place) // 8 : -(len(place) // 8)]  # filters bend the ramp at its ends
        slope, start = np.polyfit(inner, place[inner], 1)
        if slope <= 0:
            return WHOLE
        ends.append((start - 0.5 * slope, start + (len(place) - 0.5) * slope))
    (left, right), (top, bottom) = ends
    if max(abs(left), abs(top), abs(right - 1), abs(bottom - 1)) < 0.01:
        return WHOLE  # but for the rounding of the probe
    return float(left), float(top), float(right), float(bottom)


class Standardise(nn.Module):
    """Brings each channel to mean 0 and deviation 1 by fixed statistics of the features before training."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, features: Tensor) -> None:
        super().__init__()
        values = features.detach().transpose(0, 1).flatten(1)
        deviation = values.std(dim=1)
        self.register_buffer("mean", values.mean(dim=1)[:, None, None])
        kept = torch.where(deviation > 1e-6, deviation, torch.ones_like(deviation))
        self.register_buffer("deviation", kept[:, None, None])

    def forward(self, features: Tensor) -> Tensor:
        """``[B, C, h, w]`` -> the same."""
        return (features - self.mean) / self.deviation


def upsampling(inputs: int, outputs: int) -> nn.Sequential:
    """Twice the resolution, then a convolution."""
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.GELU(),
    )


class DenseObjective(Objective):
    """What the two dense objectives share.

    Args:
        data: The task's data, with regions.
        inputs: The visual modality, alone.

    Raises:
        DataError: The task has no regions, or reads something besides images.
    """

    needs = frozenset({"tokens", "still images"})

    @classmethod
    def check(cls, data: TaskData, inputs: tuple[str, ...]) -> None:
        """See :class:`Objective`."""
        if data.regions is None:
            raise DataError("a dense task needs regions: masks or boxes of its samples")
        if len(inputs) != 1 or find_modality(inputs[0]).axes != 2:
            raise DataError(f"a dense task reads images and nothing else, not {' and '.join(inputs)}")
        if len(data.classes) != 1 or not np.isin(data.targets, (0, 1)).all():
            raise DataError("a dense task has one class, and targets 0 and 1 that say whether a sample shows it")

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        assert data.regions is not None
        self.regions = data.regions
        self._window: Window | None = None

    def window(self, grafted: Grafted) -> Window:
        """See :func:`window`; probed once."""
        if self._window is None:
            self._window = window(grafted.towers()[self.inputs[0]])
        return self._window

    def context(self, grafted: Grafted) -> None:
        """Nothing is shared between batches of a prediction."""
        self.window(grafted)

    @classmethod
    def shows(cls, p: Predictions) -> np.ndarray:
        """``bool [n]``, which test samples show the class."""
        raise TypeError(f"{cls.__name__} must implement shows()")

    @classmethod
    def strata(cls, p: Predictions) -> Sequence[np.ndarray]:
        """Samples that show the class, and others, ``int64 [n]``."""
        return (np.asarray(cls.shows(p), np.int64),)

    @classmethod
    def subjects_by_class(cls, p: Predictions) -> dict[str, int]:
        """The rarer of the subjects who show the class and those who do not."""
        has = cls.shows(p)
        return {p.classes[0]: min(subjects_in(p, has), subjects_in(p, ~has))}


def pixels_seen(shape: tuple[int, ...], seen: Window) -> tuple[slice, slice]:
    """Rows and columns of an image that the encoder sees."""
    height, width = shape[:2]
    left, top, right, bottom = (min(max(end, 0.0), 1.0) for end in seen)
    return slice(round(top * height), round(bottom * height)), slice(round(left * width), round(right * width))


def seen_part(mask: np.ndarray, seen: Window) -> np.ndarray:
    """The part of a mask ``[H, W]`` that the encoder sees."""
    return mask[pixels_seen(mask.shape, seen)]


def spread(grid: np.ndarray, shape: tuple[int, ...], seen: Window) -> np.ndarray:
    """A map ``[h, w]`` of what the encoder sees, bilinearly at its place in an image of ``shape``; zero around it."""
    rows, columns = pixels_seen(shape, seen)
    size = (rows.stop - rows.start, columns.stop - columns.start)
    whole = np.zeros(shape[:2], np.float32)
    source = torch.from_numpy(np.asarray(grid, np.float32))[None, None]
    whole[rows, columns] = F.interpolate(source, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
    return whole
