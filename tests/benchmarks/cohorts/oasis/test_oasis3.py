"""OASIS-3 as it is distributed: a scan's label is that of the nearest clinical visit within a year."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from oasis_data import t1w, visit3, write

from medgraft.benchmarks.cohorts.oasis.reader import STRANGER, TOO_FAR, read_oasis
from medgraft.benchmarks.cohorts.oasis.tables import find_tables, tables_digest
from medgraft.errors import DataError

DEEP = Path("OASIS3_data_files", "scans", "UDSb4-Form_B4", "resources", "csv", "files", "OASIS3_UDSb4_cdr.csv")
PEOPLE = Path("OASIS3_data_files", "scans", "demo-demographics", "resources", "csv", "files", "OASIS3_demographics.csv")


def person(subject: str, **other) -> dict:
    return {"OASISID": f"OAS3{subject}", "AgeatEntry": 70.5, "GENDER": 2, "EDUC": 16, "APOE": 34} | other


def oasis3(root: Path, visits: list[dict], days: dict[str, list[int]], people: list[dict] | None = None) -> Path:
    """OASIS-3 with these clinical visits and scans on these days of each subject."""
    write(root / DEEP, visits)
    if people:
        write(root / PEOPLE, people)
    for subject, each in days.items():
        for day in each:
            t1w(root, subject, day)
    return root


@pytest.mark.parametrize(
    ("day", "dx"), [(0, "CN"), (99, "CN"), (101, "MCI"), (200, "MCI"), (299, "MCI"), (301, "AD"), (765, "AD")]
)
def test_the_nearest_visit_decides(tmp_path, day, dx):
    visits = [visit3("0001", 0, 0), visit3("0001", 200, 0.5), visit3("0001", 400, 1)]
    table = read_oasis(oasis3(tmp_path, visits, {"0001": [day]}))
    assert table.frame["dx"].tolist() == [dx] and table.frame["dx_source"].tolist() == ["CDR of the nearest visit"]


@pytest.mark.parametrize(("day", "kept"), [(500, True), (865, True), (866, False), (135, True), (134, False)])
def test_a_year_is_the_furthest(tmp_path, day, kept):
    root = oasis3(tmp_path, [visit3("0001", 500, 0)], {"0001": [day], "0002": [1]})
    write(root / DEEP, [visit3("0001", 500, 0), visit3("0002", 1, 1)])
    table = read_oasis(root)
    assert ("OAS30001" in set(table.frame["subject"])) is kept
    assert dict(table.report.skipped) == ({} if kept else {TOO_FAR: 1})


def test_of_two_visits_as_near_the_earlier_one_counts(tmp_path):
    table = read_oasis(oasis3(tmp_path, [visit3("0001", 200, 1), visit3("0001", 0, 0)], {"0001": [100]}))
    assert table.frame["dx"].tolist() == ["CN"]


def test_a_visit_without_a_rating_is_passed_over(tmp_path):
    visits = [visit3("0001", 0, 0.5), visit3("0001", 90, None)]
    assert read_oasis(oasis3(tmp_path, visits, {"0001": [100]})).frame["dx"].tolist() == ["MCI"]


def test_strangers_and_contradictions_are_counted(tmp_path):
    visits = [visit3("0001", 0, 0), visit3("0001", 0, 1), visit3("0001", 300, 0.5), visit3("0003", 0, 0),
              visit3("0003", 0, 0)]  # fmt: skip
    table = read_oasis(oasis3(tmp_path, visits, {"0001": [10], "0002": [5], "0003": [0]}))
    assert dict(zip(table.frame["subject"], table.frame["dx"], strict=True)) == {"OAS30001": "MCI", "OAS30003": "CN"}
    assert table.report.skipped == {STRANGER: 1, "duplicate row of the clinical table": 2}
    assert table.report.notes["clinical visit with two different labels; it is not used"] == 1


def test_people_and_scores_join_by_subject(tmp_path):
    visits = [visit3("0001", 360, 0.5, MMSE=25, CDRSUM=2.5)]
    root = oasis3(tmp_path, visits, {"0001": [400]}, [person("0001"), person("0002", GENDER=1)])
    row = read_oasis(root).frame.iloc[0]
    assert (row["sex"], row["education"], row["apoe4"], row["MMSE"], row["CDRSB"]) == ("F", 16, 1, 25, 2.5)
    assert row["age"] == pytest.approx(70.5 + 400 / 365.25) and row["month"] == pytest.approx(400 / 30.4375)
    assert row["session"] == "d0400"


def test_without_a_table_of_people_the_age_is_the_visits(tmp_path):
    row = read_oasis(oasis3(tmp_path, [visit3("0001", 360, 0)], {"0001": [400]})).frame.iloc[0]
    assert row["age"] == pytest.approx(70 + 400 / 365.25) and row["sex"] is None and np.isnan(row["education"])


def test_scanners_come_from_sidecars_and_else_from_their_table(tmp_path):
    root = oasis3(tmp_path, [visit3("0001", 0, 0), visit3("0002", 0, 0)], {"0001": [0], "0002": [0]})
    image = t1w(root, "0001", 0)
    image.with_name(image.name.replace(".nii.gz", ".json")).write_text(
        json.dumps({"MagneticFieldStrength": 3, "Manufacturer": "Siemens", "ManufacturersModelName": "TrioTim"})
    )
    write(root / "OASIS3_MR_json.csv", [{"label": f"OAS3000{k}_MR_d0000", "MagneticFieldStrength": 1.5,
                                         "Manufacturer": "Siemens", "ManufacturersModelName": "Sonata"}
                                        for k in (1, 2)])  # fmt: skip
    frame = read_oasis(root).frame
    assert frame["field_strength"].tolist() == [3, 1.5]
    assert frame["scanner"].tolist() == ["Siemens TrioTim", "Siemens Sonata"]


def test_the_older_table_is_read_too(tmp_path):
    t1w(tmp_path, "0001", 129)
    t1w(tmp_path, "0001", 757)
    visit = {"Subject": "OAS30001", "Date": None, "Age": None, "mmse": 28, "ageAtEntry": 65.19, "dx1": ".",
             "sumbox": 0, "apoe": 23, "M/F": "F"}  # fmt: skip
    write(tmp_path / "ADRC Clinical Data.csv", [
        visit | {"ADRC_ADRCCLINICALDATA ID": "OAS30001_ClinicalData_d0000", "cdr": 0},
        visit | {"ADRC_ADRCCLINICALDATA ID": "OAS30001_ClinicalData_d0722", "cdr": 0.5, "mmse": "."},
    ])  # fmt: skip
    frame = read_oasis(tmp_path).frame
    assert frame["dx"].tolist() == ["CN", "MCI"] and frame["apoe4"].tolist() == [0, 0]
    assert frame["sex"].tolist() == ["F", "F"]
    np.testing.assert_allclose(frame["age"], [65.19 + 129 / 365.25, 65.19 + 757 / 365.25])
    assert np.isnan(frame["MMSE"][1])


def test_of_several_runs_the_first_counts(tmp_path):
    root = oasis3(tmp_path, [visit3("0001", 0, 0)], {})
    t1w(root, "0001", 5, "_run-02", "anat3")
    t1w(root, "0001", 5, "_run-01", "anat2")
    t1w(root, "0001", 5, "_acq-other", "anat1")
    table = read_oasis(root)
    assert "_run-01_" in table.frame["image"][0]
    assert dict(table.report.skipped) == {"another image of the same session": 2}


@pytest.mark.parametrize(
    "path",
    [
        "OAS30001_MR_d0005/anat2/NIFTI/sub-OAS30001_ses-d0005_run-01_T1w.nii.gz",
        "sub-OAS30001/ses-d0005/anat/sub-OAS30001_ses-d0005_T1w.nii.gz",
        "flat/sub-OAS30001_sess-d0005_T1w.nii",
    ],
)
def test_images_go_by_their_names_wherever_they_lie(tmp_path, path):
    root = oasis3(tmp_path, [visit3("0001", 0, 0)], {})
    (root / path).parent.mkdir(parents=True)
    (root / path).touch()
    table = read_oasis(root)
    assert table.layout == "archive" and table.frame["session"].tolist() == ["d0005"]


def test_other_modalities_are_no_images(tmp_path):
    root = oasis3(tmp_path, [visit3("0001", 0, 0)], {"0001": [5]})
    for name in ("sub-OAS30001_ses-d0005_acq-TSE_T2w.nii.gz", "sub-OAS30001_ses-d0005_task-rest_bold.nii.gz"):
        (root / "OAS30001_MR_d0005" / "anat2" / name).touch()
    table = read_oasis(root)
    assert len(table.frame) == 1 and not table.report.skipped


def test_the_clinicians_diagnosis_is_a_label_of_its_own(tmp_path):
    visits = [visit3("0001", 0, 0), visit3("0002", 0, 0.5, dx1="AD Dementia"),
              visit3("0003", 0, 1, dx1="Vascular Demt- primary"), visit3("0004", 0, 1, dx1=None)]  # fmt: skip
    root = oasis3(tmp_path, visits, {f"000{k}": [0] for k in (1, 2, 3, 4)})
    table = read_oasis(root, labels="dx1")
    assert dict(zip(table.frame["subject"], table.frame["dx"], strict=True)) == {"OAS30001": "CN", "OAS30002": "AD"}
    assert table.report.skipped == {TOO_FAR: 2}


def test_forms_by_visit_say_nothing_of_people(tmp_path):
    root = oasis3(tmp_path, [visit3("0001", 0, 0)], {"0001": [0]}, [person("0001")])
    form = {"OASISID": "OAS30001", "OASIS_session_label": "OAS30001_UDSa1_d0000", "days_to_visit": 0}
    write(root / "OASIS3_UDSa1_participant_demo.csv", [form | {"SEX": 1, "EDUC": 3}])
    row = read_oasis(root).frame.iloc[0]
    assert (row["sex"], row["education"]) == ("F", 16)


def test_people_whose_tables_disagree_have_no_such_fact(tmp_path):
    root = oasis3(tmp_path, [visit3("0001", 0, 0)], {"0001": [0]}, [person("0001"), person("0001", EDUC=12)])
    table = read_oasis(root)
    assert table.frame["education"].isna().tolist() == [True] and table.frame["sex"].tolist() == ["F"]
    assert table.report.notes["person whose rows give different facts; they are not used"] == 1


def test_tables_of_a_folder_are_those_that_it_is_known_by(tmp_path):
    root = oasis3(tmp_path / "images", [visit3("0001", 0, 0)], {"0001": [0]}, [person("0001")])
    first = tables_digest(root)
    assert {found.kind for found in find_tables(root)} == {"visits", "people"} and len(first) == 64
    write(root / "notes.csv", [{"a": 1}])
    assert tables_digest(root) == first
    write(root / DEEP, [visit3("0001", 0, 0.5)])
    assert tables_digest(root) != first
    assert tables_digest(tmp_path / "empty") == ""


def test_no_table_is_said_with_its_name(tmp_path):
    t1w(tmp_path, "0001", 5)
    with pytest.raises(DataError, match=r"images of OASIS-3 and no table of it; put OASIS3_UDSb4_cdr\.csv"):
        read_oasis(tmp_path)
