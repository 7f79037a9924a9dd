"""SIIM-ACR: the run-length code, several regions of one image, and rows that cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from medgraft.benchmarks.cohorts.chest import challenge_frame
from medgraft.benchmarks.cohorts.chest.challenge_frame import resampled
from medgraft.benchmarks.cohorts.chest.siim import masks_inside, read_siim, rle_decode, rle_encode
from medgraft.benchmarks.cohorts.images.load import load_radiograph
from medgraft.errors import DataError

MASKS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(bool, shape))


@given(MASKS)
@settings(deadline=None)
def test_decoding_undoes_encoding(mask):
    assert np.array_equal(rle_decode(rle_encode(mask), mask.shape), mask)


def test_runs_go_down_the_columns_and_offsets_start_at_the_last_end():
    mask = np.zeros((4, 3), bool)
    mask[1:3, 0], mask[0, 1] = True, True
    assert rle_encode(mask) == "1 2 1 1"


@pytest.mark.parametrize("text", ["-1", " -1", "-1 "])
def test_minus_one_is_no_mask_with_any_blanks(text):
    assert not rle_decode(text, (3, 3)).any()


@pytest.mark.parametrize("text", ["8 2", "0 10", "99999999999999999 1", "1", "1 x", "-2 3", ""])
def test_what_is_no_mask_of_this_image_is_an_error(text):
    with pytest.raises(DataError, match="mask"):
        rle_decode(text, (3, 3))


@pytest.fixture
def copy(siim_cohort: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(siim_cohort, tmp_path / "copy"))


def rewrite(copy: Path, change) -> None:
    path = copy / "train-rle.csv"
    table = pd.read_csv(path, dtype=str)
    change(table).to_csv(path, index=False)


def test_the_phantom_has_the_challenges_column_with_its_blank(siim_cohort):
    assert list(pd.read_csv(siim_cohort / "train-rle.csv").columns) == ["ImageId", " EncodedPixels"]


def test_regions_of_one_image_are_united(siim_cohort):
    table = read_siim(siim_cohort)
    several = [row for row, runs in enumerate(table.runs) if len(runs) > 1]
    assert several
    for row in several:
        parts = [rle_decode(text, (64, 64)) for text in table.runs[row]]
        assert table.mask(row, (64, 64)).sum() == sum(part.sum() for part in parts) > 0
    assert table.report.used == len(table.frame) == 16 and not table.report.skipped


def test_stage_two_names_and_flat_folders_are_read_too(copy):
    flat = copy / "stage_2_images"
    flat.mkdir()
    for path in list((copy / "dicom-images-train").rglob("*.dcm")):
        shutil.move(path, flat / path.name)
    table = pd.read_csv(copy / "train-rle.csv", dtype=str).rename(columns=str.strip)
    table.to_csv(copy / "stage_2_train.csv", index=False)
    (copy / "train-rle.csv").unlink()
    read = read_siim(copy)
    assert len(read.frame) == 16 and read.frame["subject"].tolist() == read.frame["image_id"].tolist()


def test_a_missing_image_is_counted_and_none_is_an_error(copy):
    paths = sorted((copy / "dicom-images-train").rglob("*.dcm"))
    paths[0].unlink()
    assert read_siim(copy).report.skipped == {"image missing": 1}
    shutil.rmtree(copy / "dicom-images-train")
    with pytest.raises(DataError, match="none of the 16 images is there"):
        read_siim(copy)


def test_a_mask_and_no_mask_for_one_image_contradict(copy):
    first = read_siim(copy).frame.query("target == 1")["image_id"].iloc[0]
    more = pd.DataFrame({"ImageId": [first], " EncodedPixels": ["-1"]})
    rewrite(copy, lambda table: pd.concat([table, more]))
    read = read_siim(copy)
    assert read.report.skipped == {"both a mask and none for one image": 1} and first not in set(read.frame["image_id"])


def test_a_mask_that_overruns_its_image_is_left_out_and_counted(copy):
    first = read_siim(copy).frame["image_id"].iloc[0]
    rewrite(copy, lambda table: table.assign(**{
        " EncodedPixels": table[" EncodedPixels"].where(table["ImageId"] != first, "4090 10")
    }))  # fmt: skip
    kept, shapes = masks_inside(read_siim(copy))
    assert kept.report.skipped == {"mask damaged or larger than the image": 1}
    assert len(kept.frame) == len(shapes) == 15 and set(shapes) == {(64, 64)}


def test_a_table_without_the_column_is_one_sentence(copy):
    rewrite(copy, lambda table: table.rename(columns={" EncodedPixels": "mask"}))
    with pytest.raises(DataError, match=r"train-rle\.csv has no column EncodedPixels"):
        read_siim(copy)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no stage_2_train\.csv or train-rle\.csv"):
        read_siim(tmp_path)


# --- resized copies ---------------------------------------------------------------------------------------------------


def resize(copy: Path, shape: tuple[int, int]) -> None:
    for path in list((copy / "dicom-images-train").rglob("*.dcm")):
        picture = Image.fromarray(load_radiograph(path)).resize((shape[1], shape[0]))
        picture.save(path.with_suffix(".png"))
        path.unlink()


def masks(table) -> list[np.ndarray]:
    kept, shapes = masks_inside(table)
    return [kept.mask(row, shape) for row, shape in enumerate(shapes)]


@pytest.mark.parametrize("side", [32, 64, 128, 192])
def test_masks_follow_a_square_image_of_any_size(copy, side):
    before = masks(read_siim(copy))
    resize(copy, (side, side))
    table = read_siim(copy)
    for old, new in zip(before, masks(table), strict=True):
        assert new.shape == (side, side)
        if side >= 64:
            assert np.array_equal(new, np.kron(old, np.ones((side // 64, side // 64), bool)))
        else:
            assert abs(new.mean() - old.mean()) < 0.02 and np.array_equal(new, old[1::2, 1::2])
    scaled = masks_inside(table)[0].report.notes["masks resampled to an image of another size than the challenge's"]
    assert scaled == (0 if side == 64 else sum(old.any() for old in before))


def test_an_image_with_a_mask_that_is_no_square_is_left_out(copy):
    resize(copy, (64, 48))
    table = read_siim(copy)
    kept, shapes = masks_inside(table)
    reason = "image that is no square, so where its regions lie is not known"
    assert kept.report.skipped == {reason: int(table.frame["target"].sum())} and set(shapes) == {(64, 48)}


def test_masks_that_someone_may_have_drawn_again_are_refused_until_the_user_says_so(copy, monkeypatch):
    expected = masks(read_siim(copy))
    for marker in copy.glob("PHANTOM*"):
        marker.unlink()
    rewrite(copy, lambda table: table.assign(ImageId=table["ImageId"].str.replace("2.25.999", "1.2.276")))
    for path in list(copy.rglob("*.dcm")):
        path.rename(path.with_name(path.name.replace("2.25.999", "1.2.276")))
    table = read_siim(copy)
    assert table.frame_side == 1024 and not table.phantom
    monkeypatch.setattr(challenge_frame, "TELLING", 3)
    with pytest.raises(DataError, match=r"all end inside images of 64 pixels.*`drawn_on: copy`"):
        masks_inside(table)
    kept, shapes = masks_inside(table, "copy")
    assert all(np.array_equal(kept.mask(row, shapes[row], "copy"), mask) for row, mask in enumerate(expected))


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40))
@settings(deadline=None)
def test_resampling_keeps_what_is_whole_and_what_is_empty(height, width, side):
    for value in (True, False):
        assert (resampled(np.full((height, width), value), (side, side)) == value).all()
