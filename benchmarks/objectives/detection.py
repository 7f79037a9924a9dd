"""``detection``: boxes on frozen tokens by torchvision's two-stage head.

Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015. The levels
are made of the one map that a plain transformer has, as in Li et al., "Exploring Plain Vision Transformer Backbones for
Object Detection" (ViTDet), ECCV 2022: the map itself, and one of twice its resolution.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from medgraft.benchmarks.metrics.dense import best_score_threshold
from medgraft.benchmarks.objectives.dense import WHOLE, DenseObjective, Standardise, Window, token_map, upsampling
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.metric import Predictions
from medgraft.objective import Batch

STRIDE = 16
"""Pixels per token of the image that the head imagines; any number would do, since places leave it as fractions."""

DETECTIONS = 20
ANCHORS = ((0.12, 0.24), (0.40, 0.65))
"""Anchor sizes of the fine and the coarse level, in fractions of the image."""


class TokenDetector(nn.Module):
    """Boxes of one class from token maps.

    Args:
        features: Some feature maps ``[n, C, h, w]``, which set width and scale.
        width: Channels of the two levels.
    """

    def __init__(self, features: Tensor, width: int = 64) -> None:
        super().__init__()
        self.scale = Standardise(features)
        self.reduce = nn.Sequential(nn.Conv2d(features.shape[1], width, 1), nn.GELU())
        self.fine = upsampling(width, width)
        side = STRIDE * max(features.shape[-2:])
        sizes = tuple(tuple(share * side for share in level) for level in ANCHORS)
        anchors = AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * len(sizes))  # pyright: ignore[reportArgumentType]
        head = RPNHead(width, anchors.num_anchors_per_location()[0])
        counts = {"training": 300, "testing": 150}
        self.rpn = RegionProposalNetwork(anchors, head, 0.6, 0.3, 64, 0.5, counts, counts, 0.7)
        pool = MultiScaleRoIAlign(["fine", "coarse"], output_size=5, sampling_ratio=2)
        self.boxes = RoIHeads(
            pool,
            TwoMLPHead(width * 25, 128),
            FastRCNNPredictor(128, 2),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=64,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=0.01,
            nms_thresh=0.4,
            detections_per_img=DETECTIONS,
        )

    def forward(self, features: Tensor, boxes: list[Tensor] | None = None) -> Tensor:
        """Loss in training, detections otherwise.

        Args:
            features: ``[B, C, h, w]``.
            boxes: For the loss, ``[k, 4]`` per sample: left, top, right and bottom in fractions.

        Returns:
            The sum of the losses of proposals and boxes, or ``[B, DETECTIONS, 5]``: corners in fractions and
            confidence, most confident first; rows of -1 where there are fewer.
        """
        B, _, h, w = features.shape
        coarse = self.reduce(self.scale(features))
        levels = OrderedDict(fine=self.fine(coarse), coarse=coarse)
        size = (h * STRIDE, w * STRIDE)
        whole = features.new_tensor([size[1], size[0]] * 2)
        images = ImageList(features.new_zeros(1).expand(B, 1, *size), [size] * B)
        if boxes is not None and self.training:
            labels = (torch.ones(len(each), dtype=torch.int64) for each in boxes)
            targets = [
                {"boxes": each.to(features) * whole, "labels": label.to(features.device)}
                for each, label in zip(boxes, labels, strict=True)
            ]
            proposals, first = self.rpn(images, levels, targets)
            _, second = self.boxes(levels, proposals, images.image_sizes, targets)
            return torch.stack([*first.values(), *second.values()]).sum()
        proposals, _ = self.rpn(images, levels)
        detections, _ = self.boxes(levels, proposals, images.image_sizes)
        rows = features.new_full((B, DETECTIONS, 5), -1.0)
        for row, each in zip(rows, detections, strict=True):
            n = len(each["scores"])
            row[:n] = torch.cat([each["boxes"] / whole, each["scores"][:, None]], dim=1)
        return rows


class DetectionObjective(DenseObjective):
    """Faster R-CNN's two stages on the token map."""

    primary = "map"
    metrics = ("average_precision",)
    columns = ("map", "map_50", "rsna_score")

    def make_head(self, sample: Mapping[str, Features]) -> nn.Module:
        """A head that fits the features of ``sample``, scaled by them."""
        return TokenDetector(token_map(sample[self.inputs[0]]))

    def loss(self, grafted: Grafted, outputs: Mapping[str, Features], batch: Batch) -> Tensor:
        """Sum of the four losses of Faster R-CNN, a scalar."""
        assert grafted.head is not None and batch.index is not None
        seen = self.window(grafted)
        boxes = [torch.from_numpy(into_window(self.regions(int(i)), seen)).float() for i in batch.index]
        return grafted.head(token_map(outputs[self.inputs[0]]), boxes)

    def scores(self, grafted: Grafted, outputs: Mapping[str, Features], context: Any = None) -> Tensor:
        """Detections ``[B, K, 5]``: corners in fractions of what the encoder sees, and confidence, -1 for none."""
        assert grafted.head is not None
        return grafted.head(token_map(outputs[self.inputs[0]]))

    def predictions(
        self, predict: Callable[[np.ndarray], np.ndarray], splits: Mapping[str, np.ndarray], groups: np.ndarray
    ) -> Predictions:
        """Detections ``[n, k, 5]`` and boxes ``[n, k, 4]``; validation samples choose the challenge's threshold."""
        val, test = (self._detections(predict, splits[name]) for name in ("val", "test"))
        threshold = np.array([best_score_threshold(*val)])
        return Predictions(test[0], test[1], groups, self.data.classes, thresholds=threshold, objective="detection")

    def _detections(
        self, predict: Callable[[np.ndarray], np.ndarray], index: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
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

    @classmethod
    def shows(cls, p: Predictions) -> np.ndarray:
        """``bool [n]``, which test samples have a box."""
        return np.asarray(np.any(p.targets[:, :, 2] >= 0, axis=1))

    @classmethod
    def misfit(cls, p: Predictions) -> str:
        """See :class:`Objective`."""
        fits = p.scores.ndim == 3 and p.scores.shape[2] == 5 and p.targets.ndim == 3 and p.targets.shape[2] == 4
        return "" if fits else f"{p.scores.shape} and {p.targets.shape} are no detections and boxes"


def into_window(boxes: np.ndarray, seen: Window) -> np.ndarray:
    """Boxes ``[k, 4]`` in fractions of what the encoder sees, cut at its border; what is outside is gone."""
    left, top, right, bottom = seen
    moved = (np.asarray(boxes, float).reshape(-1, 4) - [left, top] * 2) / ([right - left, bottom - top] * 2)
    cut = np.clip(moved, 0, 1)
    return cut[((cut[:, 2:] - cut[:, :2]) > 1e-3).all(axis=1)]
