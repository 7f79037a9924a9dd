"""Search tables of one download in several wordings, the archive's newer table, and where ADNIMERGE may lie."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from test_adni import image_path, make_loni, merge_row, search_row, write_nifti

from medgraft.benchmarks.cohorts.adni.reader import read_adni
from medgraft.errors import DataError

ADVANCED = {
    "Image ID": "101", "Subject ID": "002_S_0295", "Research Group": "CN", "Visit": "ADNI Screening", "Sex": "F",
    "Study Date": "2006-04-18", "Age": 84.4, "Modality": "MRI",
    "Description": "MPR__GradWarp__B1_Correction__N3__Scaled",
    "Imaging Protocol": "Field Strength=1.5;Manufacturer=GE MEDICAL SYSTEMS;Mfg Model=SIGNA",
}  # fmt: skip
ALL_IMAGES = {
    "subject_id": "002_S_0295", "image_id": 101, "VISCODE2": "bl", "image_date": "2006-04-18",
    "image_type": "Processed",
    "image_description": "MPR; GradWarp; B1 Correction; N3; Scaled", "study_id": 1,
}  # fmt: skip


def add(root: Path, name: str, *rows: dict[str, Any]) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(root / name, index=False)


# --- two tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", ["a.csv", "z.csv"])
@pytest.mark.parametrize("merged", [True, False])
def test_two_wordings_of_one_image_are_one(tmp_path, first, merged):
    root = make_loni(tmp_path, [search_row(Sex="F")], [merge_row(PTGENDER="Female")] if merged else None)
    add(root, first, ADVANCED)
    table = read_adni(root)
    (row,) = table.frame.to_dict("records")
    assert table.report.skipped == {"duplicate row of the search table": 1}
    assert (row["dx"], row["manufacturer"], row["scanner_model"]) == ("CN", "GE MEDICAL SYSTEMS", "SIGNA")
    assert (row["sex"], row["field_strength"], row["image_id"]) == ("F", 1.5, "101")


@pytest.mark.parametrize(
    "change",
    [{"Subject ID": "003_S_0001"}, {"Study Date": "2007-04-18"}, {"Research Group": "AD"}],
)
def test_another_subject_date_or_diagnosis_is_a_contradiction(tmp_path, change):
    root = make_loni(tmp_path, [search_row(), search_row(102, "003_S_0001")], None)
    add(root, "a.csv", ADVANCED | change)
    table = read_adni(root)
    assert table.report.skipped == {"image listed with contradicting rows": 2}
    assert table.frame["subject"].tolist() == ["003_S_0001"]


@pytest.mark.parametrize(
    "change", [{"Study Date": ""}, {"Research Group": "Patient"}, {"Research Group": ""}, {"Visit": ""}]
)
def test_what_one_table_leaves_open_the_other_says(tmp_path, change):
    root = make_loni(tmp_path, [search_row(Sex="F")], None)
    add(root, "a.csv", ADVANCED | change)
    table = read_adni(root)
    assert table.frame["dx"].tolist() == ["CN"] and table.report.skipped == {"duplicate row of the search table": 1}


def test_facts_that_differ_are_missing_and_counted(tmp_path):
    root = make_loni(tmp_path, [search_row()], None)
    add(root, "a.csv", ADVANCED | {"Age": 70})
    table = read_adni(root)
    assert table.frame["sex"].tolist() == [None] and table.frame["age"].isna().all()
    assert table.report.notes["image listed with different sex; it is treated as missing"] == 1
    assert table.report.notes["image listed with different age; it is treated as missing"] == 1


# --- the newer table --------------------------------------------------------------------------------------------------


def test_all_images_has_no_group_and_adnimerge_decides(tmp_path):
    root = make_loni(tmp_path, [search_row()], [merge_row(DX="MCI")])
    (root / "my_collection_4_18_2024.csv").unlink()
    add(root, "All_Images_15Dec2025.csv", ALL_IMAGES)
    (row,) = read_adni(root).frame.to_dict("records")
    assert (row["dx"], row["dx_source"], row["acq_date"]) == ("MCI", "ADNIMERGE DX", pd.Timestamp("2006-04-18"))


def test_all_images_without_adnimerge_says_what_is_missing(tmp_path):
    root = make_loni(tmp_path, [search_row()], None)
    (root / "my_collection_4_18_2024.csv").unlink()
    add(root, "All_Images_15Dec2025.csv", ALL_IMAGES)
    with pytest.raises(
        DataError, match=r"no diagnosis for the visit: 1\); no ADNIMERGE table was found in it, above it"
    ):
        read_adni(root)


def test_all_images_beside_a_collection_takes_its_group(tmp_path):
    root = make_loni(tmp_path, [search_row()], None)
    add(root, "All_Images_15Dec2025.csv", ALL_IMAGES)
    table = read_adni(root)
    assert table.frame["dx"].tolist() == ["CN"] and table.frame["dx_source"].tolist() == ["research group"]
    assert [note for note in table.report.notes if note.startswith("no ADNIMERGE table")]


# --- where tables lie -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["tables", "Study_Info", "clinical/2024/csv", "sourcedata"])
def test_adnimerge_in_a_sub_folder_is_found(tmp_path, home):
    root = make_loni(tmp_path / "data", [search_row()], None)
    add(root, f"{home}/ADNIMERGE_02Apr2024.csv", merge_row(DX="MCI"))
    assert read_adni(root).frame["dx_source"].tolist() == ["ADNIMERGE DX"]


def test_one_beside_the_images_comes_before_one_in_a_sub_folder(tmp_path):
    root = make_loni(tmp_path / "data", [search_row()], [merge_row(DX="CN")])
    add(root, "old/ADNIMERGE_02Apr2024.csv", merge_row(DX="MCI"))
    assert read_adni(root).frame["dx"].tolist() == ["CN"]


def test_a_search_table_in_a_sub_folder_is_found(tmp_path):
    root = make_loni(tmp_path / "data", [search_row()], None)
    (root / "tables").mkdir()
    (root / "my_collection_4_18_2024.csv").rename(root / "tables" / "search.csv")
    assert read_adni(root).frame["dx"].tolist() == ["CN"]


# --- copies of an image -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("home", ["derivatives/n4", "Derivatives", "sourcedata", ".hidden"])
def test_a_computed_copy_never_takes_the_place_of_the_download(tmp_path, home):
    root = make_loni(tmp_path, [search_row()], [merge_row()])
    original = image_path(root, 101)
    write_nifti(root / home / original.name, 9.0, shape=(5, 5, 5))
    assert read_adni(root).frame["image"].tolist() == [str(original)]


def test_two_different_files_of_one_name_are_ambiguous(tmp_path):
    root = make_loni(tmp_path, [search_row(), search_row(102, "003_S_0001")], None)
    write_nifti(root / "again" / image_path(root, 101).name, 9.0, shape=(5, 5, 5))
    table = read_adni(root)
    assert table.report.skipped["image number of several different files"] == 1 and len(table.frame) == 1


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", ["84Y", "084Y", "84 years", "84 yrs", "1008 months", "84"])
def test_ages_with_their_unit(tmp_path, age):
    table = read_adni(make_loni(tmp_path, [search_row()], [merge_row(AGE=age)]))
    assert table.frame["age"].tolist() == [84]
    assert table.report.notes.get("age given with its unit", 0) == (age != "84")


@pytest.mark.parametrize(("code", "sex"), [(1, "M"), (2, "F"), ("2.0", "F"), (3, None), ("x", None), ("-4", None)])
def test_sexes_as_numbers(tmp_path, code, sex):
    table = read_adni(make_loni(tmp_path, [search_row(Sex="")], [merge_row(PTGENDER=code)]))
    assert table.frame["sex"].tolist() == [sex]
    assert table.report.notes["sex given as a number; 1 is male and 2 female, as in ADNI's own tables"] == (
        sex is not None
    )
    assert table.report.notes["sex not understood; treated as missing"] == (code in (3, "x"))


@pytest.mark.parametrize(
    ("date", "counted"), [("20060418", False), (20060418.0, False), (38825, True), (1145318400, True), ("soon", True)]
)
def test_dates_as_numbers_are_days_of_the_calendar_or_counted(tmp_path, date, counted):
    rows = [merge_row(EXAMDATE=date, IMAGEUID=""), merge_row(None, VISCODE="m06", EXAMDATE="", DX="")]
    table = read_adni(make_loni(tmp_path, [search_row()], rows))
    assert table.frame["dx_source"].tolist() == ["research group" if counted else "nearest visit"]
    assert table.report.notes["date not understood; treated as missing"] == counted
