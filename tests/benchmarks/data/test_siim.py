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

from medgraft.benchmarks.data.siim import masks_inside, read_siim, rle_decode, rle_encode
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
