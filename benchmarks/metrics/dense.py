"""Metrics of dense tasks: Dice of masks, mean average precision of boxes, with intervals that resample subjects.

Stored predictions hold what the metrics need and no image:

- segmentation: ``scores`` ``[n, 3]`` are pixels in both masks, in the predicted and in the drawn one; ``targets``
  ``[n]`` say whether anything was drawn;
- detection: ``scores`` ``[n, K, 5]`` are corners in fractions of the image and confidence, ``targets`` ``[n, G, 4]``
  the drawn boxes, rows of -1 where there is none.

Point values of average precision come from pycocotools, the evaluator of the COCO benchmark (Lin et al., "Microsoft
COCO", ECCV 2014). A resample of subjects weights its matches, which do not change.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from medgraft.metric import Array, Metric, Predictions, WeightedStatistic, exactly

RSNA_IOUS = np.linspace(0.40, 0.75, 8)
COCO_IOUS = np.linspace(0.50, 0.95, 10)
ALL_IOUS = np.linspace(0.40, 0.95, 12)
SCALE = 1000.0
"""COCO's evaluator thinks in pixels; its result does not depend on the scale."""


# --- masks ------------------------------------------------------------------------------------------------------------


def overlap_counts(probability: Array, mask: Array, thresholds: Array) -> Array:
    """Pixels in both masks, in the predicted and in the drawn one, for each threshold, ``float64 [T, 3]``."""
    drawn = float(mask.sum())
    rows = []
    for threshold in thresholds:
        predicted = probability >= threshold
        rows.append((float((predicted & mask).sum()), float(predicted.sum()), drawn))
    return np.array(rows)


def dice_of(counts: Array) -> Array:
    """Dice coefficient of each image from ``[n, 3]`` counts; 1 where both masks are empty."""
    total = counts[:, 1] + counts[:, 2]
    return np.divide(2 * counts[:, 0], total, out=np.ones(len(counts)), where=total > 0)


def _weighted_mean(values: Array, counts: Array) -> WeightedStatistic:
    """Mean of ``values`` ``[n]`` over the samples that count, as a function of weights; ``nan`` without any."""
    used, weight = np.where(counts, values, 0.0), counts.astype(float)

    def statistic(weights: Array) -> Array:
        total = weights @ weight
        return np.divide(weights @ used, total, out=np.full(len(weights), np.nan), where=total > 0)

    return statistic


