"""NIH ChestX-ray14: findings by name, the official split, and rows that cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.chest.nih import NIH_14, read_nih
from medgraft.errors import DataError

TABLE = "Data_Entry_2017.csv"


@pytest.fixture
def copy(nih_cohort: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(nih_cohort, tmp_path / "copy"))


def rewrite(copy: Path, change) -> None:
    table = pd.read_csv(copy / TABLE)
    change(table)
    table.to_csv(copy / TABLE, index=False)


def test_findings_are_those_of_the_table(nih_cohort):
    read = read_nih(nih_cohort)
    stated = pd.read_csv(nih_cohort / TABLE)["Finding Labels"]
    for name in NIH_14:
        assert read.frame[name].tolist() == [float(name in labels.split("|")) for labels in stated]
    assert read.labels().sum() > 0 and set(read.frame["view"]) <= {"AP", "PA"} and read.phantom


def test_the_split_is_the_lists_and_by_patient(nih_cohort):
    frame = read_nih(nih_cohort).frame
    assert set(frame["split"]) == {"train", "test"}
    assert not set(frame.query("split == 'train'")["subject"]) & set(frame.query("split == 'test'")["subject"])


def test_a_patient_on_both_lists_is_an_error(copy):
    names = (copy / "train_val_list.txt").read_text().split()
    patient = next(name[:8] for name in names if sum(other[:8] == name[:8] for other in names) > 1)
    mine = [name for name in names if name.startswith(patient)]
    (copy / "train_val_list.txt").write_text("\n".join(name for name in names if name != mine[0]))
    with (copy / "test_list.txt").open("a") as handle:
        handle.write(mine[0] + "\n")
    with pytest.raises(DataError, match=r"1 patients of .* are on both lists"):
        read_nih(copy)


def test_one_list_without_the_other_is_an_error(copy):
    (copy / "test_list.txt").unlink()
    with pytest.raises(DataError, match=r"no test_list\.txt beside the other list"):
        read_nih(copy)


@pytest.mark.parametrize(
    ("value", "reason"),
    [("Pneumonia|Flu", "finding unknown or contradictory"), ("No Finding|Mass", "finding unknown or contradictory")],
)
def test_an_unknown_finding_is_left_out_and_counted(copy, value, reason):
    rewrite(copy, lambda table: table.__setitem__("Finding Labels", [value, *table["Finding Labels"][1:]]))
    read = read_nih(copy)
    assert read.report.skipped == {reason: 1} and read.report.used == 15


def test_ages_of_both_releases_are_years_and_impossible_ones_unknown(copy):
    ages = ["058Y", "413", "61", *["70"] * 13]
    rewrite(copy, lambda table: table.__setitem__("Patient Age", ages))
    read = read_nih(copy).frame["age"]
    assert read[0] == 58 and pd.isna(read[1]) and read[2] == 61


def test_one_folder_of_images_is_read_as_well(copy):
    (copy / "images").mkdir()
    for path in list(copy.glob("images_*/images/*.png")):
        shutil.move(path, copy / "images" / path.name)
    assert len(read_nih(copy).frame) == 16


@pytest.mark.parametrize("column", ["Finding Labels", "Patient ID"])
def test_two_rows_of_an_image_that_differ_are_left_out(copy, column):
    table = pd.read_csv(copy / TABLE)
    other = "Hernia" if column == "Finding Labels" else 90_099
    pd.concat([table, table.iloc[:1], table.iloc[1:2].assign(**{column: other})]).to_csv(copy / TABLE, index=False)
    read = read_nih(copy)
    assert read.report.skipped == {"duplicate row": 1, "two rows for the image that differ": 2}
    assert len(read.frame) == 15


def test_the_order_of_findings_makes_no_difference(copy):
    table = pd.read_csv(copy / TABLE)
    table.loc[0, "Finding Labels"] = "Mass|Edema"
    pd.concat([table, table.iloc[:1].assign(**{"Finding Labels": "Edema|Mass"})]).to_csv(copy / TABLE, index=False)
    assert read_nih(copy).report.skipped == {"duplicate row": 1}


def test_an_image_on_both_lists_is_an_error(copy):
    first = (copy / "train_val_list.txt").read_text().splitlines()[0]
    with (copy / "test_list.txt").open("a") as handle:
        handle.write(f"\n{first}\n")
    with pytest.raises(DataError, match="1 images are on both lists"):
        read_nih(copy)


@pytest.mark.parametrize(
    ("age", "years"), [("058Y", 58), ("58", 58), ("006M", 0.5), ("058", 58), ("414Y", None), ("x", None)]
)
def test_ages_with_and_without_a_unit(copy, age, years):
    rewrite(copy, lambda table: table.__setitem__("Patient Age", [age] * len(table)))
    found = read_nih(copy).frame["age"]
    assert found.isna().all() if years is None else (found == years).all()


def test_the_download_comes_before_a_smaller_copy_of_it_whatever_the_folders_are_called(copy):
    before = read_nih(copy).frame["image"].tolist()
    for name in ("224", "a_copy", "zz", "derivatives/clahe", "img_png"):
        (copy / name).mkdir(parents=True)
        shutil.copy(before[0], copy / name / Path(before[0]).name)
    read = read_nih(copy)
    assert read.frame["image"].tolist() == before
    assert read.report.notes["further image of the same name; the cohort's own is used"] == 5
