"""OASIS-1 and -3 as Clinica's converters write them, with what is wrong in those trees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from oasis_data import bids_image, row1, touch, visit3, write

from medgraft.benchmarks.cohorts.oasis.labels import UNDER_AGE
from medgraft.benchmarks.cohorts.oasis.reader import NOT_LISTED, read_oasis
from medgraft.errors import DataError


def clinica1(root: Path, ratings: dict[str, float | None], **people) -> Path:
    """``oasis-to-bids``: one session each; its diagnosis calls a CDR of 0.5 AD."""
    rows = []
    for number, cdr in ratings.items():
        name = f"sub-OASIS1{number}"
        bids_image(root, name)
        word = None if cdr is None else "AD" if cdr else "CN"
        write(root / name / f"{name}_sessions.tsv",
              [{"session_id": "ses-M000", "cdr_global": cdr, "MMS": 27, "diagnosis": word}], "\t")  # fmt: skip
        write(root / name / "ses-M000" / f"{name}_ses-M000_scans.tsv",
              [{"filename": f"anat/{name}_ses-M000_T1w.nii.gz"}], "\t")  # fmt: skip
        rows.append({"participant_id": name, "alternative_id_1": f"OAS1_{number}_MR1", "sex": "F",
                     "education_level": 2, "age_bl": 71, "cdr": cdr, "diagnosis_bl": word} | people)  # fmt: skip
    write(root / "participants.tsv", rows, "\t")
    return root


def clinica3(root: Path, sessions: list[tuple[str, str, str, float, int]], prefix: str = "sub-OAS3") -> Path:
    """``oasis3-to-bids``: (number, session, day, CDR, MMSE); a run in each name, no scans.tsv."""
    by_person: dict[str, list[dict]] = {}
    for number, session, day, cdr, mmse in sessions:
        name = f"{prefix}{number}"
        bids_image(root, name, session, "_run-01")
        by_person.setdefault(name, []).append(
            {"session_id": session, "source_session_id": day, "age": 71, "mmse": mmse, "cdr": cdr,
             "dx1": "Cognitively normal", "sumbox": 2 * cdr}
        )  # fmt: skip
    for name, rows in by_person.items():
        write(root / name / f"{name}_sessions.tsv", rows, "\t")
    # Clinica keeps the name of the source here, whatever the folders are called.
    facts = {"age": 70.5, "sex": "M", "handedness": "R", "education": 18, "apoe": 44}
    write(root / "participants.tsv", [{"participant_id": f"sub-OAS3{name[-4:]}"} | facts for name in by_person], "\t")
    return root


def test_the_rating_is_read_and_not_clinicas_word(tmp_path):
    table = read_oasis(clinica1(tmp_path, {"0001": 0, "0002": 0.5, "0003": 2}))
    assert table.frame["dx"].tolist() == ["CN", "MCI", "AD"]
    assert table.frame["subject"].tolist() == ["OAS1_0001", "OAS1_0002", "OAS1_0003"]
    row = table.frame.iloc[0]
    assert (row["session"], row["month"], row["age"], row["sex"], row["MMSE"]) == ("M000", 0, 71, "F", 27)
    assert row["education_level"] == "high school" and np.isnan(row["education"])
    assert (table.layout, table.study, table.frame["image"].nunique()) == ("bids", "oasis1", 3)


def test_blank_ratings_of_the_young_are_left_out_or_normal(tmp_path):
    root = clinica1(tmp_path, {"0001": None, "0002": 0}, age_bl=25)
    assert read_oasis(root).report.skipped == {UNDER_AGE: 1}
    assert read_oasis(root, unassessed="cn").frame["dx"].tolist() == ["CN", "CN"]


def test_participants_alone_have_the_rating_of_the_first_session(tmp_path):
    root = clinica1(tmp_path, {"0001": 1, "0002": 0})
    for path in root.glob("sub-*/*_sessions.tsv"):
        path.unlink()
    frame = read_oasis(root).frame
    assert frame["dx"].tolist() == ["AD", "CN"] and frame["age"].tolist() == [71, 71]


def test_a_tree_without_ratings_is_refused(tmp_path):
    root = clinica1(tmp_path, {"0001": 0, "0002": 1})
    for path in root.rglob("*.tsv"):
        raw = pd.read_csv(path, sep="\t")
        raw.drop(columns=[name for name in ("cdr", "cdr_global") if name in raw]).to_csv(path, sep="\t", index=False)
    with pytest.raises(DataError, match=r"have no CDR .* put OASIS's own table into the folder"):
        read_oasis(root)
    write(root / "oasis_cross-sectional.csv", [row1("0001_MR1", 0), row1("0002_MR1", 0.5)])
    assert read_oasis(root).frame["dx"].tolist() == ["CN", "MCI"]


def test_sessions_without_a_row_and_rows_without_an_image_are_counted(tmp_path):
    root = clinica1(tmp_path, {"0001": 0, "0002": 1})
    bids_image(root, "sub-OASIS10003")
    (root / "sub-OASIS10002" / "ses-M000" / "anat" / "sub-OASIS10002_ses-M000_T1w.nii.gz").unlink()
    bids_image(root, "sub-01")
    assert read_oasis(root).report.skipped == {
        NOT_LISTED: 1, "image file missing": 1, "image of a participant that is no OASIS's": 1,
    }  # fmt: skip


@pytest.mark.parametrize("prefix", ["sub-OAS3", "sub-OASIS3"])
def test_oasis3_under_either_of_its_names(tmp_path, prefix):
    root = clinica3(tmp_path, [("0001", "ses-M000", "d0010", 0, 29), ("0001", "ses-M024", "d0740", 0.5, 26)], prefix)
    table = read_oasis(root)
    assert table.frame["dx"].tolist() == ["CN", "MCI"] and set(table.frame["subject"]) == {"OAS30001"}
    row = table.frame.iloc[1]
    assert (row["sex"], row["education"], row["apoe4"], row["MMSE"], row["CDRSB"]) == ("M", 18, 2, 26, 1)
    assert row["age"] == pytest.approx(70.5 + 740 / 365.25), "Clinica's own age is cut to a whole year"


def same_for_all(root: Path) -> Path:
    """What Clinica 0.12 writes: the scores of one person for everybody of a session."""
    people = [f"{k:04d}" for k in range(1, 5)]
    first = [(name, "ses-M000", f"d{name}", 0.0, 29) for name in people]
    return clinica3(root, first + [(name, "ses-M012", f"d{360 + int(name):04d}", 0.5, 25) for name in people])


def test_scores_joined_by_month_alone_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"everybody of one session has the same CDR.* OASIS3_UDSb4_cdr\.csv"):
        read_oasis(same_for_all(tmp_path))


def test_unless_one_person_differs(tmp_path):
    root = same_for_all(tmp_path)
    path = root / "sub-OAS30002" / "sub-OAS30002_sessions.tsv"
    path.write_text(path.read_text().replace("\t29\t", "\t30\t"))
    assert len(read_oasis(root).frame) == 8


def test_oasis3s_own_table_comes_before_what_was_joined(tmp_path):
    root = same_for_all(tmp_path)
    write(root / "OASIS3_UDSb4_cdr.csv", [visit3(f"{k:04d}", 5, 0.5 * (k % 3)) for k in range(1, 5)])
    table = read_oasis(root)
    first = table.frame[table.frame["session"] == "M000"]
    assert first["dx"].tolist() == ["MCI", "AD", "CN", "MCI"]
    assert first["month"].tolist() == pytest.approx([k / (365.25 / 12) for k in range(1, 5)])
    assert table.layout == "bids"


def test_a_scan_whose_day_no_table_knows_is_dated_by_its_session(tmp_path):
    root = same_for_all(tmp_path)
    for path in root.glob("sub-*/*_sessions.tsv"):
        pd.read_csv(path, sep="\t").drop(columns="source_session_id").to_csv(path, sep="\t", index=False)
    write(root / "OASIS3_UDSb4_cdr.csv", [visit3(f"{k:04d}", 0, 0) for k in range(1, 5)])
    table = read_oasis(root)
    assert table.frame["month"].tolist() == pytest.approx([0, 365 / 30.4375] * 4)
    assert table.report.notes["day of the scan known to half a year only, by the name of its session"] == 8


def test_oasis2_is_not_converted_and_mixtures_are_refused(tmp_path):
    for name in ("sub-OASIS20001", "sub-01"):
        bids_image(tmp_path / name, name)
        with pytest.raises(DataError, match=r"is a BIDS tree with (OASIS-2|no participant of OASIS); name one with"):
            read_oasis(tmp_path / name)
    root = clinica1(tmp_path / "both", {"0001": 0})
    bids_image(root, "sub-OAS30001")
    with pytest.raises(DataError, match="OASIS-1 and OASIS-3"):
        read_oasis(root)


@pytest.mark.parametrize(("participant", "session"), [("sub-OASIS10001", "M000"), ("sub-OAS30001", "M006")])
def test_registered_images_of_caps_are_read_with_the_studys_own_table(tmp_path, participant, session):
    folder = tmp_path / "subjects" / participant / f"ses-{session}" / "t1_linear"
    name = f"{participant}_ses-{session}_space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w.nii.gz"
    touch(folder / name)
    write(tmp_path / "oasis_cross-sectional.csv", [row1("0001_MR1", 0.5)])
    write(tmp_path / "OASIS3_UDSb4_cdr.csv", [visit3("0001", 0, 0.5), visit3("0001", 700, 0)])
    table = read_oasis(tmp_path)
    assert table.frame["dx"].tolist() == ["MCI"] and str(table.frame["image"][0]).endswith(name)
    assert table.frame["session"].tolist() == [session]