class Dice(Metric):
    """Dice and intersection over union of masks.

    ``dice`` is the mean over all images, an empty mask rightly predicted counting 1, so that predicting nothing scores
    the share of empty masks; ``dice_positive`` is the mean over images with a mask; ``dice_pooled`` counts the pixels
    of all images together; ``iou`` is the mean intersection over union, with 1 for two empty masks.
    """

    title = "Dice"
    numbers = ("dice", "dice_positive", "dice_pooled", "iou")
    over_samples = ("dice", "iou")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`; ``p.scores`` are pixel counts ``[n, 3]``."""
        counts = p.scores
        drawn, everyone = counts[:, 2] > 0, np.ones(len(counts), bool)
        union = counts[:, 1] + counts[:, 2] - counts[:, 0]
        iou = np.divide(counts[:, 0], union, out=np.ones(len(counts)), where=union > 0)

        def pooled(weights: Array) -> Array:
            sums = weights @ counts
            total = sums[:, 1] + sums[:, 2]
            return np.divide(2 * sums[:, 0], total, out=np.full(len(weights), np.nan), where=total > 0)

        return {
            "dice": _weighted_mean(dice_of(counts), everyone),
            "dice_positive": _weighted_mean(dice_of(counts), drawn),
            "dice_pooled": pooled,
            "iou": _weighted_mean(iou, everyone),
        }


# --- boxes ------------------------------------------------------------------------------------------------------------


def coco_matches(detections: Array, boxes: Array) -> Any:
    """Runs COCO's evaluator on all images.

    Args:
        detections: ``[n, K, 5]``.
        boxes: ``[n, G, 4]``.

    Returns:
        The evaluator after matching and accumulation, with the thresholds :data:`ALL_IOUS`; ``None`` where there is
        no detection at all, which it cannot read.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    drawn, annotations = [], []
    for image, (image_boxes, seen) in enumerate(zip(boxes, detections, strict=True), start=1):
        for box in image_boxes[image_boxes[:, 2] >= 0] * SCALE:
            width, height = box[2] - box[0], box[3] - box[1]
            entry = {"id": len(drawn) + 1, "image_id": image, "category_id": 1, "iscrowd": 0}
            drawn.append({**entry, "bbox": [box[0], box[1], width, height], "area": width * height})
        for box in seen[seen[:, 4] >= 0]:
            corners = box[:4] * SCALE
            size = [corners[2] - corners[0], corners[3] - corners[1]]
            annotations.append(
                {"image_id": image, "category_id": 1, "bbox": [*corners[:2], *size], "score": float(box[4])}
            )
    if not annotations:
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # the library prints its progress
        truth = COCO()
        images = [{"id": image} for image in range(1, len(boxes) + 1)]
        dataset: Any = {"info": {}, "images": images, "annotations": drawn, "categories": [{"id": 1, "name": "box"}]}
        truth.dataset = dataset
        truth.createIndex()
        results: Any = annotations  # a list is read as well as the file that the type hint asks for
        evaluator = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluator.params.iouThrs = ALL_IOUS
        evaluator.params.areaRng, evaluator.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


class WeightedPrecision:
    """Average precision of every threshold as a function of image weights, from COCO's matches.

    Args:
        evaluator: What :func:`coco_matches` returned.
        n_boxes: ``[n]`` drawn boxes of each image.
    """

    def __init__(self, evaluator: Any, n_boxes: Array) -> None:
        self.n_boxes = n_boxes.astype(float)
        results = [entry for entry in evaluator.evalImgs if entry is not None]
        scores = np.concatenate([entry["dtScores"] for entry in results])
        order = np.argsort(-scores, kind="mergesort")  # as the evaluator sorts, so that ties fall alike
        images = np.concatenate([np.full(len(entry["dtScores"]), entry["image_id"] - 1) for entry in results])
        self.images = images[order].astype(int)
        matched = np.concatenate([entry["dtMatches"] for entry in results], axis=1)
        self.matched = (matched > 0)[:, order]
        self.recalls = np.asarray(evaluator.params.recThrs)
        self._last: tuple[Array, Array] | None = None

    def __call__(self, weights: Array) -> Array:
        """Weights ``[R, n]`` -> average precision ``[R, T]``, ``nan`` where no box is drawn."""
        if self._last is None or self._last[0] is not weights:  # several metrics ask for one set of resamples
            self._last = (weights, self._compute(weights))
        return self._last[1]

    def _compute(self, weights: Array) -> Array:
        image_weights, total = weights[:, self.images], weights @ self.n_boxes
        everything = np.cumsum(image_weights, axis=1)
        result = np.full((len(weights), len(self.matched)), np.nan)
        for t, matched in enumerate(self.matched):
            right = np.cumsum(image_weights * matched, axis=1)
            precision = right / np.maximum(everything, np.spacing(1))
            envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
            for r in np.flatnonzero(total > 0):
                places = np.searchsorted(right[r] / total[r], self.recalls, side="left")
                inside = places < envelope.shape[1]
                result[r, t] = envelope[r, places[inside]].sum() / len(self.recalls)
        return result


def _ious(first: Array, second: Array) -> Array:
    """Intersection over union of boxes ``[a, 4]`` and ``[b, 4]``, ``[a, b]``."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    both = np.clip(high - low, 0, None).prod(axis=-1)
    areas = [np.clip(boxes[:, 2:] - boxes[:, :2], 0, None).prod(axis=-1) for boxes in (first, second)]
    return both / np.maximum(areas[0][:, None] + areas[1][None] - both, 1e-12)


def rsna_scores(detections: Array, boxes: Array, threshold: float) -> Array:
    """Score of each image by the rules of the RSNA challenge, ``[n]``.

    TP / (TP + FP + FN) averaged over IoU .40 to .75 in steps of .05; detections are matched in the order of confidence
    to the best box that is left. An image with neither a box nor a detection does not count and is ``nan``.

    Args:
        detections: ``[n, K, 5]``, most confident first.
        boxes: ``[n, G, 4]``.
        threshold: Confidence from which a detection is one.
    """
    scores = np.full(len(boxes), np.nan)
    for i, (truth, seen) in enumerate(zip(boxes, detections, strict=True)):
        truth, seen = truth[truth[:, 2] >= 0], seen[(seen[:, 4] >= 0) & (seen[:, 4] >= threshold), :4]
        if len(truth) or len(seen):
            overlap = _ious(seen, truth)
            hits = np.array([_hits(overlap, iou) for iou in RSNA_IOUS], float)
            scores[i] = float(np.mean(hits / (len(truth) + len(seen) - hits)))
    return scores


def _hits(overlap: Array, least: float) -> int:
    free, hits = np.ones(overlap.shape[1], bool), 0
    for row in overlap:
        left = np.where(free, row, -1.0)
        if len(left) and left.max() > least:
            free[int(left.argmax())] = False
            hits += 1
    return hits


def best_score_threshold(detections: Array, boxes: Array) -> float:
    """Confidence threshold with the best mean challenge score on validation images, of nineteen; 0.5 without a box.

    Detections are ``[n, k, 5]``, boxes ``[n, k, 4]``.
    At a threshold at which no image counts, having neither box nor detection, the score is undefined.
    """
    if not (boxes[:, :, 2] >= 0).any():
        return 0.5  # every score is 0 or undefined
    candidates = np.linspace(0.05, 0.95, 19)
    means = []
    for threshold in candidates:
        scores = rsna_scores(detections, boxes, float(threshold))
        means.append(float(np.nanmean(scores)) if np.isfinite(scores).any() else 0.0)
    return float(candidates[int(np.argmax(means))])


class AveragePrecision(Metric):
    """COCO's mean average precision of boxes and the score of the RSNA challenge.

    ``map`` averages IoU .50 to .95 as COCO does, ``map_50`` and ``map_75`` are at one IoU, ``map_rsna`` averages .40 to
    .75, which papers on RSNA also call mAP; ``rsna_score`` is the challenge's own, at the threshold chosen on
    validation images.
    """

    title = "average precision"
    numbers = ("map", "map_50", "map_75", "map_rsna", "rsna_score")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`; ``p.scores`` are detections ``[n, K, 5]``, ``p.targets`` boxes ``[n, G, 4]``."""
        detections, boxes = p.scores, p.targets
        n_boxes = (boxes[:, :, 2] >= 0).sum(axis=1)
        threshold = 0.5 if p.thresholds is None else float(p.thresholds[0])
        challenge = rsna_scores(detections, boxes, threshold)
        score = {"rsna_score": _weighted_mean(np.nan_to_num(challenge), np.isfinite(challenge))}
        parts = {"map": COCO_IOUS, "map_50": [0.5], "map_75": [0.75], "map_rsna": RSNA_IOUS}
        evaluator = coco_matches(detections, boxes)
        if evaluator is None or not n_boxes.any():
            # Nothing found of what is drawn is 0, in every resample that something is drawn in.
            return dict.fromkeys(parts, _weighted_mean(np.zeros(len(boxes)), n_boxes > 0)) | score
        precision = evaluator.eval["precision"][:, :, 0, 0, -1].mean(axis=1)
        average = WeightedPrecision(evaluator, n_boxes)
        statistics: dict[str, WeightedStatistic] = {}
        for name, ious in parts.items():
            rows = [int(np.argmin(np.abs(ALL_IOUS - iou))) for iou in ious]

            def over_thresholds(weights: Array, rows: list[int] = rows) -> Array:
                return average(weights)[:, rows].mean(axis=1)

            statistics[name] = exactly(float(precision[rows].mean()), over_thresholds)
        return statistics | score
