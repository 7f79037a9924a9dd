"""The ADNI reader on BIDS and CAPS trees, and the loading of one volume, with the flaws that real files have."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.adni.reader import load_volume, read_adni
from medgraft.errors import DataError

CAPS_NAME = "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1_T1w.nii.gz"


def write_nifti(path: Path, value: float = 1.0, shape: tuple[int, ...] = (4, 4, 4), affine: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = np.full(shape, value, dtype=np.float32)
    nib.save(nib.Nifti1Image(volume, np.eye(4) if affine is None else affine), path)
    return path


def merge_row(**change: Any) -> dict[str, Any]:
    return {
        "PTID": "002_S_0295", "VISCODE": "bl", "SITE": 2, "EXAMDATE": "2006-04-18", "AGE": 84.8, "PTGENDER": "Male",
        "PTEDUCAT": 18, "APOE4": 1, "MMSE": 28, "MOCA": "", "ADAS13": 10.33, "RAVLT_immediate": 42, "FAQ": 0,
        "CDRSB": 0.0, "FLDSTRENG": "1.5 Tesla MRI", "IMAGEUID": 101, "DX": "CN", "Years_bl": 0.0, "Month": 0, "M": 0,
    } | change  # fmt: skip


def make_bids(root: Path, sessions: list[dict[str, Any]], ses: str = "ses-M000", images: bool = True) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    participant = {
        "participant_id": "sub-ADNI002S0295", "alternative_id_1": "002_S_0295", "sex": "M", "education_level": 18,
        "age_bl": 84.8, "site": 2, "apoe4": 1,
    }  # fmt: skip
    pd.DataFrame([participant]).to_csv(root / "participants.tsv", sep="\t", index=False, na_rep="n/a")
    folder = root / "sub-ADNI002S0295"
    folder.mkdir(exist_ok=True)
    table = pd.DataFrame(sessions)
    table.to_csv(folder / "sub-ADNI002S0295_sessions.tsv", sep="\t", index=False, na_rep="n/a")
    for name in {row["session_id"] for row in sessions} if images else ():
        write_nifti(folder / name / "anat" / f"sub-ADNI002S0295_{name}_T1w.nii.gz")
    return root


SESSION = {
    "session_id": "ses-M000", "examination_date": "2006-04-18", "age": 84.8, "diagnosis": "CN", "cdr_sb": 0.0,
    "adas13": 10.33, "MMSE": 28, "FAQ": "n/a", "ravlt_immediate": 42, "moca": "n/a",
}  # fmt: skip


# --- BIDS and CAPS ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", ["ses-M000", "ses-M00"])
def test_bids_sessions_old_and_new(tmp_path, session):
    row = read_adni(make_bids(tmp_path, [SESSION | {"session_id": session}])).frame.iloc[0]
    assert (row["subject"], row["session"], row["month"], row["dx"]) == ("002_S_0295", "M000", 0.0, "CN")
    assert (row["age"], row["sex"], row["education"], row["MMSE"], row["CDRSB"]) == (84.8, "M", 18, 28, 0.0)
    assert np.isnan(row["FAQ"]) and np.isnan(row["MOCA"]) and np.isnan(row["field_strength"])


def test_bids_age_from_baseline(tmp_path):
    rows = [SESSION, SESSION | {"session_id": "ses-M012", "age": "n/a", "diagnosis": "MCI"}]
    frame = read_adni(make_bids(tmp_path, rows)).frame
    assert frame["age"].tolist() == pytest.approx([84.8, 85.8]) and frame["dx"].tolist() == ["CN", "MCI"]


def test_bids_flaws_are_counted(tmp_path):
    rows = [
        SESSION,
        SESSION,
        SESSION | {"session_id": "ses-M006", "diagnosis": "n/a"},
        SESSION | {"session_id": "ses-M012"},
        SESSION | {"session_id": "ses-M012", "diagnosis": "AD"},
        SESSION | {"session_id": "ses-M024"},
        SESSION | {"session_id": "ses-retest"},
    ]
    root = make_bids(tmp_path, rows)
    folder = root / "sub-ADNI002S0295"
    next((folder / "ses-M024").rglob("*.nii.gz")).unlink()
    write_nifti(folder / "ses-M000" / "anat" / "sub-ADNI002S0295_ses-M000_run-02_T1w.nii.gz")
    write_nifti(folder / "ses-M036" / "anat" / "sub-ADNI002S0295_ses-M036_T1w.nii.gz")
    table = read_adni(root)
    assert table.frame["session"].tolist() == ["M000"] and "run-02" not in table.frame["image"][0]
    assert table.report.skipped == {
        "duplicate row of sessions.tsv": 2,
        "session that is not named ses-M<month>": 1,
        "image of a session that is not named ses-M<month>": 1,
        "no diagnosis for the visit": 1,
        "two different diagnoses for the visit": 1,
        "image file missing": 1,
        "another image of the same session": 1,
        "image without a row in sessions.tsv": 1,
    }


def test_bids_without_images(tmp_path):
    with pytest.raises(DataError, match="holds no T1 image"):
        read_adni(make_bids(tmp_path, [SESSION], images=False))


def test_bids_without_a_diagnosis_column(tmp_path):
    with pytest.raises(DataError, match=r"sessions\.tsv has no column diagnosis"):
        read_adni(make_bids(tmp_path, [{"session_id": "ses-M000", "age": 70}]))


def test_bids_gaps_are_filled_from_adnimerge(tmp_path):
    root = make_bids(tmp_path, [SESSION | {"diagnosis": "n/a"}])
    pd.DataFrame([merge_row(DX="MCI", FAQ=7)]).to_csv(tmp_path / "ADNIMERGE.csv", index=False)
    row = read_adni(root).frame.iloc[0]
    assert (row["dx"], row["dx_source"], row["FAQ"], row["field_strength"]) == ("MCI", "ADNIMERGE DX", 7, 1.5)


def test_caps_images_with_adnimerge(tmp_path):
    folder = tmp_path / "subjects" / "sub-ADNI002S0295" / "ses-M000" / "t1_linear"
    best = write_nifti(folder / f"sub-ADNI002S0295_ses-M000_{CAPS_NAME}")
    write_nifti(folder / "sub-ADNI002S0295_ses-M000_space-MNI152NLin2009cSym_res-1x1x1_T1w.nii.gz")
    with pytest.raises(DataError, match=r"no participants\.tsv, and no ADNIMERGE"):
        read_adni(tmp_path)
    merge = tmp_path / "merge.csv"
    pd.DataFrame([merge_row()]).to_csv(merge, index=False)
    table = read_adni(tmp_path, merge=merge)
    assert table.frame["image"].tolist() == [str(best)] and table.frame["subject"].tolist() == ["002_S_0295"]
    assert table.report.skipped == {"another image of the same session": 1}


def test_caps_image_is_preferred_to_the_raw_one(tmp_path):
    root = make_bids(tmp_path, [SESSION])
    name = f"sub-ADNI002S0295_ses-M000_{CAPS_NAME}"
    best = write_nifti(root / "derivatives" / "subjects" / "sub-ADNI002S0295" / "ses-M000" / "t1_linear" / name)
    assert read_adni(root).frame["image"].tolist() == [str(best)]


def test_scans_and_sidecars_tell_of_the_scanner(tmp_path):
    root = make_bids(tmp_path, [SESSION])
    folder = root / "sub-ADNI002S0295" / "ses-M000"
    scans = {"filename": "anat/sub-ADNI002S0295_ses-M000_T1w.nii.gz", "scan_id": 45108, "mri_field": 1.5}
    scans["acq_time"] = "2006-05-02T08:20:30"
    pd.DataFrame([scans]).to_csv(folder / "sub-ADNI002S0295_ses-M000_scans.tsv", sep="\t", index=False)
    sidecar = {"Manufacturer": "GE", "ManufacturersModelName": "Signa", "MagneticFieldStrength": None}
    (folder / "anat" / "sub-ADNI002S0295_ses-M000_T1w.json").write_text(json.dumps(sidecar))
    row = read_adni(root).frame.iloc[0]
    assert (row["manufacturer"], row["scanner_model"], row["field_strength"]) == ("GE", "Signa", 1.5)
    assert (row["image_id"], row["acq_date"]) == ("45108", pd.Timestamp("2006-05-02"))


def test_sessions_without_images_are_follow_up(tmp_path):
    rows = [SESSION | {"diagnosis": "MCI"}, SESSION | {"session_id": "ses-M036", "diagnosis": "AD"}]
    root = make_bids(tmp_path, rows)
    next((root / "sub-ADNI002S0295" / "ses-M036").rglob("*.nii.gz")).unlink()
    table = read_adni(root)
    assert table.frame["session"].tolist() == ["M000"]
    assert table.visits[["month", "dx"]].values.tolist() == [[0.0, "MCI"], [36.0, "AD"]]


def test_a_contradiction_in_adnimerge_is_none_of_bids_to_settle(tmp_path):
    root = make_bids(tmp_path, [SESSION | {"diagnosis": "n/a"}])
    pd.DataFrame([merge_row(DX="MCI"), merge_row(DX="CN")]).to_csv(tmp_path / "ADNIMERGE.csv", index=False)
    with pytest.raises(DataError, match="two different diagnoses for the visit: 1"):
        read_adni(root)


def test_a_label_that_is_none_is_counted(tmp_path):
    rows = [SESSION, SESSION | {"session_id": "ses-M012", "diagnosis": "MCI due to AD"}]
    report = read_adni(make_bids(tmp_path, rows)).report
    assert report.notes["diagnosis not understood; treated as missing"] == 1
    assert report.skipped["no diagnosis for the visit"] == 1


# --- volumes ----------------------------------------------------------------------------------------------------------


def test_volume_is_turned_to_ras(tmp_path):
    data = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    nib.save(nib.Nifti1Image(data, affine), tmp_path / "lps.nii.gz")
    volume, turned = load_volume(tmp_path / "lps.nii.gz")
    np.testing.assert_array_equal(volume, data[::-1, ::-1])
    assert nib.aff2axcodes(turned) == ("R", "A", "S") and volume.flags.c_contiguous


def test_single_volume_in_4d_is_squeezed(tmp_path):
    assert load_volume(write_nifti(tmp_path / "a.nii", shape=(4, 4, 4, 1)))[0].shape == (4, 4, 4)


@pytest.mark.parametrize("shape", [(4, 4, 4, 2), (4, 4)])
def test_wrong_number_of_axes(tmp_path, shape):
    with pytest.raises(DataError, match=r"a\.nii.*one 3D volume"):
        load_volume(write_nifti(tmp_path / "a.nii", shape=shape))


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "zero in every voxel"), (np.nan, "NaN"), (np.inf, "NaN or infinite")]
)
def test_empty_or_undefined_voxels(tmp_path, value, words):
    with pytest.raises(DataError, match=words):
        load_volume(write_nifti(tmp_path / "a.nii", value))


def test_one_nan_is_enough(tmp_path):
    data = np.ones((4, 4, 4), dtype=np.float32)
    data[1, 2, 3] = np.nan
    nib.save(nib.Nifti1Image(data, np.eye(4)), tmp_path / "a.nii")
    with pytest.raises(DataError, match="NaN"):
        load_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("suffix", ["nii", "nii.gz"])
@pytest.mark.parametrize("keep", [0, 100, 360, 0.5])
def test_truncated_file(tmp_path, suffix, keep):
    path = tmp_path / f"a.{suffix}"
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.normal(size=(16, 16, 16)).astype(np.float32), np.eye(4)), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(DataError, match=rf"a\.{suffix} cannot be read as an image"):
        load_volume(path)


def test_no_image_at_all(tmp_path):
    (tmp_path / "a.nii").write_bytes(b"hello " * 200)
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(b"hello " * 200))
    (tmp_path / "c.nii.gz").write_bytes(b"not gzip")
    for name in ("a.nii", "b.nii.gz", "c.nii.gz"):
        with pytest.raises(DataError, match="cannot be read as an image"):
            load_volume(tmp_path / name)
    with pytest.raises(DataError, match="does not exist"):
        load_volume(tmp_path / "d.nii")


def test_missing_orientation(tmp_path):
    image = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), None)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match="does not say how it is oriented"):
        load_volume(tmp_path / "a.nii")


def test_sform_and_qform_that_put_left_on_different_sides(tmp_path):
    image = nib.Nifti1Image(np.ones((4, 4, 4), dtype=np.float32), np.eye(4))
    image.set_sform(np.diag([-1.0, 1.0, 1.0, 1.0]), code=1)
    image.set_qform(np.eye(4), code=1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.raises(DataError, match="LAS by its sform, RAS by its qform"):
        load_volume(tmp_path / "a.nii")


def test_zero_spacing(tmp_path):
    path = write_nifti(tmp_path / "a.nii")
    content = bytearray(path.read_bytes())
    content[280:328] = bytes(48)  # srow_x, srow_y, srow_z of the NIfTI-1 header
    path.write_bytes(content)
    with pytest.raises(DataError, match="no usable affine"):
        load_volume(path)
