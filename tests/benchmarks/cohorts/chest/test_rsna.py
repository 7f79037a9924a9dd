"""RSNA: boxes grouped by image, persons by the challenge's mapping, and rows that cannot be used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from medgraft.benchmarks.cohorts.chest import challenge_frame
from medgraft.benchmarks.cohorts.chest.rsna import CLASSES, IMAGES, LABELS, MAPPING, boxes_inside, read_rsna
from medgraft.benchmarks.cohorts.images.load import load_radiograph
from medgraft.benchmarks.phantoms.chest.layouts import boxes_of
from medgraft.errors import DataError


@pytest.fixture
def copy(rsna_cohort: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rsna_cohort, tmp_path / "copy"))


def rewrite(copy: Path, change) -> None:
    table = pd.read_csv(copy / LABELS)
    change(table)
    table.to_csv(copy / LABELS, index=False)


def test_boxes_are_corners_in_pixels_around_what_was_drawn(rsna_cohort):
    table = read_rsna(rsna_cohort)
    rows = pd.read_csv(rsna_cohort / LABELS)
    assert table.report.used == 16 and sum(map(len, table.boxes)) == int(rows["Target"].sum()) > 0
    for boxes, target in zip(table.boxes, table.frame["target"], strict=True):
        assert bool(len(boxes)) == bool(target) and (boxes[:, 2:] > boxes[:, :2]).all() and (boxes <= 64).all()
    assert (table.frame["finding"] == "Lung Opacity").tolist() == (table.frame["target"] == 1).tolist()
    assert load_radiograph(table.frame["image"][0]).shape == (64, 64)


def test_a_box_touches_its_part_of_a_mask():
    mask = np.zeros((40, 40), bool)
    mask[2:12, 5:9], mask[30:33, 20:30], mask[0, 39] = True, True, True  # the last is too small to be drawn
    assert boxes_of(mask).tolist() == [[5, 2, 4, 10], [20, 30, 10, 3]]


def test_the_classes_are_not_needed(copy):
    (copy / CLASSES).unlink()
    assert set(read_rsna(copy).frame["finding"]) == {""}


def test_the_mapping_tells_persons(copy):
    ids = read_rsna(copy).frame["image_id"].tolist()
    entries = [{"subset_img_id": name, "img_id": f"{i // 2:08d}_000.png"} for i, name in enumerate(ids[:4])]
    (copy / MAPPING).write_text(json.dumps(entries))
    read = read_rsna(copy)
    assert read.frame["subject"][:4].tolist() == ["nih00000000"] * 2 + ["nih00000001"] * 2
    assert read.report.notes == {"taken as a person of its own": 12}


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("Target", 2, "target other than 0 or 1"),
        ("x", np.nan, "positive without a box"),
        ("width", 0, "box without area"),
        ("y", -3, "box outside the image"),
        ("Target", 0, "box on a negative image"),
    ],
)
def test_a_row_that_cannot_be_right_is_left_out_and_counted(copy, column, value, reason):
    row = int(np.flatnonzero(pd.read_csv(copy / LABELS)["Target"] == 1)[0])
    rewrite(copy, lambda table: table.__setitem__(column, table[column].where(table.index != row, value)))
    read = read_rsna(copy)
    assert read.report.skipped == {reason: 1} and read.report.used == len(read.frame) == 15


def test_a_box_that_overruns_is_found_by_opening_the_image(copy):
    row = int(np.flatnonzero(pd.read_csv(copy / LABELS)["Target"] == 1)[0])
    rewrite(copy, lambda table: table.__setitem__("width", table["width"].where(table.index != row, 900)))
    kept, sizes = boxes_inside(read_rsna(copy))
    assert kept.report.skipped == {"box outside the image": 1} and len(kept.frame) == len(sizes) == 15
    assert (np.isnan(sizes[:, 0]) == (kept.frame["target"] == 0)).all()


def test_missing_images_are_counted_and_a_missing_column_is_one_sentence(copy):
    next((copy / IMAGES).iterdir()).unlink()
    assert read_rsna(copy.parent).report.skipped == {"image missing": 1}  # found one level below, too
    rewrite(copy, lambda table: table.pop("Target"))
    with pytest.raises(DataError, match=rf"{LABELS} has no column Target"):
        read_rsna(copy)


# --- resized copies ---------------------------------------------------------------------------------------------------


def resize(copy: Path, shape: tuple[int, int]) -> None:
    """Every image as a PNG of that height and width in the place of its DICOM file."""
    for path in list((copy / IMAGES).glob("*.dcm")):
        picture = Image.fromarray(load_radiograph(path)).resize((shape[1], shape[0]))
        picture.save(path.with_suffix(".png"))
        path.unlink()


@pytest.mark.parametrize("side", [16, 32, 48, 64, 96, 128])
def test_boxes_follow_a_square_image_of_any_size(copy, side):
    before = boxes_inside(read_rsna(copy))[0]
    resize(copy, (side, side))
    kept, sizes = boxes_inside(read_rsna(copy))
    assert sizes[~np.isnan(sizes[:, 0])].tolist() == [[side, side]] * sum(map(bool, map(len, before.boxes)))
    for old, new in zip(before.boxes, kept.boxes, strict=True):
        np.testing.assert_allclose(new, old * side / 64)
    scaled = kept.report.notes["boxes scaled to an image of another size than the challenge's"]
    assert scaled == (0 if side == 64 else sum(map(bool, map(len, before.boxes))))


@pytest.mark.parametrize("side", [256, 512, 1024, 2048])
def test_the_challenges_own_boxes_are_in_its_1024_pixels(copy, side, tmp_path):
    unmarked(copy)
    rewrite(copy, lambda table: table.update(table[["x", "y", "width", "height"]] * 16))
    resize(copy, (side, side))
    kept, _ = boxes_inside(read_rsna(copy))
    truth = np.concatenate([boxes for boxes in read_rsna(copy).boxes if len(boxes)]) * side / 1024
    np.testing.assert_allclose(np.concatenate([boxes for boxes in kept.boxes if len(boxes)]), truth)


def test_an_image_that_is_no_square_is_left_out(copy):
    resize(copy, (64, 48))
    with_boxes = sum(map(bool, map(len, read_rsna(copy).boxes)))
    kept, _ = boxes_inside(read_rsna(copy))
    reason = "image that is no square, so where its regions lie is not known"
    assert kept.report.skipped == {reason: with_boxes} and not any(map(len, kept.boxes))


def unmarked(copy: Path) -> None:
    """A copy as of real images: neither the marker nor the generator's names."""
    for marker in copy.glob("PHANTOM*"):
        marker.unlink()
    for path in [*(copy / IMAGES).iterdir()]:
        path.rename(path.with_name(path.name.replace("ffffffff", "0004cfab")))
    for name in (LABELS, CLASSES):
        (copy / name).write_text((copy / name).read_text().replace("ffffffff", "0004cfab"))


