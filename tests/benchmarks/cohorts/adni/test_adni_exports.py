"""Tables as spreadsheets and other exports leave them, and broken files that a run must name and count."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from test_adni import image_path, make_loni, merge_row, search_row, write_nifti
from test_adni_bids import SESSION, make_bids

from medgraft.benchmarks.cohorts.adni.columns import roster_name, site_of
from medgraft.benchmarks.cohorts.adni.merge import find_merge, to_numbers
from medgraft.benchmarks.cohorts.adni.reader import load_volume, read_adni
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, UnreadableTableError, read_table
from medgraft.benchmarks.prefix_cache.inputs import prepare
from medgraft.encoders.pixels import PixelsSource
from medgraft.errors import DataError
from medgraft.task import RawInputs

SEARCH = "my_collection_4_18_2024.csv"


@pytest.fixture
def loni(tmp_path: Path) -> Path:
    return make_loni(tmp_path, [search_row()], [merge_row()])


def the_row(root: Path) -> dict[str, Any]:
    (row,) = read_adni(root).frame.to_dict("records")
    return row


# --- how a table is written -------------------------------------------------------------------------------------------


def text(table: pd.DataFrame, sep: str = ",", **how: Any) -> str:
    return table.to_csv(index=False, sep=sep, **how)


WRITINGS = {
    "Windows line ends": lambda table: text(table, lineterminator="\r\n").encode(),
    "mark of UTF-8": lambda table: codecs.BOM_UTF8 + text(table).encode(),
    "UTF-16": lambda table: text(table).encode("utf-16"),
    "Windows letters": lambda table: text(table.assign(remark="Gr\xf6\xdfe")).encode("cp1252"),
    "semicolons": lambda table: text(table, ";").encode(),
    "decimal commas": lambda table: text(table.replace("84.8", "84,8"), ";").encode(),
    "tabs": lambda table: text(table, "\t").encode(),
    "a line for the spreadsheet": lambda table: ("sep=;\r\n" + text(table, ";")).encode(),
    "capitals": lambda table: text(table.rename(columns=str.upper)).encode(),
    "small letters": lambda table: text(table.rename(columns=lambda name: name.lower().replace(" ", "_"))).encode(),
    "blank lines at the end": lambda table: (text(table) + "\n\n").encode(),
    "quoted numbers": lambda table: text(table, quoting=1).encode(),
}


@pytest.mark.parametrize("writing", WRITINGS)
@pytest.mark.parametrize("name", ["ADNIMERGE.csv", SEARCH])
def test_one_table_in_every_writing(loni, name, writing):
    expected = the_row(loni)
    table = pd.read_csv(loni / name, dtype=str, keep_default_na=False)
    (loni / name).write_bytes(WRITINGS[writing](table))
    found = the_row(loni)
    assert str(found) == str(expected) and found["age"] == pytest.approx(84.8) and found["dx_source"] == "ADNIMERGE DX"


def test_a_compressed_table_is_read(loni):
    table = pd.read_csv(loni / "ADNIMERGE.csv", dtype=str, keep_default_na=False)
    (loni / "ADNIMERGE.csv").unlink()
    table.to_csv(loni / "ADNIMERGE.csv.gz", index=False, sep=";")
    assert the_row(loni)["dx_source"] == "ADNIMERGE DX"


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02\x00binary", b'"open'])
def test_what_is_no_table_is_refused(tmp_path, content):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(UnreadableTableError, match=r"a\.csv is not a readable table"):
        read_table(tmp_path / "a.csv", ())


# --- numbers, people, releases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number", "note"),
    [
        ("90+", 90, "AGE given as a limit (< or >)"), (">90", 90, "AGE given as a limit (< or >)"),
        ("≥ 90", 90, "AGE given as a limit (< or >)"), (">=90", 90, "AGE given as a limit (< or >)"),
        ("71.5", 71.5, None), ("-4", None, None), ("-4.0", None, None), ("n/a", None, None), ("Unknown", None, None),
        ("", None, None), ("7,123", None, "AGE is no number; treated as missing"),
        ("old", None, "AGE is no number; treated as missing"),
    ],
)  # fmt: skip
def test_a_number_its_limit_or_nothing(text, number, note):
    report = ReadReport()
    (found,) = to_numbers(pd.Series([text], name="AGE"), report)
    assert (np.isnan(found) if number is None else found == number) and list(report.notes) == ([note] if note else [])


@pytest.mark.parametrize(
    ("value", "name"), [("295", "RID 295"), ("0295", "RID 295"), (295.0, "RID 295"), ("002_S_0295", None), ("x", None)]
)
def test_roster_numbers(value, name):
    assert roster_name(value) == name


def test_a_site_is_never_made_of_another_name():
    assert site_of("002_S_0295") == "002" and site_of("sub-01") is None


def test_roster_numbers_in_the_column_of_ptids(tmp_path):
    root = make_loni(tmp_path, [search_row()], [merge_row(subject="295")])
    row = the_row(root)
    assert (row["subject"], row["dx_source"]) == ("002_S_0295", "ADNIMERGE DX")


def test_a_search_table_by_roster_number_takes_the_ptid_from_the_file(tmp_path):
    root = make_loni(tmp_path, [search_row()], [merge_row()])
    table = pd.read_csv(root / SEARCH).assign(Subject=295)
    table.to_csv(root / SEARCH, index=False)
    assert the_row(root)["subject"] == "002_S_0295"


def test_subjects_whom_adnimerge_does_not_know_are_counted(tmp_path):
    table = read_adni(make_loni(tmp_path, [search_row()], [merge_row(subject="003_S_0001", uid=999)]))
    assert table.report.notes == {"subject without a row in ADNIMERGE": 1}
    assert table.frame["dx_source"].tolist() == ["research group"]


def test_the_latest_release_is_read_and_the_dictionary_is_not(tmp_path):
    root = make_loni(tmp_path, [search_row()], None)
    for name, dx in (("ADNIMERGE_30Jan2020.csv", "CN"), ("ADNIMERGE_02Apr2024.csv", "MCI"), ("ADNIMERGE.csv", "CN")):
        pd.DataFrame([merge_row(DX=dx)]).to_csv(root / name, index=False)
    (root / "ADNIMERGE_DICT_30Jan2025.csv").write_text("FLDNAME,TEXT\n")
    report = ReadReport()
    found = find_merge(root, report)
    assert found is not None and found.name == "ADNIMERGE_02Apr2024.csv" and sum(report.notes.values()) == 2
    assert the_row(root)["dx"] == "MCI"


def test_examination_dates_that_are_none_are_counted(tmp_path):
    table = read_adni(make_loni(tmp_path, [search_row()], [merge_row(EXAMDATE="38825")]))
    assert table.report.notes == {"date not understood; treated as missing": 1}


# --- the image tree ---------------------------------------------------------------------------------------------------


def test_without_a_search_table_the_paths_tell(tmp_path):
    root = make_loni(tmp_path, [search_row(), search_row(202, "003_S_0001")], [merge_row(uid=101)])
    (root / SEARCH).unlink()
    table = read_adni(root)
    assert table.frame["subject"].tolist() == ["002_S_0295"] and table.frame["dx"].tolist() == ["CN"]
    assert table.frame["acq_date"].tolist() == [pd.Timestamp("2006-04-18")]
    assert table.frame["description"].tolist() == ["MPR; N3; Scaled"]
    assert table.report.skipped == {"no diagnosis for the visit": 1}
    assert table.report.notes["image without a search table; its path says whose it is, and when"] == 2


def test_what_macos_leaves_beside_a_file_is_no_image(loni):
    image = image_path(loni, 101)
    (image.parent / f"._{image.name}").write_bytes(b"x")
    assert the_row(loni)["image"] == str(image)


def test_a_mask_is_no_image(tmp_path):
    rows = [search_row(101, Description="MPR; GradWarp; Mask"), search_row(102, Description="MP RAGE REPEAT")]
    table = read_adni(make_loni(tmp_path, rows, [merge_row(uid=None)]))
    assert table.frame["image_id"].tolist() == ["102"] and table.report.skipped["a mask, not an image"] == 1


def test_an_error_without_images_says_what_was_left_out(tmp_path):
    root = make_loni(tmp_path, [search_row()], [merge_row()])
    pd.read_csv(root / SEARCH).assign(**{"Image Data ID": "D101"}).to_csv(root / SEARCH, index=False)
    with pytest.raises(DataError, match="left out: search row without an image number: 1"):
        read_adni(root)


# --- BIDS -------------------------------------------------------------------------------------------------------------


def test_participants_without_the_prefix(tmp_path):
    root = make_bids(tmp_path, [SESSION])
    path = root / "participants.tsv"
    path.write_text(path.read_text().replace("sub-ADNI", "ADNI"))
    table = read_adni(root)
    assert table.frame["sex"].tolist() == ["M"] and not table.report.notes


def test_a_subject_without_a_row_in_participants_is_counted(tmp_path):
    root = make_bids(tmp_path, [SESSION])
    path = root / "participants.tsv"
    path.write_text(path.read_text().replace("sub-ADNI002S0295", "sub-ADNI002S0296"))
    assert read_adni(root).report.notes == {"subject without a row in participants.tsv": 1}


def test_one_subjects_broken_table_leaves_out_that_subject(tmp_path):
    root = make_bids(tmp_path, [SESSION])
    write_nifti(root / "sub-ADNI002S0300" / "ses-M000" / "anat" / "sub-ADNI002S0300_ses-M000_T1w.nii.gz")
    (root / "sub-ADNI002S0300" / "sub-ADNI002S0300_sessions.tsv").write_bytes(b"")
    table = read_adni(root)
    assert table.frame["subject"].tolist() == ["002_S_0295"]
    assert table.report.skipped == {"sessions.tsv that cannot be read": 1, "image without a row in sessions.tsv": 1}


def test_an_image_outside_any_session_is_counted(tmp_path):
    root = make_bids(tmp_path, [SESSION])
    write_nifti(root / "sub-ADNI002S0295" / "anat" / "sub-ADNI002S0295_T1w.nii.gz")
    assert read_adni(root).report.skipped == {"image of a session that is not named ses-M<month>": 1}


# --- volumes that a run leaves out ------------------------------------------------------------------------------------


def broken_volumes(root: Path) -> dict[Path, str]:
    """One file of every flaw -> the words it is counted by."""
    whole = np.arange(1, 126, dtype=np.float32).reshape(5, 5, 5)
    holed = whole.copy()
    holed[2, 2, 2] = np.nan
    found = {
        write_nifti(root / "zero.nii", 0.0): "zero in every voxel",
        write_nifti(root / "series.nii.gz", shape=(4, 4, 4, 3)): "not one 3D volume",
        root / "missing.nii": "no such file",
    }

    def saved(name: str, values: np.ndarray, sform: int = 1, qform: int = 0, turned: bool = False) -> Path:
        image = nib.Nifti1Image(values, np.eye(4))
        image.set_sform(np.diag([-1.0, 1, 1, 1]) if turned else np.eye(4), code=sform)
        image.set_qform(np.eye(4), code=qform)
        nib.save(image, root / name)
        return root / name

    found[saved("holed.nii", holed)] = "voxels that are NaN or infinite"
    found[saved("turned.nii", whole, 1, 1, turned=True)] = "two contradicting orientations"
    unset = saved("unset.nii", whole)
    content = bytearray(unset.read_bytes())
    content[252:256] = bytes(4)  # qform_code and sform_code of NIfTI-1
    unset.write_bytes(content)
    found[unset] = "no orientation"
    cut = saved("cut.nii", whole)
    cut.write_bytes(cut.read_bytes()[:400])
    found[cut] = "no image, or cut"
    return found


def test_every_flaw_of_a_volume_is_counted_by_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    flaws = broken_volumes(tmp_path)
    paths = [write_nifti(tmp_path / "good.nii"), *flaws]
    raw = RawInputs(lambda i: load_volume(paths[i])[0], len(paths), "flaws")
    for _ in range(2):  # built, then read from the cache
        found = prepare(raw, PixelsSource.build("3d"), "pixels")
        assert found.usable.tolist() == [True] + [False] * len(flaws)
        assert found.reasons == dict.fromkeys(flaws.values(), 1)
