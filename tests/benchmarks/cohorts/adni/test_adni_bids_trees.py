"""BIDS trees with more in them than raw images, with odd small tables, and with thousands of sessions."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pandas as pd
import pytest
from test_adni_bids import CAPS_NAME, SESSION, make_bids, merge_row, write_nifti

from medgraft.benchmarks.cohorts.adni.reader import read_adni
from medgraft.errors import DataError

SUB, NAME = "sub-ADNI002S0295", "sub-ADNI002S0295_ses-M000_T1w.nii.gz"
RAW = f"{SUB}/ses-M000/anat/{NAME}"


def used(root: Path) -> list[str]:
    return [str(Path(image).relative_to(root)) for image in read_adni(root).frame["image"]]


@pytest.mark.parametrize(
    "copy",
    [
        "derivatives/n4/{sub}/ses-M000/anat/{name}",
        "derivatives/{sub}/ses-M000/anat/{name}",
        "Derivatives/n4/{sub}/ses-M000/anat/{name}",
        "derivatives/fmriprep/{sub}/ses-M000/anat/{sub}_ses-M000_desc-preproc_T1w.nii.gz",
        "derivatives/fmriprep/sourcedata/freesurfer/{sub}/ses-M000/anat/{name}",
        "sourcedata/{sub}/ses-M000/anat/{name}",
        "code/examples/{sub}/ses-M000/anat/{name}",
        ".git/annex/{name}",
        ".heudiconv/{sub}/ses-M000/anat/{name}",
        "a_copy/{sub}/ses-M000/anat/{name}",
        "{sub}/ses-M000/anat/{sub}_ses-M000_desc-defaced_T1w.nii.gz",
        "{sub}/ses-M000/anat/{sub}_ses-M000_space-MNI_T1w.nii.gz",
        "{sub}/ses-M000/anat/._{name}",
    ],
)
def test_a_copy_never_takes_the_place_of_the_raw_image(tmp_path, copy):
    root = make_bids(tmp_path, [SESSION])
    write_nifti(root / copy.format(sub=SUB, name=NAME), 99.0)
    assert used(root) == [RAW]


def test_a_second_run_comes_before_what_was_computed(tmp_path):
    root = make_bids(tmp_path, [SESSION])
    second = f"{SUB}/ses-M000/anat/{SUB}_ses-M000_run-02_T1w.nii.gz"
    shutil.move(root / RAW, root / second)
    write_nifti(root / f"{SUB}/ses-M000/anat/{SUB}_ses-M000_desc-defaced_T1w.nii.gz")
    assert used(root) == [second]


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ("*_run-01_*", "run-02"), ("sub-*/ses-M000/anat/*run-01*", "run-02"), ("**/*_run-01_T1w.nii.gz", "run-02"),
        ("# a comment\n\n*run-01*\n!*run-01_T1w*", "run-01"), ("/extra_data/", "run-01"), ("run-01", "run-01"),
    ],
)  # fmt: skip
def test_bidsignore_is_obeyed(tmp_path, lines, kept):
    root = make_bids(tmp_path, [SESSION], images=False)
    for run in ("run-01", "run-02"):
        write_nifti(root / SUB / "ses-M000" / "anat" / f"{SUB}_ses-M000_{run}_T1w.nii.gz")
    (root / ".bidsignore").write_text(lines + "\n")
    assert kept in used(root)[0]


@pytest.mark.parametrize("home", ["derivatives", "sourcedata"])
def test_derivatives_alone_are_refused_with_their_folder(tmp_path, home):
    root = make_bids(tmp_path, [SESSION])
    shutil.move(root / SUB / "ses-M000", root / home / "n4" / SUB / "ses-M000")
    with pytest.raises(DataError, match=rf"no raw T1 image, only others below {home}/.*name"):
        read_adni(root)
    shutil.copy(root / "participants.tsv", root / home / "n4")
    shutil.copy(root / SUB / f"{SUB}_sessions.tsv", root / home / "n4" / SUB)
    assert used(root / home / "n4") == [RAW]  # named itself, it is read


def test_a_pipelines_folder_named_itself_prefers_one_of_its_images_whatever_the_order(tmp_path):
    root = make_bids(tmp_path / "derivatives" / "fmriprep", [SESSION], images=False)
    anat = root / SUB / "ses-M000" / "anat"
    for name in ("space-MNI152NLin2009cAsym_desc-preproc", "desc-preproc"):
        write_nifti(anat / f"{SUB}_ses-M000_{name}_T1w.nii.gz")
    assert used(root) == [f"{SUB}/ses-M000/anat/{SUB}_ses-M000_desc-preproc_T1w.nii.gz"]


def test_what_caps_registered_is_used_from_where_it_may_lie(tmp_path):
    for home in ("subjects", "derivatives/subjects", "derivatives/clinica/subjects"):
        root = make_bids(tmp_path / home.replace("/", "-"), [SESSION])
        write_nifti(root / home / SUB / "ses-M000" / "t1_linear" / f"{SUB}_ses-M000_{CAPS_NAME}")
        assert used(root) == [f"{home}/{SUB}/ses-M000/t1_linear/{SUB}_ses-M000_{CAPS_NAME}"]


# --- small tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", [b"", b"acq_time\n2010-01-01\n", b"\0\1\2", b"filename\n", b"filename\tx\na\tb\tc\td\n"]
)
def test_an_empty_or_partial_table_of_scans_stops_nothing(tmp_path, content):
    root = make_bids(tmp_path, [SESSION])
    (root / SUB / "ses-M000" / f"{SUB}_ses-M000_scans.tsv").write_bytes(content)
    assert used(root) == [RAW]


@pytest.mark.parametrize(
    "content", [b"", b"session_id\n", b"age\n70\n", b"\0\1", b"session_id\tage\nses-M000\t70\tCN\tx\n"]
)
def test_an_empty_or_partial_table_of_sessions_costs_that_subject_only(tmp_path, content):
    root = make_bids(tmp_path, [SESSION])
    other = "sub-ADNI002S0300"
    write_nifti(root / other / "ses-M000" / "anat" / f"{other}_ses-M000_T1w.nii.gz")
    (root / other / f"{other}_sessions.tsv").write_bytes(content)
    table = read_adni(root)
    assert table.frame["subject"].tolist() == ["002_S_0295"] and sum(table.report.skipped.values()) >= 1


def test_sessions_without_diagnoses_leave_them_to_adnimerge(tmp_path):
    root = make_bids(tmp_path, [{"session_id": "ses-M000", "age": 85.5}])
    pd.DataFrame([merge_row(DX="MCI")]).to_csv(tmp_path / "ADNIMERGE.csv", index=False)
    row = read_adni(root).frame.iloc[0]
    assert (row["dx"], row["age"]) == ("MCI", 85.5)


def test_a_participant_listed_twice_is_known_by_what_both_rows_say(tmp_path):
    root = make_bids(tmp_path, [SESSION])
    table = pd.read_csv(root / "participants.tsv", sep="\t")
    pd.concat([table, table.assign(sex="F")]).to_csv(root / "participants.tsv", sep="\t", index=False)
    found = read_adni(root)
    assert found.frame["sex"].tolist() == [None] and found.frame["education"].tolist() == [18]
    assert found.report.notes["participant listed twice with different facts; they are not used"] == 1
    assert found.report.skipped == {"duplicate row of participants.tsv": 1}


def test_twenty_thousand_sessions_would_take_less_than_fifteen_seconds(tmp_path):
    """A tenth of them in a tenth of the time would be 1.5 s; half as much again is left for a slow machine."""
    participants = ["participant_id\talternative_id_1\tsex"]
    for i in range(500):
        sub = f"sub-ADNI002S{i:04d}"
        participants.append(f"{sub}\t002_S_{i:04d}\tF")
        rows = ["session_id\tage\tdiagnosis\tMMSE\texamination_date"]
        for month in (0, 6, 12, 24):
            stem = f"{sub}_ses-M{month:03d}"
            anat = tmp_path / sub / f"ses-M{month:03d}" / "anat"
            anat.mkdir(parents=True)
            (anat / f"{stem}_T1w.nii.gz").touch()
            (anat / f"{stem}_T1w.json").write_text('{"MagneticFieldStrength": 3}')
            (anat.parent / f"{stem}_scans.tsv").write_text(f"filename\tacq_time\nanat/{stem}_T1w.nii.gz\t2010-01-01\n")
            rows.append(f"ses-M{month:03d}\t70.5\t{('CN', 'MCI', 'AD')[i % 3]}\t28\t2010-01-02")
        (tmp_path / sub / f"{sub}_sessions.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "participants.tsv").write_text("\n".join(participants) + "\n")
    started = time.process_time()
    table = read_adni(tmp_path)
    spent = time.process_time() - started
    assert len(table.frame) == 2000 and not table.report.skipped and not table.report.notes
    assert (table.frame["field_strength"] == 3).all() and (table.frame["acq_date"] == pd.Timestamp("2010-01-01")).all()
    assert spent < 2.25
