"""Spellings of ADNI's exports: columns, dates and subject numbers, and what no spelling settles."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_adni import image_path, make_loni, merge_row, search_row, write_nifti

from medgraft.benchmarks.cohorts.adni.columns import (
    SEARCH_ALIASES,
    read_spelled,
    renamed,
    roster_key,
    subject_id,
    to_dates,
)
from medgraft.benchmarks.cohorts.adni.merge import read_merge
from medgraft.benchmarks.cohorts.adni.reader import read_adni
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import DataError

DAY = pd.Timestamp("2006-04-18")


def dates(*texts: str) -> list[pd.Timestamp]:
    return to_dates(pd.Series(texts, dtype=object), ReadReport()).tolist()


# --- dates ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["4/18/2006", "04/18/2006", "4/18/06", "2006-04-18", "2006/4/18", "2006-04-18T08:20:30", "2006-04-18 08:20:30.0",
     "18-Apr-2006", "Apr 18, 2006", "April 18, 2006", "18 Apr 2006", "20060418", "18.04.2006", " 4/18/2006 "],
)  # fmt: skip
def test_every_form_of_one_day(text):
    assert dates(text) == [DAY]


@pytest.mark.parametrize("text", ["someday", "", "38825", "13/13/2006", "2006-13-01", "4/31/2006", "2006"])
def test_what_is_no_date_stays_missing(text):
    assert pd.isna(dates(text)[0])


def test_numbers_are_month_first_as_the_archive_writes_them():
    assert dates("3/02/2007")[0] == pd.Timestamp("2007-03-02")


def test_a_column_may_show_that_its_days_come_first():
    report = ReadReport()
    found = to_dates(pd.Series(["18/04/2006", "02/03/2007"]), report)
    assert found.tolist() == [DAY, pd.Timestamp("2007-03-02") - pd.Timedelta(0)]
    assert found[1].month == 3 and report.notes["date with the day before the month, as other dates of its column show"]


def test_a_column_that_shows_both_orders_is_month_first_and_the_rest_is_missing():
    found = dates("18/04/2006", "4/18/2006", "02/03/2007")
    assert pd.isna(found[0]) and found[1] == DAY and found[2] == pd.Timestamp("2007-02-03")


@given(st.dates(min_value=pd.Timestamp("2004-01-01").date(), max_value=pd.Timestamp("2039-12-31").date()))
def test_unambiguous_forms_round_trip(day):
    forms = [day.isoformat(), f"{day:%d-%b-%Y}", f"{day:%Y%m%d}", f"{day:%d.%m.%Y}"]
    assert set(dates(*forms)) == {pd.Timestamp(day)}


# --- subjects ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["002_S_0295", "002_s_0295", "002S0295", "2-S-295", "sub-ADNI002S0295", " 002_S_0295"])
def test_every_form_of_one_subject(text):
    assert subject_id(text) == "002_S_0295" and roster_key(subject_id(text)) == "RID 295"


@pytest.mark.parametrize("text", ["295", "sub-01", "OAS30001", ""])
def test_other_numbers_are_left_as_they_are(text):
    assert subject_id(text) == roster_key(text) == text


@given(st.integers(1, 999), st.integers(1, 99_999))
def test_subjects_are_normalised_once(site, roster):
    subject = f"{site:03d}_S_{roster:04d}"
    assert subject_id(subject) == subject_id(subject.lower()) == subject and roster_key(subject) == f"RID {roster}"


# --- columns ----------------------------------------------------------------------------------------------------------


def test_a_columns_own_name_wins_over_its_aliases():
    table = renamed(pd.DataFrame([{"PTID": "a", "Subject": "b", "gender": "F"}]), SEARCH_ALIASES)
    assert table["Subject"].tolist() == ["b"] and table["Sex"].tolist() == ["F"] and "PTID" in table


def test_what_is_missing_is_named_with_what_is_there(tmp_path):
    (tmp_path / "a.csv").write_text("dx.bl,RID\nCN,1\n")
    with pytest.raises(DataError, match=r"a\.csv has no column DX; it has: DX_bl, RID"):
        read_spelled(tmp_path / "a.csv", ("DX",), {"DX_bl": ()})


def test_the_advanced_search_of_the_archive(tmp_path):
    row = search_row()
    advanced = {
        "Subject ID": row["Subject"], "Project": "ADNI", "Phase": "ADNI 1", "Sex": "M", "Research Group": "LMCI",
        "Visit": "ADNI Screening", "Study Date": "2006-04-18", "Age": "84.8", "Modality": "MRI",
        "Description": row["Description"], "Type": "Processed", "Image ID": 101,
        "Imaging Protocol": "Plane=SAGITTAL;Field Strength=1.5;Manufacturer=SIEMENS;Mfg Model=Symphony;TE=3.6",
    }  # fmt: skip
    pd.DataFrame([advanced]).to_csv(tmp_path / "idaSearch_4_18_2024.csv", index=False)
    write_nifti(image_path(tmp_path, 101))
    found = read_adni(tmp_path).frame.iloc[0]
    assert (found["dx"], found["dx_source"], found["sex"], found["acq_date"]) == ("MCI", "research group", "M", DAY)
    assert (found["field_strength"], found["manufacturer"], found["scanner_model"]) == (1.5, "SIEMENS", "Symphony")


def test_adnimerge_exported_from_r(tmp_path):
    row = merge_row()
    dotted = {name.replace("_", ".").upper() if name != "DX" else "DX": value for name, value in row.items()}
    dotted = {"": 1, **dotted, "YEARS.BL": 0.5}
    pd.DataFrame([dotted]).to_csv(tmp_path / "adnimerge.csv", index=False)
    found = read_merge(tmp_path / "adnimerge.csv", ReadReport()).iloc[0]
    assert (found["subject"], found["dx"], found["MMSE"], found["age"]) == ("002_S_0295", "CN", 28, 85.3)


def test_a_table_that_knows_people_by_roster_number_only(tmp_path):
    merge = merge_row(uid=None) | {"RID": 295}
    del merge["PTID"]
    later = merge | {"VISCODE": "m12", "M": 12, "EXAMDATE": "2007-04-18", "DX": "MCI"}
    table = read_adni(make_loni(tmp_path, [search_row()], [merge, later]))
    assert table.frame[["subject", "dx", "dx_source", "MMSE"]].values.tolist() == [
        ["002_S_0295", "CN", "nearest visit", 28]
    ]
    assert table.visits.values.tolist() == [["002_S_0295", 0.0, "CN"], ["002_S_0295", 12.0, "MCI"]]


def test_a_table_without_any_number_of_people_is_refused(tmp_path):
    merge = merge_row()
    del merge["PTID"]
    pd.DataFrame([merge]).to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(DataError, match=r"a\.csv has no column PTID, nor RID"):
        read_merge(tmp_path / "a.csv", ReadReport())


def test_the_code_common_to_all_phases_comes_before_the_phases_own(tmp_path):
    raw = merge_row(VISCODE="v05", VISCODE2="m12", M="", Month="")
    pd.DataFrame([raw]).to_csv(tmp_path / "a.csv", index=False)
    assert read_merge(tmp_path / "a.csv", ReadReport())["month"].tolist() == [12.0]


def test_numbers_that_no_test_gives_are_missing_and_counted(tmp_path):
    table = read_adni(make_loni(tmp_path, [search_row()], [merge_row(MMSE=282, APOE4=3, AGE=848, Hippocampus=2)]))
    row = table.frame.iloc[0]
    assert row[["MMSE", "apoe4", "Hippocampus"]].isna().all() and row["age"] == 84.0, "the search table's age is left"
    assert set(table.report.notes) == {
        f"{name} out of its range; treated as missing" for name in ("MMSE", "apoe4", "age", "Hippocampus")
    }


# --- files ------------------------------------------------------------------------------------------------------------


def test_one_image_number_on_two_different_files_is_neither(tmp_path):
    rows = [search_row(), search_row(102, "003_S_0001")]
    root = make_loni(tmp_path, rows, [merge_row(), merge_row(102, "003_S_0001")])
    write_nifti(image_path(root, 101).with_name("ADNI_002_S_0295_MR_Another_Br_1_S1_I101.nii"))
    table = read_adni(root)
    assert table.frame["image_id"].tolist() == ["102"]
    assert table.report.skipped == {"image number of several different files": 1}


def test_a_compressed_copy_of_a_file_is_one_image(tmp_path):
    root = make_loni(tmp_path, [search_row()], [merge_row()])
    write_nifti(image_path(root, 101, suffix="nii.gz"))
    report = read_adni(root).report
    assert report.used == 1 and report.notes == {"copy of an image file; one of them is used": 1}


def test_a_file_of_somebody_else_is_left_out(tmp_path):
    root = make_loni(tmp_path, [search_row(), search_row(102, "003_S_0001")], [merge_row()], images=[101])
    write_nifti(image_path(root, 102, "004_S_0009"))
    assert read_adni(root).report.skipped == {"image file that is named after another subject": 1}


def test_variants_of_a_scan_share_scan_and_diagnosis(tmp_path):
    kinds = ["MPR; GradWarp; B1 Correction; N3; Scaled", "MPR; ; N3; Scaled", "MP-RAGE"]
    rows = [search_row(101 + i, Description=kind) for i, kind in enumerate(kinds)]
    rows += [search_row(110, **{"Acq Date": "4/20/2007", "Visit": "m12"})]
    merge = [merge_row(103), merge_row(110, VISCODE="m12", M=12, EXAMDATE="2007-04-20", DX="MCI")]
    root = make_loni(tmp_path, rows, merge)
    frame = read_adni(root, variants=True).frame
    assert frame["scan"].tolist() == [0, 0, 0, 1] and frame["variant"].tolist() == [0, 1, 2, 0]
    assert frame["description"].tolist()[:3] == kinds and frame["dx"].tolist() == ["CN"] * 3 + ["MCI"]
    assert set(frame["dx_source"]) == {"ADNIMERGE DX"}, "the number in ADNIMERGE is that of one variant"
    assert read_adni(root).frame["variant"].tolist() == [0, 0]


def test_follow_up_without_images_is_kept(tmp_path: Path):
    later = [merge_row(None, VISCODE=f"m{m}", M=m, EXAMDATE="", DX=dx) for m, dx in ((24, "MCI"), (36, "Dementia"))]
    visits = read_adni(make_loni(tmp_path, [search_row()], [merge_row(), *later])).visits
    assert visits["month"].tolist() == [0, 24, 36] and visits["dx"].tolist() == ["CN", "MCI", "AD"]
