"""Dense tasks on frozen tokens: a light decoder for masks, a detection head for boxes, and how they are scored.

Both heads read the token grid of the last layer, so any encoder with a two-dimensional grid has them, and any adapter
can be compared on them. Places are fractions of the part of the image that the encoder sees (see :func:`window`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.benchmarks.dense_metrics import best_score_threshold, dice_of, overlap_counts
from medgraft.benchmarks.metrics import Predictions
from medgraft.encoder import Encoder
from medgraft.errors import DataError, IncompatibleError
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.task import TaskData

if TYPE_CHECKING:
    from medgraft.benchmarks.objectives import Batch

Predict = Callable[[np.ndarray], np.ndarray]
Window = tuple[float, float, float, float]

WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
PROBE = 256
MASK_THRESHOLDS = np.arange(0.1, 0.95, 0.1)


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


class MaskDecoder(nn.Module):
    """Token map to mask logits at four times its resolution, by two steps of upsampling and convolution.

    The progressive decoder of Zheng et al., "Rethinking Semantic Segmentation from a Sequence-to-Sequence Perspective
    with Transformers" (SETR-PUP), CVPR 2021, with two stages and few channels.

    Args:
        features: Some feature maps ``[n, C, h, w]``, which set width and scale.
        width: Channels of the decoder.
    """

    def __init__(self, features: Tensor, width: int = 48) -> None:
        super().__init__()
        self.scale = Standardise(features)
        self.reduce = nn.Conv2d(features.shape[1], width, 1)
        self.stages = nn.Sequential(upsampling(width, width), upsampling(width, width // 2))
        self.classify = nn.Conv2d(width // 2, 1, 1)
        assert self.classify.bias is not None
        nn.init.constant_(self.classify.bias, -2.0)  # most pixels are none of the region's

    def forward(self, features: Tensor) -> Tensor:
        """``[B, C, h, w]`` -> logits ``[B, 4h, 4w]``."""
        return self.classify(self.stages(F.gelu(self.reduce(self.scale(features)))))[:, 0]


class DenseObjective:
    """What the two dense objectives share.

    Args:
        data: The task's data, with regions.
        inputs: The visual modality, alone.

    Raises:
        DataError: The task has no regions, or reads something besides images.

    Attributes:
        reads_tokens: Whether it reads tokens of the features beside ``pooled``.
    """

    reads_tokens = True

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        if data.regions is None:
            raise DataError("a dense task needs regions: masks or boxes of its samples")
        if inputs != ("image",):
            raise DataError(f"a dense task reads images and nothing else, not {' and '.join(inputs)}")
        self.data, self.regions = data, data.regions
        self._window: Window | None = None

    def window(self, grafted: Grafted) -> Window:
        """See :func:`window`; probed once."""
        if self._window is None:
            self._window = window(grafted.towers()["image"])
        return self._window

    def context(self, grafted: Grafted) -> None:
        """Nothing is shared between batches of a prediction."""
        self.window(grafted)


class SegmentationObjective(DenseObjective):
    """Binary cross-entropy and soft Dice (Milletari et al., "V-Net", 3DV 2016) on the decoder's grid."""

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        self._small: dict[int, Tensor] = {}

    def make_head(self, sample: Mapping[str, Features]) -> MaskDecoder:
        """A decoder that fits the features of ``sample``, scaled by them."""
        return MaskDecoder(token_map(sample["image"]))

    def loss(self, grafted: Grafted, outputs: Mapping[str, Features], batch: Batch) -> Tensor:
        """Mean over the batch."""
        assert grafted.head is not None and batch.index is not None
        logits = grafted.head(token_map(outputs["image"]))
        seen = self.window(grafted)
        size = (logits.shape[-2], logits.shape[-1])
        wanted = torch.stack([self._target(int(i), size, seen) for i in batch.index]).to(logits)
        crossed = F.binary_cross_entropy_with_logits(logits, wanted)
        found = torch.sigmoid(logits)
        overlap, total = (found * wanted).sum(dim=(1, 2)), (found + wanted).sum(dim=(1, 2))
        return crossed + (1 - (2 * overlap + 1) / (total + 1)).mean()

    def _target(self, sample: int, size: tuple[int, int], seen: Window) -> Tensor:
        """Share of each of the decoder's pixels that the region covers."""
        if sample not in self._small:
            mask = torch.from_numpy(np.ascontiguousarray(_seen_part(self.regions(sample), seen))).float()
            self._small[sample] = F.interpolate(mask[None, None], size=size, mode="area")[0, 0].half()
        return self._small[sample]

    def scores(self, grafted: Grafted, outputs: Mapping[str, Features], context: Any = None) -> Tensor:
        """Probabilities on the decoder's grid, ``[B, 4h, 4w]``."""
        assert grafted.head is not None
        return torch.sigmoid(grafted.head(token_map(outputs["image"])))

    def evaluate(self, predict: Predict, splits: Mapping[str, np.ndarray], groups: np.ndarray) -> Predictions:
        """Counts pixels at the masks' own resolution; the threshold is the best of nine on validation samples."""
        seen = self._window or WHOLE
        counts = [
            overlap_counts(spread(grid, mask.shape, seen), mask, MASK_THRESHOLDS)
            for grid, mask in ((g, self.regions(int(i))) for g, i in self._pairs(predict, splits["val"]))
        ]
        best = int(np.argmax([dice_of(np.array([c[t] for c in counts])).mean() for t in range(len(MASK_THRESHOLDS))]))
        chosen = MASK_THRESHOLDS[best : best + 1]
        test = np.array(
            [
                overlap_counts(spread(grid, mask.shape, seen), mask, chosen)[0]
                for grid, mask in ((g, self.regions(int(i))) for g, i in self._pairs(predict, splits["test"]))
            ]
        )
        targets = (test[:, 2] > 0).astype(np.int64)
        return Predictions(test, targets, groups, self.data.classes, thresholds=chosen, objective="segmentation")

    @staticmethod
    def _pairs(predict: Predict, index: np.ndarray) -> zip[tuple[np.ndarray, int]]:
        return zip(predict(index), index.tolist(), strict=True)


