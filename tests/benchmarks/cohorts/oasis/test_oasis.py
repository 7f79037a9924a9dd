"""OASIS-1 and -2 as they are distributed: images found wherever they lie, rows by session, flaws counted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oasis_data import mpr, row1, row2, t1w, t88, touch, visit3, write, write_nifti

from medgraft.benchmarks.cohorts.oasis.labels import UNDER_AGE
from medgraft.benchmarks.cohorts.oasis.reader import CONTRADICTORY, NOT_LISTED, read_oasis
from medgraft.benchmarks.cohorts.volumes.load import load_volume
from medgraft.errors import DataError

CSV1, CSV2 = "oasis_cross-sectional.csv", "oasis_longitudinal.csv"


def oasis1(root: Path, rows: list[dict], images: list[str] | None = None) -> Path:
    """OASIS-1 with these rows, and the images of these or of all sessions."""
    for name in [row["ID"][5:] for row in rows] if images is None else images:
        t88(root, name)
    write(root / CSV1, rows)
    return root


def oasis2(root: Path, rows: list[dict]) -> Path:
    for row in rows:
        mpr(root, row["MRI ID"][5:])
    write(root / CSV2, rows)
    return root


def labels(root: Path, **options) -> dict[str, str]:
    rows = read_oasis(root, **options).frame.to_dict("records")
    return {f"{row['subject']}_{row['session']}": str(row["dx"]) for row in rows}


# --- OASIS-1 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cdr", "dx"), [(0, "CN"), (0.5, "MCI"), (1, "AD"), (2, "AD"), (3.0, "AD")])
def test_a_rating_stands_for_a_class(tmp_path, cdr, dx):
    assert labels(oasis1(tmp_path, [row1("0001_MR1", cdr)])) == {"OAS1_0001_MR1": dx}


def test_discs_are_found_at_any_depth_and_the_table_in_them_or_above(tmp_path):
    t88(tmp_path / "images" / "unpacked", "0001_MR1", "disc1")
    t88(tmp_path / "images" / "unpacked", "0002_MR1", "disc12")
    write(tmp_path / CSV1, [row1("0001_MR1"), row1("0002_MR1", 1)])
    expected = {"OAS1_0001_MR1": "CN", "OAS1_0002_MR1": "AD"}
    assert labels(tmp_path) == labels(tmp_path / "images") == expected
    shutil.move(tmp_path / CSV1, tmp_path / "images" / "unpacked" / "disc1" / "OASIS.csv")
    assert labels(tmp_path / "images") == expected


def test_facts_of_the_row_are_those_of_the_scan(tmp_path):
    table = read_oasis(oasis1(tmp_path, [row1("0001_MR1", 0.5, Age=81, MMSE=22, **{"M/F": "M"})]))
    row = table.frame.iloc[0]
    assert (row["subject"], row["session"], row["month"], row["sex"], row["age"], row["MMSE"]) == (
        "OAS1_0001", "MR1", 0, "M", 81, 22,
    )  # fmt: skip
    assert (row["eTIV"], row["nWBV"], row["cdr"], row["field_strength"]) == (1344, 0.743, 0.5, 1.5)
    assert (table.study, table.layout, table.phantom, row["dx_source"]) == ("oasis1", "archive", False, "CDR")


def test_education_is_a_level_in_oasis1_and_years_in_oasis2(tmp_path):
    first = read_oasis(oasis1(tmp_path / "1", [row1("0001_MR1", Educ=4)])).frame.iloc[0]
    second = read_oasis(oasis2(tmp_path / "2", [row2("0001", 1, 0, "Nondemented", EDUC=16)])).frame.iloc[0]
    assert np.isnan(first["education"]) and first["education_level"] == "college"
    assert second["education"] == 16 and second["education_level"] is None


def test_people_under_60_without_a_rating_are_left_out_or_normal_by_choice(tmp_path):
    blank = {"Educ": None, "SES": None, "MMSE": None}
    root = oasis1(tmp_path, [row1("0001_MR1", None, Age=23, **blank), row1("0002_MR1", None, Age=60, **blank),
                             row1("0003_MR1", 0)])  # fmt: skip
    table = read_oasis(root)
    assert list(table.frame["subject"]) == ["OAS1_0003"]
    assert dict(table.report.skipped) == {UNDER_AGE: 1, "no CDR at the visit": 1}
    chosen = read_oasis(root, unassessed="cn")
    assert dict(zip(chosen.frame["subject"], chosen.frame["dx_source"], strict=True)) == {
        "OAS1_0001": "under 60, not assessed", "OAS1_0003": "CDR",
    }  # fmt: skip
    assert dict(chosen.report.skipped) == {"no CDR at the visit": 1}


def test_a_repeated_scan_is_the_same_subject_with_the_first_sessions_rating(tmp_path):
    again = {"Educ": None, "SES": None, "MMSE": None}
    root = oasis1(tmp_path, [row1("0001_MR1", 0.5), row1("0001_MR2", None, Delay=40, **again),
                             row1("0002_MR1", 1), row1("0002_MR2", None, Delay=500, **again)])  # fmt: skip
    table = read_oasis(root)
    frame = table.frame.set_index(["subject", "session"])
    assert frame.loc[("OAS1_0001", "MR2"), ["dx", "MMSE", "dx_source"]].tolist() == [
        "MCI", 29, "CDR of the first session",
    ]  # fmt: skip
    assert 1 < frame.loc[("OAS1_0001", "MR2"), "month"] < 2
    assert ("OAS1_0002", "MR2") not in frame.index, "more than a year later"
    assert table.report.skipped["no CDR at the visit"] == 1


def test_nor_does_a_repeated_scan_take_what_the_first_does_not_have(tmp_path):
    root = oasis1(tmp_path, [row1("0001_MR1", None, Age=25), row1("0001_MR2", None, Age=25, Delay=10),
                             row1("0002_MR1")])  # fmt: skip
    assert read_oasis(root).report.skipped[UNDER_AGE] == 2


@pytest.mark.parametrize("halves", [("hdr",), ("img",)])
def test_half_a_pair_is_counted_once(tmp_path, halves):
    t88(tmp_path, "0001_MR1", halves=halves)
    table = read_oasis(oasis1(tmp_path, [row1("0001_MR1"), row1("0002_MR1")], ["0002_MR1"]))
    assert dict(table.report.skipped) == {"half of a pair of header and image is missing": 1}


def test_of_two_images_of_a_session_the_first_by_name_counts(tmp_path):
    t88(tmp_path, "0001_MR1", n=3)
    table = read_oasis(oasis1(tmp_path, [row1("0001_MR1")]))
    assert "_n3_" in table.frame["image"][0]
    assert dict(table.report.skipped) == {"another image of the same session": 1}


def test_segmentations_raw_scans_and_derivatives_are_no_images(tmp_path):
    root = oasis1(tmp_path, [row1("0001_MR1")])
    folder = root / "disc1" / "OAS1_0001_MR1"
    for name in (
        "FSL_SEG/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc_fseg.hdr", "RAW/OAS1_0001_MR1_mpr-1_anon.hdr",
        "PROCESSED/MPRAGE/SUBJ_111/OAS1_0001_MR1_mpr_n4_anon_sbj_111.img",
        "PROCESSED/MPRAGE/T88_111/OAS1_0001_MR1_mpr_n4_anon_111_t88_gfc.hdr",
    ):  # fmt: skip
        touch(folder / name)
    t88(root / "derivatives", "0001_MR1")
    table = read_oasis(root)
    assert (
        len(table.frame) == 1 and not table.report.skipped and str(table.frame["image"][0]).endswith("masked_gfc.hdr")
    )


def test_rows_without_images_images_without_rows_and_strange_rows_are_counted(tmp_path):
    t88(tmp_path, "0009_MR1")
    root = oasis1(tmp_path, [row1("0001_MR1"), row1("0002_MR1"), row1("x_MR1", ID="total")], ["0001_MR1"])
    table = read_oasis(root)
    assert dict(table.report.skipped) == {
        "image file missing": 1, NOT_LISTED: 1, "row of the table without the name of a session (OAS1_0001_MR1)": 1,
    }  # fmt: skip
    assert table.report.used == 1


def test_the_same_row_twice_counts_once_and_two_ratings_not_at_all(tmp_path):
    rows = [row1("0001_MR1"), row1("0001_MR1"), row1("0002_MR1", 0), row1("0002_MR1", 1)]
    table = read_oasis(oasis1(tmp_path, rows))
    assert list(table.frame["subject"]) == ["OAS1_0001"]
    assert table.report.skipped == {"duplicate row of the table": 2, CONTRADICTORY: 1}


@pytest.mark.parametrize("cdr", [0.25, 7, "mild"])
def test_no_rating_is_guessed(tmp_path, cdr):
    table = read_oasis(oasis1(tmp_path, [row1("0001_MR1", cdr), row1("0002_MR1")]))
    assert list(table.frame["subject"]) == ["OAS1_0002"] and sum(table.report.notes.values()) == 1


@pytest.mark.parametrize(
    "columns",
    [
        {"ID": "id", "M/F": "Sex", "CDR": "cdr", "Age": "age", "MMSE": "mmse"},
        {"ID": "MRI_ID", "M/F": "Gender", "CDR": "Global CDR", "Educ": "EDUC"},
    ],
)  # fmt: skip
def test_columns_go_by_any_of_their_spellings(tmp_path, columns):
    root = oasis1(tmp_path, [row1("0001_MR1", 0.5)])
    pd.read_csv(root / CSV1).rename(columns=columns).to_csv(root / CSV1, index=False, sep=";")
    row = read_oasis(root).frame.iloc[0]
    assert (row["dx"], row["sex"], row["age"], row["MMSE"]) == ("MCI", "F", 74, 29)


def test_an_analyze_pair_is_read_with_its_first_axis_to_the_left(tmp_path):
    from medgraft.benchmarks.phantoms.brain.writing import write_analyze

    image = np.arange(1, 25, dtype=np.int16).reshape(2, 3, 4)
    path = t88(tmp_path, "0001_MR1")
    write_analyze(path, image, 1.0)
    assert path.read_bytes()[:4] == (348).to_bytes(4, "big")
    raw = np.frombuffer(path.with_suffix(".img").read_bytes(), ">i2").reshape((2, 3, 4, 1), order="F")
    np.testing.assert_array_equal(raw[::-1, :, :, 0], image)
    volume, affine = load_volume(path, analyze=True)
    np.testing.assert_array_equal(volume, image)
    np.testing.assert_array_equal(np.diag(affine), [1, 1, 1, 1])


# --- OASIS-2 ----------------------------------------------------------------------------------------------------------


def test_visits_of_oasis2_are_dated_by_their_delay(tmp_path):
    root = oasis2(tmp_path, [row2("0001", 1, 0, "Converted"), row2("0001", 2, 0.5, "Converted"),
                             row2("0002", 1, 1, "Demented", MMSE=None)])  # fmt: skip
    table = read_oasis(root)
    assert list(table.frame["dx"]) == ["CN", "MCI", "AD"] and table.study == "oasis2"
    np.testing.assert_allclose(table.frame["month"], [0, 400 / (365.25 / 12), 0])
    assert np.isnan(table.frame["MMSE"][2])


def test_parts_lie_side_by_side(tmp_path):
    mpr(tmp_path, "0001_MR1", part="OAS2_RAW_PART1")
    mpr(tmp_path, "0002_MR1", part="OAS2_RAW_PART2")
    write(tmp_path / CSV2, [row2("0001", 1, 0, "Nondemented"), row2("0002", 1, 0.5, "Demented")])
    assert labels(tmp_path) == {"OAS2_0001_MR1": "CN", "OAS2_0002_MR1": "MCI"}
    assert labels(tmp_path / "OAS2_RAW_PART2") == {"OAS2_0002_MR1": "MCI"}, "the table lies above"


def test_the_first_whole_scan_of_a_session_is_used(tmp_path):
    mpr(tmp_path, "0001_MR1", 1, halves=("hdr",))
    mpr(tmp_path, "0001_MR1", 2)
    mpr(tmp_path, "0001_MR1", 3)
    touch(tmp_path / "OAS2_RAW_PART1" / "OAS2_0001_MR1" / "RAW" / "3906-3.nifti.hdr")
    write(tmp_path / CSV2, [row2("0001", 1, 0, "Nondemented")])
    table = read_oasis(tmp_path)
    assert str(table.frame["image"][0]).endswith("mpr-2.nifti.hdr")
    assert table.report.skipped == {
        "half of a pair of header and image is missing": 1, "another image of the same session": 1,
    }  # fmt: skip


def test_a_pair_of_oasis2_is_read(tmp_path):
    path = write_nifti(tmp_path / "OAS2_RAW_PART1" / "OAS2_0001_MR1" / "RAW" / "mpr-1.nifti.hdr")
    write(tmp_path / CSV2, [row2("0001", 1, 0, "Nondemented")])
    image = str(read_oasis(tmp_path).frame["image"][0])
    assert image == str(path) and load_volume(image)[0].shape == (2, 3, 4)


def test_group_is_a_label_of_its_own(tmp_path):
    rows = [row2("0001", 1, 0, "Nondemented"), row2("0002", 1, 0.5, "Demented"), row2("0003", 1, 0, "Converted"),
            row2("0004", 1, 0, None)]  # fmt: skip
    table = read_oasis(oasis2(tmp_path, rows), labels="group")
    assert dict(zip(table.frame["subject"], table.frame["dx"], strict=True)) == {"OAS2_0001": "CN", "OAS2_0002": "AD"}
    assert dict(table.report.skipped) == {"Group is Converted": 1, "no Group for the visit": 1}


# --- folders that cannot be ------------------------------------------------------------------------------------------


def test_a_folder_of_two_of_them_is_refused(tmp_path):
    oasis1(tmp_path, [row1("0001_MR1")])
    t1w(tmp_path, "0001", 10)
    with pytest.raises(DataError, match=r"holds images of OASIS-1 and OASIS-3; name the folder of one"):
        read_oasis(tmp_path)


def test_what_is_no_oasis_is_said_in_a_sentence(tmp_path):
    with pytest.raises(DataError, match="is not a folder"):
        read_oasis(tmp_path / "missing")
    with pytest.raises(DataError, match=r"holds no image of OASIS; looked for OAS1_\*_t88_masked_gfc"):
        read_oasis(tmp_path)
    t88(tmp_path, "0001_MR1", halves=("img",))
    with pytest.raises(DataError, match=r"no image of OASIS \(half of a pair of header and image is missing: 1\)"):
        read_oasis(tmp_path)
    t88(tmp_path, "0001_MR1")
    with pytest.raises(DataError, match=r"images of OASIS-1 and no table of it; put oasis_cross-sectional\.csv"):
        read_oasis(tmp_path)


def test_the_table_of_another_oasis_gives_no_rows(tmp_path):
    t88(tmp_path, "0001_MR1")
    write(tmp_path / CSV2, [row2("0001", 1, 0, "Nondemented")])
    with pytest.raises(DataError, match=r"both an image and a label \(image without a row in the table: 1\)"):
        read_oasis(tmp_path)


@pytest.mark.parametrize(("kind", "wrong"), [("group", "OASIS-2"), ("dx1", "OASIS-3")])
def test_labels_that_a_study_does_not_have_are_refused(tmp_path, kind, wrong):
    with pytest.raises(DataError, match=f"labels: {kind} is a column of {wrong}, and .* holds OASIS-1; use cdr"):
        read_oasis(oasis1(tmp_path, [row1("0001_MR1")]), labels=kind)


def test_a_table_with_too_many_fields_is_refused_by_line(tmp_path):
    root = oasis1(tmp_path, [row1("0001_MR1"), row1("0002_MR1")])
    text = (root / CSV1).read_text().splitlines()
    (root / CSV1).write_text("\n".join([*text[:2], text[2] + ",1,2,3"]))
    with pytest.raises(DataError, match=r"oasis_cross-sectional\.csv"):
        read_oasis(root)


def test_generated_identifiers_are_known_without_a_marker(tmp_path):
    assert read_oasis(oasis1(tmp_path / "a", [row1("9001_MR1"), row1("9002_MR1")])).phantom
    assert not read_oasis(oasis1(tmp_path / "b", [row1("9001_MR1"), row1("0002_MR1")])).phantom


def test_oasis3_in_the_same_words(tmp_path):
    t1w(tmp_path, "0001", 10)
    write(tmp_path / "OASIS3_UDSb4_cdr.csv", [visit3("0001", 0, 0)])
    assert labels(tmp_path) == {"OAS30001_d0010": "CN"}


def test_tables_alone_serve_what_reads_no_image(tmp_path):
    one = write(tmp_path / "1" / CSV1, [row1("0001_MR1", 0), row1("0002_MR1", 1), row1("0003_MR1", None)]).parent
    two = write(tmp_path / "2" / CSV2, [row2("0001", v, cdr, "Demented") for v, cdr in ((1, 0.5), (3, 1))]).parent
    three = write(tmp_path / "3" / "OASIS3_UDSb4_cdr.csv", [visit3("0001", d, 0) for d in (0, 400)]).parent
    assert sorted(labels(one, images=False).values()) == ["AD", "CN"]
    assert labels(two, images=False) == {"OAS2_0001_visit 1": "MCI", "OAS2_0001_visit 3": "AD"}
    assert list(labels(three, images=False).values()) == ["CN", "CN"]
    table = read_oasis(two, images=False)
    assert table.report.notes["visit of a table alone, without an image"] == 2 and set(table.frame["image"]) == {""}
    for root in (one, two, three):
        with pytest.raises(DataError, match="holds no image of OASIS"):
            read_oasis(root)
    write(two / CSV1, [row1("0001_MR1", 0)])
    with pytest.raises(DataError, match="holds tables of OASIS-1 and OASIS-2"):
        read_oasis(two, images=False)


def test_where_there_are_images_a_note_is_of_a_visit_that_has_one(tmp_path):
    root = oasis1(tmp_path, [row1("0001_MR1", 0), row1("0002_MR1", 1)], ["0001_MR1"])
    assert labels(root, images=False) == labels(root)
