"""Reader of the RSNA Pneumonia Detection Challenge, stage 2, as people have it from Kaggle.

Shih et al., "Augmenting the National Institutes of Health Chest Radiograph Dataset with Expert Annotations of Possible
Pneumonia", Radiology: Artificial Intelligence 2019. One row of ``stage_2_train_labels.csv`` per box, images in
``stage_2_train_images/<patientId>.dcm``. A ``patientId`` names one image; which of them are of one person is told only
by the challenge's mapping to NIH ChestX-ray14, which is used where it is there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.chest.challenge_frame import (
    CHALLENGE_SIDE,
    DrawnOn,
    check_drawn_on,
    frame_side,
    unscaled,
)
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.images.load import find_home, image_shape, index_images, located
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of, is_phantom, read_table
from medgraft.errors import DataError

LABELS = "stage_2_train_labels.csv"
CLASSES = "stage_2_detailed_class_info.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
IMAGES = "stage_2_train_images"

_BOX = ["x", "y", "width", "height"]


@dataclass(frozen=True)
class RsnaTable:
    """The labelled images of a copy.

    Attributes:
        frame: One row per image: ``subject`` (the person, as far as the copy tells), ``image_id`` (the ``patientId``),
            ``image`` (absolute path), ``target`` (1 for a lung opacity that suggests pneumonia, else 0) and ``finding``
            (``Normal``, ``No Lung Opacity / Not Normal``, ``Lung Opacity`` or empty). Ordered by ``image_id``.
        boxes: For each row ``float64 [k, 4]``: left, top, right and bottom in pixels of the frame, until
            :func:`boxes_inside` has them in pixels of the image.
        frame_side: Side of the frame that the boxes were drawn on, 1024 pixels in the challenge; None if unknown.
        report: How many images were used and left out, and why.
        phantom: Whether the copy was generated.
        generator: Version of the generator, None for a real copy.
    """

    frame: pd.DataFrame
    boxes: tuple[np.ndarray, ...]
    report: ReadReport
    phantom: bool
    generator: str | None
    frame_side: int | None = CHALLENGE_SIDE

    def rows(self, keep: Sequence[int] | np.ndarray) -> RsnaTable:
        """The table with these rows ``[m]`` only; the report is a copy."""
        kept = np.asarray(keep, int).tolist()
        report = ReadReport(len(kept), self.report.skipped.copy(), self.report.notes.copy())
        frame = self.frame.iloc[kept].reset_index(drop=True)
        return replace(self, frame=frame, boxes=tuple(self.boxes[row] for row in kept), report=report)


def read_rsna(root: Path) -> RsnaTable:
    """Reads the labels and boxes of a copy; images are opened later.

    Args:
        root: The folder with ``stage_2_train_labels.csv``, or the folder that holds it.

    Returns:
        The images that exist. An image is left out and counted if its rows contradict each other, its target is
        neither 0 nor 1, it is positive without a box or negative with one, or a box has no area or starts outside the
        image. Boxes that end outside it are found by :func:`boxes_inside`, which must open the files.

    Raises:
        DataError: There is no such table, it lacks a column, or not one image can be used.
    """
    home, path = find_home(root, (LABELS,), "the RSNA challenge")
    table = read_table(path, ("patientId", *_BOX, "Target"))
    report = ReadReport()
    if count := int(np.count_nonzero(table["patientId"].isna())):
        report.skip("patientId missing", count=count)
    table = table.dropna(subset=["patientId"])
    table["patientId"] = table["patientId"].astype(str).str.strip()
    table = table.sort_values("patientId", kind="stable")
    numbers = table[[*_BOX, "Target"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    names, starts = np.unique(table["patientId"].to_numpy(str), return_index=True)
    ids: list[str] = []
    targets: list[int] = []
    boxes: list[np.ndarray] = []
    for name, rows in zip(names.tolist(), np.split(numbers, starts[1:]), strict=True):
        values = np.unique(rows, axis=0)
        if problem := _problem(values):
            report.skip(problem, name)
            continue
        ids.append(name)
        targets.append(int(values[0, 4]))
        corners = values[values[:, 4] == 1, :4]
        boxes.append(np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1))
    if not ids:
        raise DataError(f"{path} has no usable row; left out: {dict(report.skipped)}")
    images = index_images(home, IMAGES, report)
    there = located(ids, images, report, lambda name: str(home / IMAGES / f"{name}.dcm"))
    frame = pd.DataFrame({"image_id": [ids[row] for row in there], "target": [targets[row] for row in there]})
    frame.insert(0, "subject", _persons(home, frame["image_id"].tolist(), report))
    frame["image"] = [images[name] for name in frame["image_id"]]
    frame["finding"] = _findings(home, frame["image_id"].tolist())
    report.used = len(frame)
    phantom = is_phantom(home) or made_up("rsna", frame["image_id"])
    return RsnaTable(
        frame,
        tuple(boxes[row] for row in there),
        report,
        phantom,
        generator_of(home),
        frame_side(home, phantom=phantom),
    )


def boxes_inside(table: RsnaTable, drawn_on: DrawnOn = "challenge") -> tuple[RsnaTable, np.ndarray]:
    """Scales the boxes to their images; leaves out, and counts, images for which that cannot be done.

    These are images whose header cannot be read, that are no squares, or that a box overruns.

    Args:
        table: The table.
        drawn_on: Whose pixels the boxes are in.

    Returns:
        The rest, with boxes in pixels of the images, and the height and width of each image with a box, ``float64
        [n, 2]``; NaN where there is no box.

    Raises:
        DataError: The boxes fit a smaller copy as they are, see
            :func:`~medgraft.benchmarks.cohorts.chest.challenge_frame.check_drawn_on`.
    """
    report = ReadReport(0, table.report.skipped.copy(), table.report.notes.copy())
    side = table.frame_side if drawn_on == "challenge" else None
    keep: list[int] = []
    sizes: list[tuple[float, float]] = []
    for row, (path, boxes) in enumerate(zip(table.frame["image"], table.boxes, strict=True)):
        size = (float("nan"), float("nan"))
        if len(boxes):
            try:
                size = image_shape(path)
            except DataError as error:
                report.skip("image header unreadable", error)
                continue
            if side is not None and (problem := unscaled(size)):
                report.skip(problem, path)
                continue
            edges = size if side is None else (side, side)
            if (boxes[:, 2] > edges[1]).any() or (boxes[:, 3] > edges[0]).any():
                report.skip("box outside the image", path)
                continue
        keep.append(row)
        sizes.append(size)
    kept, shapes = replace(table, report=report).rows(keep), np.array(sizes, float).reshape(-1, 2)
    return (kept, shapes) if side is None else (_scaled(kept, shapes[:, 0], side, report), shapes)


def _scaled(table: RsnaTable, sides: np.ndarray, frame: int, report: ReadReport) -> RsnaTable:
    """The table with boxes in pixels of square images of the given sides ``[n]``, from those of the frame."""
    drawn = [row for row, boxes in enumerate(table.boxes) if len(boxes)]
    reach = [float(table.boxes[row].max()) for row in drawn]
    check_drawn_on(frame, reach, sides[drawn].tolist(), f"the boxes of {LABELS}")
    if resized := int((sides[drawn] != frame).sum()):
        report.note("boxes scaled to an image of another size than the challenge's", resized)
    pairs = zip(table.boxes, sides, strict=True)
    boxes = tuple(boxes * (side / frame) if len(boxes) else boxes for boxes, side in pairs)
    return replace(table, boxes=boxes, report=replace(table.report, notes=report.notes))


def _problem(rows: np.ndarray) -> str:
    """Why the rows ``[k, 5]`` (box, target) of one image cannot be used, or nothing."""
    corners, targets = rows[:, :4], rows[:, 4]
    if not np.isin(targets, (0, 1)).all():
        return "target other than 0 or 1"
    if (targets != targets[0]).any():
        return "target 0 and 1 for one image"
    if targets[0] == 0:
        return "" if np.isnan(corners).all() else "box on a negative image"
    if np.isnan(corners).any():
        return "positive without a box"
    if not np.isfinite(corners).all() or (corners[:, 2:] <= 0).any():
        return "box without area"
    return "box outside the image" if (corners[:, :2] < 0).any() else ""


def _findings(home: Path, ids: Sequence[str]) -> list[str]:
    """The three-way reading of each image, empty where the copy does not have it, or has two."""
    path = home / CLASSES
    if not path.is_file():
        return [""] * len(ids)
    table = read_table(path, ("patientId", "class")).dropna(subset=["patientId", "class"])
    findings: dict[str, str] = {}
    for name, word in zip(table["patientId"].astype(str).str.strip(), table["class"].astype(str), strict=True):
        findings[name] = word.strip() if findings.get(name, word.strip()) == word.strip() else ""
    return [findings.get(name, "") for name in ids]


def _persons(home: Path, ids: Sequence[str], report: ReadReport) -> list[str]:
    """The person of each image by the challenge's mapping, whose file names start with the NIH patient number."""
    persons: dict[str, str] = {}
    path = next((folder / MAPPING for folder in (home, home.parent) if (folder / MAPPING).is_file()), None)
    if path is not None:
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))
            persons = {str(e["subset_img_id"]): f"nih{str(e['img_id']).partition('_')[0]}" for e in entries}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is not the challenge's mapping ({error!r}); copy it again or remove it") from error
    if unknown := sum(name not in persons for name in ids):
        report.note("taken as a person of its own", unknown)
    return [persons.get(name, name) for name in ids]
