"""The ADNI readers: both layouts round trip; every flaw of a real download is counted or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgraft.benchmarks.cohorts.adni.archive import index_images
from medgraft.benchmarks.cohorts.adni.merge import map_diagnosis, to_numbers, viscode_month
from medgraft.benchmarks.cohorts.adni.reader import FRAME_COLUMNS, baseline_only, load_volume, read_adni
from medgraft.benchmarks.cohorts.adni.series import preference
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.benchmarks.phantoms.brain.cohort import write_cohort
from medgraft.errors import DataError

BEST = "MPR; GradWarp; B1 Correction; N3; Scaled"


# --- tiny hand-made cohorts -------------------------------------------------------------------------------------------


def write_nifti(path: Path, value: float = 1.0, shape: tuple[int, ...] = (4, 4, 4), affine: Any = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    volume = np.full(shape, value, dtype=np.float32)
    nib.save(nib.Nifti1Image(volume, np.eye(4) if affine is None else affine), path)
    return path


def search_row(uid: int | str = 101, subject: str = "002_S_0295", **change: Any) -> dict[str, Any]:
    return {
        "Image Data ID": f"I{uid}", "Subject": subject, "Group": "CN", "Sex": "M", "Age": 84, "Visit": "sc",
        "Modality": "MRI", "Description": BEST, "Type": "Processed", "Acq Date": "4/18/2006", "Format": "NiFTI",
        "Downloaded": "",
    } | change  # fmt: skip


def merge_row(uid: int | None = 101, subject: str = "002_S_0295", **change: Any) -> dict[str, Any]:
    return {
        "PTID": subject, "VISCODE": "bl", "SITE": 2, "EXAMDATE": "2006-04-18", "AGE": 84.8, "PTGENDER": "Male",
        "PTEDUCAT": 18, "APOE4": 1, "MMSE": 28, "MOCA": "", "ADAS13": 10.33, "RAVLT_immediate": 42, "FAQ": 0,
        "CDRSB": 0.0, "FLDSTRENG": "1.5 Tesla MRI", "IMAGEUID": uid, "DX": "CN", "Years_bl": 0.0, "Month": 0, "M": 0,
    } | change  # fmt: skip


def image_path(
    root: Path, uid: int, subject: str = "002_S_0295", date: str = "2006-04-18", suffix: str = "nii"
) -> Path:
    folder = root / "ADNI" / subject / "MPR__N3__Scaled" / f"{date}_08_20_30.0" / f"S{uid}"
    return folder / f"ADNI_{subject}_MR_MPR__N3__Scaled_Br_20070319114336780_S13408_I{uid}.{suffix}"


def make_loni(
    root: Path, search: list[dict[str, Any]], merge: list[dict[str, Any]] | None, images: list[int] | None = None
) -> Path:
    """A LONI download with an image for every row of the search table, or for ``images`` only."""
    root.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(search).to_csv(root / "my_collection_4_18_2024.csv", index=False, quoting=1)
    if merge is not None:
        pd.DataFrame(merge).to_csv(root / "ADNIMERGE.csv", index=False)
    for row in search:
        uid = int(str(row["Image Data ID"]).lstrip("I"))
        if images is None or uid in images:
            write_nifti(image_path(root, uid, row["Subject"]))
    return root


# --- phantom round trip -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    cache_dir = tmp_path_factory.getbasetemp() / "brain-template"
    roots = {}
    for layout in ("loni", "bids"):
        roots[layout] = tmp_path_factory.mktemp(layout) / "cohort"
        write_cohort(roots[layout], n_subjects=8, seed=3, spacing=6.0, layout=layout, max_visits=3, cache_dir=cache_dir)
    return roots


@pytest.mark.parametrize("layout", ["loni", "bids"])
def test_round_trip_against_the_truth(cohorts, layout):
    table = read_adni(cohorts[layout])
    truth = pd.DataFrame(json.loads((cohorts[layout] / "truth.json").read_text()))
    truth = truth.sort_values(["subject", "month"]).reset_index(drop=True)
    frame = table.frame
    assert tuple(frame.columns) == FRAME_COLUMNS and table.layout == layout
    assert len(frame) == table.report.used == len(truth)
    for column in ("subject", "month", "dx"):
        assert frame[column].tolist() == truth[column].tolist()
    assert np.allclose(frame["age"], truth["age"], atol=0.07)
    assert [str(cohorts[layout] / name) for name in truth["image"]] == frame["image"].tolist()
    assert table.phantom and table.generator == "brain-1" and table.bayes is not None and table.bayes["both"] > 0.9
    assert set(frame["dx_source"]) == {"ADNIMERGE DX" if layout == "loni" else "sessions.tsv"}
    assert frame["session"].tolist()[0] == ("bl" if layout == "loni" else "M000")
    volume, affine = load_volume(frame["image"][0])
    assert volume.shape == (32, 48, 32) and volume.dtype == np.float32 and affine[0, 0] == 6.0


def test_both_layouts_give_one_table(cohorts):
    loni, bids = (read_adni(cohorts[layout]).frame for layout in ("loni", "bids"))
    layout_specific = ["session", "image", "image_id", "description", "dx_source"]
    pd.testing.assert_frame_equal(loni.drop(columns=layout_specific), bids.drop(columns=layout_specific))


def test_variants_of_a_scan_collapse(cohorts):
    table = read_adni(cohorts["loni"])
    search = pd.read_csv(cohorts["loni"] / "ADNI_phantom_search.csv")
    assert table.report.skipped == {"other processing of the same scan": len(search) - len(table.frame)}
    assert len(search) > len(table.frame)
    assert set(table.frame["description"]) <= {BEST, "MT1; GradWarp; N3m"}


def test_reader_never_opens_the_truth(cohorts, tmp_path, monkeypatch):
    opened = []
    original = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: opened.append(self.name) or original(self, *a, **k))
    read_adni(cohorts["loni"])
    assert "truth.json" not in opened


def test_adni_folder_itself_can_be_named(cohorts):
    assert len(read_adni(cohorts["loni"] / "ADNI").frame) == len(read_adni(cohorts["loni"]).frame)
    assert read_adni(cohorts["loni"] / "ADNI").phantom


def test_baseline_only(cohorts):
    frame = read_adni(cohorts["loni"]).frame
    baseline = baseline_only(frame)
    assert baseline["subject"].tolist() == sorted(set(frame["subject"])) and (baseline["month"] == 0).all()
    later = frame[~((frame["subject"] == frame["subject"][0]) & (frame["month"] == 0))]
    if (later["subject"] == frame["subject"][0]).any():
        assert baseline_only(later)["month"][0] == 6


# --- LONI: labels -----------------------------------------------------------------------------------------------------


def test_one_good_row(tmp_path):
    table = read_adni(make_loni(tmp_path, [search_row()], [merge_row(Years_bl=1.5, VISCODE="m18", M=18)]))
    row = table.frame.iloc[0]
    assert (row["subject"], row["session"], row["month"], row["dx"]) == ("002_S_0295", "m18", 18.0, "CN")
    assert row["age"] == pytest.approx(86.3), "AGE is the age at baseline; the scan is later"
    assert (row["sex"], row["education"], row["apoe4"], row["site"], row["field_strength"]) == ("M", 18, 1, "2", 1.5)
    assert np.isnan(row["MOCA"]) and row["FAQ"] == 0 and row["acq_date"] == pd.Timestamp("2006-04-18")
    assert Path(row["image"]).is_absolute() and row["image_id"] == "101" and row["dx_source"] == "ADNIMERGE DX"
    assert not table.phantom and table.generator is None and table.bayes is None
    assert not table.report.skipped and not table.report.notes


@pytest.mark.parametrize(
    ("raw", "label"),
    [
        ("CN", "CN"), ("NL", "CN"), ("SMC", "CN"), ("EMCI", "MCI"), ("LMCI", "MCI"), ("MCI", "MCI"), ("Dementia", "AD"),
        ("AD", "AD"), ("MCI to Dementia", "AD"), ("NL to MCI", "MCI"), ("Dementia to MCI", "MCI"), ("Patient", None),
        ("", None), ("-4", None), (float("nan"), None), (None, None), (3, None),
    ],
)  # fmt: skip
def test_label_map(raw, label):
    assert map_diagnosis(raw) == label


def test_transition_is_noted(tmp_path):
    table = read_adni(make_loni(tmp_path, [search_row()], [merge_row(DX="MCI to Dementia")]))
    assert table.frame["dx"].tolist() == ["AD"]
    assert table.report.notes == {"diagnosis given as a transition; its last state is used": 1}


@pytest.mark.parametrize(("days", "source"), [(0, "nearest visit"), (90, "nearest visit"), (91, None)])
def test_nearest_visit_within_90_days(tmp_path, days, source):
    date = (pd.Timestamp("2006-04-18") + pd.Timedelta(days=days)).date().isoformat()
    root = make_loni(tmp_path, [search_row(Visit="m06")], [merge_row(uid=None, DX="MCI", EXAMDATE=date, VISCODE="m06")])
    if source is None:
        with pytest.raises(DataError, match="no diagnosis for the visit: 1"):
            read_adni(root)
    else:
        assert read_adni(root).frame[["dx", "dx_source"]].values.tolist() == [["MCI", source]]


def test_missing_dx_of_the_scans_own_visit_falls_to_the_nearest(tmp_path):
    visits = [merge_row(DX="", Years_bl=0.5, VISCODE="m06"), merge_row(uid=None, DX="AD", EXAMDATE="2006-05-20")]
    row = read_adni(make_loni(tmp_path, [search_row()], visits)).frame.iloc[0]
    assert (row["dx"], row["dx_source"], row["session"]) == ("AD", "nearest visit", "m06")
    assert row["age"] == pytest.approx(85.3), "facts stay with the scan's own visit"


@pytest.mark.parametrize(
    ("visit", "kept"),
    [
        ("sc", True), ("bl", True), ("ADNI2 Screening MRI-New Pt", True), ("ADNI2 Baseline-New Pt", True),
        ("ADNI Screening", True), ("m12", False), ("ADNI2 Year 1 Visit", False), ("v05", False),
        ("ADNI2 Initial Visit-Cont Pt", False), ("ADNI3 Baseline-Cont Pt", False), ("", False),
    ],
)  # fmt: skip
def test_research_group_counts_at_baseline_only(tmp_path, visit, kept):
    root = make_loni(tmp_path, [search_row(Visit=visit, Group="LMCI"), search_row(102, "003_S_0001")], None)
    frame = read_adni(root).frame
    assert frame["subject"].tolist() == (["002_S_0295"] if kept else []) + ["003_S_0001"]
    if kept:
        row = frame.iloc[0]
        assert (row["dx"], row["dx_source"], row["session"], row["month"]) == ("MCI", "research group", "bl", 0.0)
        assert (row["age"], row["sex"], row["site"]) == (84.0, "M", "002")


def test_two_diagnoses_for_one_visit(tmp_path):
    rows = [search_row(), search_row(102, "003_S_0001")]
    merge = [merge_row(), merge_row(DX="MCI"), merge_row(102, "003_S_0001")]
    table = read_adni(make_loni(tmp_path, rows, merge))
    assert table.frame["subject"].tolist() == ["003_S_0001"], "the research group must not decide either"
    assert table.report.skipped["two different diagnoses for the visit"] == 1


def test_duplicate_rows_are_counted(tmp_path):
    rows = [
        search_row(),
        search_row(),
        search_row(102, "003_S_0001", Group="CN"),
        search_row(102, "003_S_0001", Group="AD"),
    ]
    table = read_adni(make_loni(tmp_path, rows, [merge_row(), merge_row(), merge_row(DX="")]))
    assert table.report.used == 1
    assert table.report.skipped == {
        "duplicate row of the search table": 1,
        "image listed with contradicting rows": 2,
        "duplicate row of ADNIMERGE": 2,
    }


def test_missing_codes_and_limits(tmp_path):
    merge = merge_row(MMSE=-4, CDRSB=-1, APOE4="Unknown", ADAS13=">80", FAQ=" <3 ", PTEDUCAT="", FLDSTRENG="", SITE="")
    table = read_adni(make_loni(tmp_path, [search_row()], [merge]))
    row = table.frame.iloc[0]
    assert row[["MMSE", "CDRSB", "apoe4", "education", "field_strength"]].isna().all()
    assert (row["ADAS13"], row["FAQ"], row["site"]) == (80.0, 3.0, "002")
    assert table.report.notes == {"ADAS13 given as a limit (< or >)": 1, "FAQ given as a limit (< or >)": 1}


@given(st.lists(st.one_of(st.floats(0, 2000).map(str), st.sampled_from(["", "n/a", "Unknown", "-4", ">1700", "<8"]))))
def test_numbers_of_any_column(values):
    numbers = to_numbers(pd.Series(values, dtype=object, name="ABETA"), ReadReport())
    assert len(numbers) == len(values) and numbers.dtype == float
    assert not (numbers < 0).any()


@pytest.mark.parametrize(("code", "month"), [("bl", 0), ("sc", 0), ("m06", 6), ("M120", 120), (" m12 ", 12)])
def test_months(code, month):
    assert viscode_month(code) == month
    assert np.isnan(viscode_month("v05")) and np.isnan(viscode_month(float("nan")))


# --- LONI: files ------------------------------------------------------------------------------------------------------


def test_bare_image_numbers_and_other_modalities(tmp_path):
    rows = [
        search_row(**{"Image Data ID": "101"}),
        search_row(102, "003_S_0001", Modality="PET"),
        search_row(103, "003_S_0001", Description="Axial T2-Star"),
        search_row(104, "381_S_10123"),
    ]
    table = read_adni(make_loni(tmp_path, rows, [merge_row()]))
    assert table.frame["image_id"].tolist() == ["101"]
    assert table.report.skipped == {"withdrawn subject": 1, "not an MRI": 1, "not a T1-weighted series": 1}
    assert table.report.notes == {"image file without a usable row in the search table": 3}


def test_missing_files_are_counted(tmp_path):
    rows = [search_row(), search_row(102, "003_S_0001")]
    table = read_adni(make_loni(tmp_path, rows, [merge_row()], images=[101]))
    assert table.report.skipped == {"image file missing": 1} and table.report.used == 1


def test_all_files_missing_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"none of the 1 T1 images.*_I<image id>\.nii"):
        read_adni(make_loni(tmp_path, [search_row()], [merge_row()], images=[]))


def test_dicom_series_are_counted_and_named(tmp_path):
    root = make_loni(tmp_path, [search_row(), search_row(102, "003_S_0001")], [merge_row()], images=[101])
    for slice_number in range(3):
        path = image_path(root, 102, "003_S_0001").with_name(
            f"ADNI_003_S_0001_MR_MPRAGE_raw_{slice_number}_S1_I102.dcm"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"DICM")
    assert read_adni(root).report.skipped == {"DICOM series; convert it to NIfTI first": 1}
    image_path(root, 101).unlink()
    with pytest.raises(DataError, match="dcm2niix"):
        read_adni(root)


def test_image_walk(tmp_path):
    write_nifti(image_path(tmp_path, 7))
    write_nifti(image_path(tmp_path, 8, suffix="nii.gz"))
    (tmp_path / "ADNI" / "notes_I9.txt").write_text("")
    (tmp_path / "ADNI" / "I10.nii").write_text("")
    index = index_images(tmp_path)
    assert sorted(index.volumes) == [7, 8] and not index.dicom


def test_one_variant_per_scan_by_preference(tmp_path):
    kinds = ["MPRAGE", "MPR; ; N3; Scaled", BEST, "MPR; GradWarp; N3; Scaled"]
    rows = [search_row(101 + i, Description=kind) for i, kind in enumerate(kinds)]
    table = read_adni(make_loni(tmp_path, rows, [merge_row(101)]))
    assert table.frame["description"].tolist() == [BEST] and table.frame["dx"].tolist() == ["CN"]
    assert table.report.skipped == {"other processing of the same scan": 3}


def test_preference_order():
    order = [
        "MPR-R; GradWarp; B1 Correction; N3; Scaled_2",
        "MPR-R; GradWarp; B1 Correction; N3; Scaled",
        "MPR; GradWarp; B1 Correction; N3; Scaled_2",
        "MPR; GradWarp; B1 Correction; N3; Scaled",
        "MPR; GradWarp; N3; Scaled",
        "MPR; ; N3; Scaled",
        "MT1; GradWarp; N3m",
        "MT1; N3m",
        "MPR; GradWarp; B1 Correction; N3",
        "MPR; GradWarp",
        "Accelerated Sagittal MPRAGE",
    ]
    shuffled = list(np.random.default_rng(0).permutation(order))
    assert sorted(shuffled, key=preference) == order


def test_two_scans_of_one_visit(tmp_path):
    rows = [search_row(101), search_row(102, **{"Acq Date": "5/02/2006"})]
    table = read_adni(make_loni(tmp_path, rows, [merge_row(102)]))
    assert table.frame["image_id"].tolist() == ["102"], "the scan that ADNIMERGE names"
    assert table.report.skipped == {"another scan of the same visit": 1}


def test_unreadable_date_is_taken_from_the_folder(tmp_path):
    table = read_adni(make_loni(tmp_path, [search_row(**{"Acq Date": "someday"})], [merge_row(uid=None)]))
    assert table.frame["acq_date"].tolist() == [pd.Timestamp("2006-04-18")]
    assert table.report.notes == {"unreadable acquisition date; the folder's is used": 1}


def test_tables_can_be_named(tmp_path):
    root = make_loni(tmp_path / "images", [search_row()], [merge_row()])
    (root / "my_collection_4_18_2024.csv").rename(tmp_path / "search.csv")
    (root / "ADNIMERGE.csv").rename(tmp_path / "adni.csv")
    with pytest.raises(DataError, match=r"looked for participants\.tsv"):
        read_adni(root)
    table = read_adni(root, search=tmp_path / "search.csv", merge=tmp_path / "adni.csv")
    assert table.frame["dx_source"].tolist() == ["ADNIMERGE DX"]


def test_several_search_tables_add_up(tmp_path):
    root = make_loni(tmp_path, [search_row()], [merge_row(), merge_row(102, "003_S_0001")])
    pd.DataFrame([search_row(102, "003_S_0001"), search_row()]).to_csv(root / "second.csv", index=False)
    write_nifti(image_path(root, 102, "003_S_0001"))
    table = read_adni(root)
    assert table.report.used == 2 and table.report.skipped == {"duplicate row of the search table": 1}


@pytest.mark.parametrize(
    ("table", "column"),
    [("ADNIMERGE.csv", "DX"), ("ADNIMERGE.csv", "EXAMDATE"), ("my_collection_4_18_2024.csv", "Acq Date")],
)
def test_missing_column_is_named(tmp_path, table, column):
    root = make_loni(tmp_path, [search_row()], [merge_row()])
    pd.read_csv(root / table).drop(columns=column).to_csv(root / table, index=False)
    with pytest.raises(DataError, match=f"{table}.* no column {column}"):
        read_adni(root)


def test_column_order_and_extra_columns_do_not_matter(tmp_path):
    root = make_loni(tmp_path, [search_row()], [merge_row()])
    before = read_adni(root).frame
    for name in ("ADNIMERGE.csv", "my_collection_4_18_2024.csv"):
        table = pd.read_csv(root / name)
        table.assign(NEW=1)[["NEW", *reversed(table.columns)]].to_csv(root / name, index=False)
    pd.testing.assert_frame_equal(read_adni(root).frame, before)


@pytest.mark.parametrize("content", [None, "", "a,b\n1,2\n", "\x00\x01\x02"])
def test_folder_without_a_cohort(tmp_path, content):
    if content is not None:
        (tmp_path / "something.csv").write_text(content)
    with pytest.raises(DataError, match=r"holds no ADNI cohort; looked for participants\.tsv"):
        read_adni(tmp_path)
    with pytest.raises(DataError, match="is not a folder"):
        read_adni(tmp_path / "nowhere")
