"""``segmentation``: masks on frozen tokens by a light decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medgraft.benchmarks.metrics.dense import dice_of, overlap_counts
from medgraft.benchmarks.objectives.dense import (
    WHOLE,
    DenseObjective,
    Standardise,
    Window,
    seen_part,
    spread,
    token_map,
    upsampling,
)
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.metric import Predictions
from medgraft.objective import Batch
from medgraft.task import TaskData

MASK_THRESHOLDS = np.arange(0.1, 0.95, 0.1)


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


class SegmentationObjective(DenseObjective):
    """Binary cross-entropy and soft Dice (Milletari et al., "V-Net", 3DV 2016) on the decoder's grid."""

    primary = "dice"
    metrics = ("dice",)
    columns = ("dice", "dice_positive", "iou")

    def __init__(self, data: TaskData, inputs: tuple[str, ...]) -> None:
        super().__init__(data, inputs)
        self._small: dict[int, Tensor] = {}

    def make_head(self, sample: Mapping[str, Features]) -> MaskDecoder:
        """A decoder that fits the features of ``sample``, scaled by them."""
        return MaskDecoder(token_map(sample[self.inputs[0]]))

    def loss(self, grafted: Grafted, outputs: Mapping[str, Features], batch: Batch) -> Tensor:
        """Mean over the batch, a scalar."""
        assert grafted.head is not None and batch.index is not None
        logits = grafted.head(token_map(outputs[self.inputs[0]]))
        seen = self.window(grafted)
        size = (logits.shape[-2], logits.shape[-1])
        masks = torch.stack([self._target(int(i), size, seen) for i in batch.index]).to(logits)
        crossed = F.binary_cross_entropy_with_logits(logits, masks)
        probabilities = torch.sigmoid(logits)
        overlap, total = (probabilities * masks).sum(dim=(1, 2)), (probabilities + masks).sum(dim=(1, 2))
        return crossed + (1 - (2 * overlap + 1) / (total + 1)).mean()

    def _target(self, sample: int, size: tuple[int, int], seen: Window) -> Tensor:
        """Share of each of the decoder's pixels that the region covers."""
        if sample not in self._small:
            mask = torch.from_numpy(np.ascontiguousarray(seen_part(self.regions(sample), seen))).float()
            self._small[sample] = F.interpolate(mask[None, None], size=size, mode="area")[0, 0].half()
        return self._small[sample]

    def scores(self, grafted: Grafted, outputs: Mapping[str, Features], context: Any = None) -> Tensor:
        """Probabilities on the decoder's grid, ``[B, 4h, 4w]``."""
        assert grafted.head is not None
        return torch.sigmoid(grafted.head(token_map(outputs[self.inputs[0]])))

    def predictions(
        self, predict: Callable[[np.ndarray], np.ndarray], splits: Mapping[str, np.ndarray], groups: np.ndarray
    ) -> Predictions:
        """Counts ``[n, ...]`` of pixels at the masks' size; the threshold is the best of nine in validation."""
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
    def _pairs(predict: Callable[[np.ndarray], np.ndarray], index: np.ndarray) -> zip[tuple[np.ndarray, int]]:
        return zip(predict(index), index.tolist(), strict=True)

    @classmethod
    def shows(cls, p: Predictions) -> np.ndarray:
        """``bool [n]``, which test samples have a mask."""
        return np.asarray(p.targets > 0)

    @classmethod
    def misfit(cls, p: Predictions) -> str:
        """See :class:`Objective`."""
        return "" if p.scores.shape == (len(p.targets), 3) and p.targets.ndim == 1 else "its scores are no pixel counts"