def test_boxes_that_someone_may_have_scaled_are_refused_until_the_user_says_so(copy, monkeypatch):
    unmarked(copy)
    whole = read_rsna(copy)
    assert whole.frame_side == 1024 and not whole.phantom
    monkeypatch.setattr(challenge_frame, "TELLING", 3)
    with pytest.raises(DataError, match=r"all end inside images of 64 pixels.*`drawn_on: copy`"):
        boxes_inside(whole)
    kept, _ = boxes_inside(whole, "copy")
    assert [box.tolist() for box in kept.boxes] == [box.tolist() for box in whole.boxes]


def test_a_phantom_without_its_marker_is_taken_as_it_is(copy):
    expected = boxes_inside(read_rsna(copy))[0].boxes
    (copy / "PHANTOM").unlink()
    found = boxes_inside(read_rsna(copy))[0].boxes
    assert [box.tolist() for box in found] == [box.tolist() for box in expected]


@pytest.mark.parametrize("name", ["00_png", "png_512", "zz", "derivatives/clahe"])
def test_the_challenges_dicom_files_come_before_pictures_of_them(copy, name):
    before = read_rsna(copy).frame["image"].tolist()
    (copy / name).mkdir(parents=True)
    Image.fromarray(load_radiograph(before[0])).resize((32, 32)).save(copy / name / f"{Path(before[0]).stem}.png")
    assert read_rsna(copy).frame["image"].tolist() == before


def test_an_image_of_two_readings_has_none(copy):
    table = pd.read_csv(copy / CLASSES)
    other = "Normal" if table["class"][0] != "Normal" else "Lung Opacity"
    pd.concat([table, table.iloc[:1].assign(**{"class": other})]).to_csv(copy / CLASSES, index=False)
    read = read_rsna(copy)
    assert read.frame.set_index("image_id")["finding"][table["patientId"][0]] == ""
