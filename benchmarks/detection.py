"""Torchvision's two-stage detection head on a map of tokens.

Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS 2015. The levels
are made of the one map that a plain transformer has, as in Li et al., "Exploring Plain Vision Transformer Backbones for
Object Detection" (ViTDet), ECCV 2022: the map itself, and one of twice its resolution.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from medgraft.benchmarks.dense import Standardise, upsampling

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
        found, _ = self.boxes(levels, proposals, images.image_sizes)
        rows = features.new_full((B, DETECTIONS, 5), -1.0)
        for row, each in zip(rows, found, strict=True):
            n = len(each["scores"])
            row[:n] = torch.cat([each["boxes"] / whole, each["scores"][:, None]], dim=1)
        return rows