def _pixels(shape: tuple[int, ...], seen: Window) -> tuple[slice, slice]:
    """Rows and columns of an image that the encoder sees."""
    height, width = shape[:2]
    left, top, right, bottom = (min(max(end, 0.0), 1.0) for end in seen)
    return slice(round(top * height), round(bottom * height)), slice(round(left * width), round(right * width))


def _seen_part(mask: np.ndarray, seen: Window) -> np.ndarray:
    return mask[_pixels(mask.shape, seen)]


def spread(grid: np.ndarray, shape: tuple[int, ...], seen: Window) -> np.ndarray:
    """A map ``[h, w]`` of what the encoder sees, bilinearly at its place in an image of ``shape``; zero around it."""
    rows, columns = _pixels(shape, seen)
    size = (rows.stop - rows.start, columns.stop - columns.start)
    whole = np.zeros(shape[:2], np.float32)
    source = torch.from_numpy(np.asarray(grid, np.float32))[None, None]
    whole[rows, columns] = F.interpolate(source, size=size, mode="bilinear", align_corners=False)[0, 0].numpy()
    return whole


class DetectionObjective(DenseObjective):
    """Faster R-CNN's two stages on the token map, see :mod:`medgraft.benchmarks.detection`."""

    def make_head(self, sample: Mapping[str, Features]) -> nn.Module:
        """A head that fits the features of ``sample``, scaled by them."""
        from medgraft.benchmarks.detection import TokenDetector

        return TokenDetector(token_map(sample["image"]))

    def loss(self, grafted: Grafted, outputs: Mapping[str, Features], batch: Batch) -> Tensor:
        """Sum of the four losses of Faster R-CNN."""
        assert grafted.head is not None and batch.index is not None
        seen = self.window(grafted)
        boxes = [torch.from_numpy(into_window(self.regions(int(i)), seen)).float() for i in batch.index]
        return grafted.head(token_map(outputs["image"]), boxes)

    def scores(self, grafted: Grafted, outputs: Mapping[str, Features], context: Any = None) -> Tensor:
        """Detections ``[B, K, 5]``: corners in fractions of what the encoder sees, and confidence, -1 for none."""
        assert grafted.head is not None
        return grafted.head(token_map(outputs["image"]))

    def evaluate(self, predict: Predict, splits: Mapping[str, np.ndarray], groups: np.ndarray) -> Predictions:
        """Detections and boxes in fractions of the image; validation samples choose the challenge's threshold."""
        val, test = (self._found(predict, splits[name]) for name in ("val", "test"))
        threshold = np.array([best_score_threshold(*val)])
        return Predictions(test[0], test[1], groups, self.data.classes, thresholds=threshold, objective="detection")

    def _found(self, predict: Predict, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Detections ``[n, K, 5]`` and boxes ``[n, G, 4]``, rows of -1 where there is none."""
        detections = predict(index)
        left, top, right, bottom = self._window or WHOLE
        offset, extent = np.array([left, top] * 2), np.array([right - left, bottom - top] * 2)
        detections[..., :4] = np.where(detections[..., 4:] >= 0, detections[..., :4] * extent + offset, -1.0)
        boxes = [self.regions(int(i)) for i in index]
        padded = np.full((len(index), max(1, *(len(each) for each in boxes)), 4), -1.0)
        for row, each in enumerate(boxes):
            padded[row, : len(each)] = each
        return detections, padded


def into_window(boxes: np.ndarray, seen: Window) -> np.ndarray:
    """Boxes ``[k, 4]`` in fractions of what the encoder sees, cut at its border; what is outside is gone."""
    left, top, right, bottom = seen
    moved = (np.asarray(boxes, float).reshape(-1, 4) - [left, top] * 2) / ([right - left, bottom - top] * 2)
    cut = np.clip(moved, 0, 1)
    return cut[((cut[:, 2:] - cut[:, :2]) > 1e-3).all(axis=1)]


DENSE: dict[str, type[SegmentationObjective] | type[DetectionObjective]] = {
    "segmentation": SegmentationObjective,
    "detection": DetectionObjective,
}
