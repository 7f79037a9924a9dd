"""Dice and average precision against hand-made cases and the COCO evaluator, and the window of an encoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from judged_numbers import points

from medgraft.benchmarks.metrics.dense import (
    ALL_IOUS,
    WeightedPrecision,
    best_score_threshold,
    coco_matches,
    dice_of,
    overlap_counts,
    rsna_scores,
)
from medgraft.benchmarks.objectives.dense import WHOLE, spread, window
from medgraft.benchmarks.objectives.detection import into_window
from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.metric import Predictions

NONE4, NONE5 = [-1.0] * 4, [-1.0] * 5


def boxes_case(seed: int, n: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Drawn boxes, and detections that are shifted copies and noise, some of equal confidence."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 0.6, (n, 2, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.3, (n, 2, 2))], axis=-1)
    boxes[::3, 1] = -1
    found = np.concatenate([boxes + rng.normal(0, 0.03, boxes.shape), rng.uniform(0, 0.5, (n, 1, 4))], axis=1)
    absent = found[..., 2] < -0.5  # copies of a box that is not there
    found[..., 2:] = np.maximum(found[..., 2:], found[..., :2] + 0.02)
    scores = rng.integers(1, 9, (n, 3, 1)) / 10
    detections = np.concatenate([found, scores], axis=-1)
    detections[absent] = -1
    return np.take_along_axis(detections, np.argsort(-detections[..., 4:], axis=1), axis=1), boxes


def predictions(detections: Any, boxes: Any, **more: Any) -> Predictions:
    detections, boxes = np.array(detections, float), np.array(boxes, float)
    return Predictions(detections, boxes, np.arange(len(boxes)), ("box",), objective="detection", **more)


# --- masks ------------------------------------------------------------------------------------------------------------


def test_dice_is_twice_the_overlap_and_one_for_two_empty_masks():
    probability = np.array([[0.9, 0.9], [0.1, 0.2]])
    mask = np.array([[True, False], [False, False]])
    counts = overlap_counts(probability, mask, np.array([0.5, 0.05]))
    assert counts.tolist() == [[1, 2, 1], [1, 4, 1]]
    assert dice_of(np.array([[1, 2, 1], [0, 0, 0], [0, 3, 0]])) == pytest.approx([2 / 3, 1, 0])


def test_positive_dice_leaves_empty_masks_out():
    counts = np.array([[5.0, 10, 10], [0, 0, 0], [0, 4, 0]])
    p = Predictions(counts, np.array([1, 0, 0]), np.arange(3), ("air",), objective="segmentation")
    numbers, _ = points(p)
    assert numbers == pytest.approx({"dice": 0.5, "dice_positive": 0.5, "dice_pooled": 10 / 24, "iou": (1 / 3 + 1) / 3})
    found = evaluate(p, resamples=50)
    assert set(found) == set(numbers) and found["dice"].n_subjects == 3


def test_nothing_drawn_leaves_positive_dice_undefined():
    p = Predictions(np.zeros((2, 3)), np.zeros(2), np.arange(2), ("air",), objective="segmentation")
    assert evaluate(p, resamples=20)["dice_positive"].value is None


# --- boxes ------------------------------------------------------------------------------------------------------------


def test_perfect_boxes_have_precision_one():
    boxes = [[[0.1, 0.1, 0.4, 0.5], NONE4], [[0.2, 0.2, 0.3, 0.6], [0.5, 0.5, 0.9, 0.9]]]
    found = [[[*box, 0.9] if box[0] >= 0 else NONE5 for box in image] for image in boxes]
    numbers, _ = points(predictions(found, boxes))
    assert all(value == pytest.approx(1) for value in numbers.values())


def test_no_detection_is_zero_and_no_box_undefined():
    box = [[[0.1, 0.1, 0.4, 0.5]]]
    assert points(predictions([[NONE5]], box))[0]["map"] == 0
    assert np.isnan(points(predictions([[[0.1, 0.1, 0.4, 0.5, 0.9]]], [[NONE4]]))[0]["map"])


def test_nothing_found_of_what_is_drawn_is_zero_with_an_interval():
    boxes = [[[0.1, 0.1, 0.4, 0.5]]] * 2 + [[NONE4]] * 2
    found = evaluate(predictions([[NONE5]] * 4, boxes), resamples=100)["map"]
    assert (found.value, found.ci_low) == (0, 0)
    assert found.ci_high is not None and 0 < found.ci_high < 1  # two subjects with something to find say little


def test_a_validation_split_without_boxes_chooses_no_threshold():
    detections = np.array([[[0.1, 0.1, 0.4, 0.5, 0.9]]])
    assert best_score_threshold(detections, np.array([[NONE4]])) == 0.5


@pytest.mark.parametrize("seed", range(4))
def test_unit_weights_give_the_evaluators_own_precision(seed):
    detections, boxes = boxes_case(seed)
    evaluator = coco_matches(detections, boxes)
    ours = WeightedPrecision(evaluator, (boxes[..., 2] >= 0).sum(axis=1))(np.ones((1, len(boxes))))[0]
    theirs = evaluator.eval["precision"][:, :, 0, 0, -1].mean(axis=1)
    assert len(theirs) == len(ALL_IOUS) and 0 < theirs[0] < 1
    np.testing.assert_allclose(ours, theirs, atol=1e-9)


def test_whole_weights_are_repeated_images():
    rng = np.random.default_rng(5)
    detections, boxes = boxes_case(3)
    detections[..., 4] = np.where(detections[..., 4] < 0, -1, rng.permutation(36).reshape(12, 3) / 40 + 0.05)  # no ties
    detections = np.take_along_axis(detections, np.argsort(-detections[..., 4:], axis=1), axis=1)
    times = np.array([2, 0, 1, 1, 3, 1, 0, 1, 1, 2, 1, 1])
    average = WeightedPrecision(coco_matches(detections, boxes), (boxes[..., 2] >= 0).sum(axis=1))
    again = np.repeat(np.arange(12), times)
    repeated = coco_matches(detections[again], boxes[again]).eval["precision"][:, :, 0, 0, -1].mean(axis=1)
    # A repeated image's detections are one step of our curve, and several of theirs.
    np.testing.assert_allclose(average(times[None].astype(float))[0], repeated, atol=0.06)


def test_the_challenges_score_counts_misses_and_false_alarms():
    box = [0.0, 0.0, 0.4, 0.5]
    boxes = np.array([[box, [0.5, 0.5, 0.9, 0.9]], [NONE4, NONE4], [NONE4, NONE4]])
    detections = np.array([[[*box, 0.9], NONE5], [[*box, 0.9], NONE5], [[*box, 0.2], NONE5]])
    scores = rsna_scores(detections, boxes, 0.5)
    assert scores[:2].tolist() == [0.5, 0.0] and np.isnan(scores[2])


# --- what the encoder sees --------------------------------------------------------------------------------------------


class Tower:
    """Cuts a border off, resizes, and scales the values."""

    def __init__(self, border: float) -> None:
        self.border = border

    def prepare(self, raw: np.ndarray) -> torch.Tensor:
        b = round(self.border * len(raw))
        image = torch.from_numpy(raw[b : len(raw) - b, b : len(raw) - b].astype(np.float32))[None, None]
        return (torch.nn.functional.interpolate(image, size=(64, 64), mode="area")[0] - 90) / 50


def test_the_window_is_what_an_evaluation_transform_leaves():
    assert window(Tower(0.0)) == WHOLE  # pyright: ignore[reportArgumentType]
    assert window(Tower(0.125)) == pytest.approx((0.125, 0.125, 0.875, 0.875), abs=0.005)  # pyright: ignore


def test_boxes_and_maps_move_between_window_and_image():
    seen = (0.25, 0.25, 0.75, 0.75)
    boxes = np.array([[0.25, 0.25, 0.5, 0.75], [0.0, 0.0, 0.2, 0.2]])
    assert into_window(boxes, seen).tolist() == [[0.0, 0.0, 0.5, 1.0]]
    whole = spread(np.ones((2, 2)), (8, 8), seen)
    assert whole.sum() == 16 and whole[2:6, 2:6].all()
