"""Reader of the SIIM-ACR Pneumothorax Segmentation challenge and of its run-length encoding.

Zawacki et al., "SIIM-ACR Pneumothorax Segmentation", Kaggle 2019. The tables ``train-rle.csv`` (stage 1) and
``stage_2_train.csv`` have one row per drawn region, so an image with several regions has several rows, and its mask is
their union. Images lie in ``dicom-images-train/<study>/<series>/<ImageId>.dcm``.
"""

from __future__ import annotations

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
    resampled,
    unscaled,
)
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.images.load import find_home, image_shape, index_images, located
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of, is_phantom, read_table
from medgraft.errors import DataError

TABLES = ("stage_2_train.csv", "train-rle.csv", "train-rle-sample.csv")
IMAGES = "dicom-images-train"
NO_MASK = "-1"


def rle_encode(mask: np.ndarray) -> str:
    """Encodes a mask as the challenge does.

    Pixels are counted down the columns, left to right; a run is written as its distance from the end of the run
    before it, then its length.

    Args:
        mask: Boolean ``[H, W]``.

    Returns:
        Space-separated numbers; ``"-1"`` for an empty mask.

    Example:
        >>> rle_encode(np.array([[0, 1], [1, 1], [0, 0]], bool))
        '1 1 1 2'
    """
    flat = np.concatenate([[False], np.asarray(mask, bool).T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    if not len(edges):
        return NO_MASK
    starts, ends = edges[::2], edges[1::2]
    gaps = starts - np.concatenate([[0], ends[:-1]])
    return " ".join(map(str, np.stack([gaps, ends - starts], axis=1).ravel().tolist()))


def rle_decode(text: str, shape: tuple[int, int]) -> np.ndarray:
    """Decodes a mask of the challenge; the inverse of :func:`rle_encode`.

    Args:
        text: Run lengths, or ``-1`` for no mask; blanks around it do not matter.
        shape: Height and width of the image.

    Returns:
        Boolean ``[H, W]``.

    Raises:
        DataError: The text is not pairs of whole numbers, a number is negative, or a run ends beyond the image.

    Example:
        >>> rle_decode(" 1 1 1 2", (3, 2)).astype(int).tolist()
        [[0, 1], [1, 1], [0, 0]]
    """
    height, width = shape
    mask = np.zeros(height * width, bool)
    if text.strip() == NO_MASK:
        return mask.reshape(width, height).T
    try:
        numbers = np.array([int(word) for word in text.split()], np.int64)
    except (ValueError, OverflowError) as error:
        raise DataError("a mask's run lengths are not whole numbers; export the table again") from error
    if not len(numbers) or len(numbers) % 2 or (numbers < 0).any():
        raise DataError(f"a mask has {len(numbers)} run lengths; they must be pairs of numbers that are not negative")
    gaps, lengths = numbers[::2], numbers[1::2]
    ends = np.cumsum(gaps + lengths)
    if numbers.max() > mask.size or ends[-1] > mask.size:
        raise DataError(f"a mask ends at pixel {ends[-1]} of an image of {height} x {width}; is it another image's?")
    for end, length in zip(ends.tolist(), lengths.tolist(), strict=True):
        mask[end - length : end] = True
    return mask.reshape(width, height).T


@dataclass(frozen=True)
class SiimTable:
    """The labelled images of a copy.

    Attributes:
        frame: One row per image: ``subject`` (the study, which is all that the copy tells of the person), ``image_id``,
            ``image`` (absolute path) and ``target`` (1 with a pneumothorax, else 0). In the order of the table.
        runs: For each row the encoded regions; empty without a pneumothorax.
        report: How many images were used and left out, and why.
        phantom: Whether the copy was generated.
        generator: Version of the generator, None for a real copy.
        frame_side: Side of the square that the regions were drawn on, 1024 pixels in the challenge; None if unknown.
    """

    frame: pd.DataFrame
    runs: tuple[tuple[str, ...], ...]
    report: ReadReport
    phantom: bool
    generator: str | None
    frame_side: int | None = CHALLENGE_SIDE

    def rows(self, keep: Sequence[int] | np.ndarray) -> SiimTable:
        """The table with these rows ``[m]`` only; the report is a copy."""
        kept = np.asarray(keep, int).tolist()
        report = ReadReport(len(kept), self.report.skipped.copy(), self.report.notes.copy())
        frame = self.frame.iloc[kept].reset_index(drop=True)
        return replace(self, frame=frame, runs=tuple(self.runs[row] for row in kept), report=report)

    def mask(self, row: int, shape: tuple[int, int], drawn_on: DrawnOn = "challenge") -> np.ndarray:
        """Union of the regions of an image of that height and width, boolean ``[H, W]``.

        Args:
            row: Of the table.
            shape: Height and width of the image.
            drawn_on: Whose pixels the regions count; those of the challenge are decoded at its size, and then resampled
                to the image, nearest neighbour.

        Raises:
            DataError: A region is not an encoded one or overruns the frame, or the image is no square, as every image
                of the challenge is.
        """
        side = self.frame_side if drawn_on == "challenge" else None
        if side is not None and (problem := unscaled(shape)):
            raise DataError(f"an image has {shape[0]} x {shape[1]} pixels; its mask was drawn on a square", problem)
        frame = shape if side is None else (side, side)
        union = np.zeros(frame, bool)
        for text in self.runs[row]:
            union |= rle_decode(text, frame)
        return resampled(union, shape)


def read_siim(root: Path) -> SiimTable:
    """Reads the masks of a copy, still encoded; images are opened later.

    Args:
        root: The folder with ``stage_2_train.csv`` or ``train-rle.csv``, or the folder that holds it.

    Returns:
        The images that exist. An image whose rows say both that there is a mask and that there is none, and a row
        without a mask value, are left out and counted; so are equal rows. Masks that do not fit their image are found
        by :func:`masks_inside`, which must open the files.

    Raises:
        DataError: There is no such table, it lacks a column, or not one image can be used.
    """
    home, path = find_home(root, TABLES, "the SIIM-ACR challenge")
    table = read_table(path, ("ImageId", "EncodedPixels"))
    report = ReadReport()
    blank = table["ImageId"].isna() | table["EncodedPixels"].isna()
    if count := int(np.count_nonzero(blank)):
        report.skip("row without image or mask value", count=count)
    table = table[~blank].assign(
        ImageId=lambda t: t["ImageId"].astype(str).str.strip(),
        EncodedPixels=lambda t: t["EncodedPixels"].astype(str).str.strip(),
    )
    if count := int(np.count_nonzero(table.duplicated(["ImageId", "EncodedPixels"]))):
        report.note("equal rows of one image", count)
    ids, runs = [], []
    for image_id, texts in table.groupby("ImageId", sort=False)["EncodedPixels"]:
        different = tuple(dict.fromkeys(texts))
        if NO_MASK in different and len(different) > 1:
            report.skip("both a mask and none for one image", image_id)
            continue
        ids.append(str(image_id))
        runs.append(() if different == (NO_MASK,) else different)
    if not ids:
        raise DataError(f"{path} has no usable row; left out: {dict(report.skipped)}")
    images = index_images(home, IMAGES, report)
    there = located(ids, images, report, lambda name: str(home / IMAGES / "<study>" / "<series>" / f"{name}.dcm"))
    frame = pd.DataFrame({"image_id": [ids[row] for row in there]})
    frame["image"] = [images[name] for name in frame["image_id"]]
    frame["target"] = [int(bool(runs[row])) for row in there]
    frame.insert(0, "subject", [_study(home, Path(image)) for image in frame["image"]])
    report.used = len(frame)
    phantom = is_phantom(home) or made_up("siim", frame["image_id"])
    return SiimTable(
        frame, tuple(runs[row] for row in there), report, phantom, generator_of(home), frame_side(home, phantom=phantom)
    )


def masks_inside(table: SiimTable, drawn_on: DrawnOn = "challenge") -> tuple[SiimTable, list[tuple[int, int]]]:
    """Leaves out, and counts, images whose header cannot be read or whose mask cannot be theirs.

    Args:
        table: The table.
        drawn_on: Whose pixels the masks count.

    Returns:
        The rest, and the height and width of each image.

    Raises:
        DataError: The masks fit a smaller copy as they are, see
            :func:`~medgraft.benchmarks.cohorts.chest.challenge_frame.check_drawn_on`.
    """
    report = ReadReport(0, table.report.skipped.copy(), table.report.notes.copy())
    keep: list[int] = []
    shapes: list[tuple[int, int]] = []
    reach: list[float] = []
    sides: list[float] = []
    for row, path in enumerate(table.frame["image"]):
        try:
            shape = image_shape(path)
        except DataError as error:
            report.skip("image header unreadable", error)
            continue
        if table.runs[row]:
            try:
                table.mask(row, shape, drawn_on)
            except DataError as error:
                report.skip(error.reason or "mask damaged or larger than the image", error)
                continue
            # Had the runs been counted on a smaller square, the last would end within its number of pixels.
            reach.append(float(np.sqrt(max(_end(text) for text in table.runs[row]))))
            sides.append(shape[0])
        keep.append(row)
        shapes.append(shape)
    if drawn_on == "challenge" and table.frame_side is not None:
        check_drawn_on(table.frame_side, reach, sides, "the masks of the table")
        if resized := sum(side != table.frame_side for side in sides):
            report.note("masks resampled to an image of another size than the challenge's", resized)
    return replace(table, report=report).rows(keep), shapes


def _end(runs: str) -> int:
    """Pixels up to the end of the last run."""
    return sum(map(int, runs.split()))


def _study(home: Path, image: Path) -> str:
    """The study folder of an image in the challenge's tree; the image itself in a flat copy."""
    inside = image.relative_to(home).parts
    return inside[-3] if len(inside) >= 4 else image.stem
