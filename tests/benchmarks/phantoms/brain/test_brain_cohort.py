"""The phantom cohort writer: real layouts, impossible identifiers, same bytes always, all or nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from medgraft.benchmarks.cohorts.adni.conversion import HORIZONS, conversion_label
from medgraft.benchmarks.cohorts.adni.reader import load_volume
from medgraft.benchmarks.phantoms.brain import cohort as brain_cohort
from medgraft.benchmarks.phantoms.brain.cohort import phantom_ptid, subject_visits, write_cohort
from medgraft.benchmarks.phantoms.brain.latents import SETTINGS
from medgraft.benchmarks.phantoms.brain.layouts import ADNIMERGE_COLUMNS, SEARCH_COLUMNS
from medgraft.errors import ConfigError, DataError
from medgraft.registry import catalogue

SPACING = 6.0
LONI_NAME = re.compile(
    r"ADNI/(?P<ptid>\d{3}_S_\d{4})/(?P<desc>[A-Za-z0-9_]+)/(?P<date>\d{4}-\d\d-\d\d)_08_20_30\.0/I(?P<uid>\d+)/"
    r"ADNI_(?P=ptid)_MR_(?P=desc)_Br_\d{17}_S\d+_I(?P=uid)\.nii"
)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "brain-template"


@pytest.fixture(scope="module")
def loni(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    out = tmp_path_factory.mktemp("loni") / "cohort"
    write_cohort(out, n_subjects=10, seed=3, spacing=SPACING, max_visits=3, cache_dir=cache_dir)
    return out


@pytest.fixture(scope="module")
def bids(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    out = tmp_path_factory.mktemp("bids") / "cohort"
    write_cohort(out, n_subjects=4, seed=3, spacing=SPACING, layout="bids", max_visits=2, cache_dir=cache_dir)
    return out


def _bytes(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_loni_tree_and_search_table_agree(loni):
    search = pd.read_csv(loni / "ADNI_phantom_search.csv")
    assert tuple(search.columns) == SEARCH_COLUMNS
    assert (loni / "ADNI_phantom_search.csv").read_text().startswith('"Image Data ID","Subject","Group","Sex"')
    files = [path.relative_to(loni).as_posix() for path in loni.rglob("*.nii")]
    matches = [LONI_NAME.fullmatch(name) for name in files]
    assert all(matches), files
    assert sorted(f"I{m['uid']}" for m in matches if m) == sorted(search["Image Data ID"])
    assert search["Acq Date"].str.fullmatch(r"\d{1,2}/\d\d/\d{4}").all()
    assert {m["desc"] for m in matches if m} >= {"MPR__GradWarp__B1_Correction__N3__Scaled", "MT1__GradWarp__N3m"}


def test_adnimerge_columns_and_rules(loni):
    merge: Any = pd.read_csv(loni / "ADNIMERGE.csv")
    assert tuple(merge.columns) == ADNIMERGE_COLUMNS and len(set(ADNIMERGE_COLUMNS)) == len(ADNIMERGE_COLUMNS)
    assert (merge["RID"] == merge["PTID"].str[-4:].astype(int)).all()
    assert merge["PTID"].str.startswith("999_S_9").all() and (merge["SITE"] >= 900).all()
    assert (merge.groupby("PTID")["AGE"].nunique() == 1).all(), "AGE is the age at baseline in every row"
    assert set(merge["DX"]) <= {"CN", "MCI", "Dementia"} and set(merge["update_stamp"]) == {"phantom"}
    assert merge.loc[merge["VISCODE"] == "bl", "Years_bl"].eq(0).all()
    baseline = merge[merge["VISCODE"] == "bl"].set_index("PTID")["MMSE"]
    assert merge["MMSE_bl"].equals(merge["PTID"].map(baseline).rename("MMSE_bl"))


def test_bids_tree(bids):
    participants = pd.read_csv(bids / "participants.tsv", sep="\t")
    assert len(participants) == 4
    for participant in participants["participant_id"]:
        sessions = pd.read_csv(bids / participant / f"{participant}_sessions.tsv", sep="\t")
        assert set(sessions["diagnosis"]) <= {"CN", "MCI", "AD"}
        for session in sessions["session_id"]:
            image = bids / participant / session / "anat" / f"{participant}_{session}_T1w.nii.gz"
            assert image.is_file()
            sidecar = json.loads(image.with_name(image.name.replace(".nii.gz", ".json")).read_text())
            assert sidecar["MagneticFieldStrength"] in (1.5, 3.0)
    assert "n/a" in (bids / "participants.tsv").read_text()
    assert json.loads((bids / "dataset_description.json").read_text())["BIDSVersion"]


def test_everything_says_phantom(loni, bids):
    for root in (loni, bids):
        marker = json.loads((root / "PHANTOM").read_text())
        assert marker["statement"] == "generated; no person" and marker["generator"] == "brain-1"
        assert marker["setting"] == "default" and marker["seed"] == 3
        assert marker["bayes"]["both"] == pytest.approx(0.942, abs=0.005)
        image: Any = nib.load(next(path for path in root.rglob("*.nii*")))
        assert bytes(image.header["descrip"]).rstrip(b"\0") == b"phantom; not a person"
        assert image.get_data_dtype() == np.int16 and nib.aff2axcodes(image.affine) == ("R", "A", "S")
        assert np.asarray(image.dataobj).max() < 4001


def test_variants_are_the_same_acquisition(tmp_path, cache_dir, monkeypatch):
    monkeypatch.setattr(brain_cohort, "VARIANT_SHARE", 1.0)
    write_cohort(tmp_path / "c", n_subjects=2, seed=0, spacing=SPACING, max_visits=1, cache_dir=cache_dir)
    search = pd.read_csv(tmp_path / "c" / "ADNI_phantom_search.csv")
    groups: Any = search.groupby("Subject")
    for _, pair in groups:
        assert len(pair) == 2 and pair["Acq Date"].nunique() == 1 and pair["Description"].nunique() == 2
        files = [next((tmp_path / "c").rglob(f"*_{uid}.nii")) for uid in pair["Image Data ID"]]
        one, two = (load_volume(file)[0] for file in files)
        assert not np.array_equal(one, two)
        assert np.corrcoef(one.ravel(), two.ravel())[0, 1] > 0.99


def test_share_of_variants_is_about_15_percent():
    visits = [visit for i in range(300) for visit in subject_visits(SETTINGS["default"], 1, i)]
    assert np.mean([visit.has_variant for visit in visits]) == pytest.approx(0.15, abs=0.03)


# --- identifiers and reproducibility ----------------------------------------------------------------------------------


def test_identifiers_are_unique_and_impossible():
    ptids = [phantom_ptid(5, index) for index in range(3000)]
    assert len(set(ptids)) == 3000 and len({ptid[-4:] for ptid in ptids}) == 3000
    assert all(re.fullmatch(r"9\d\d_S_\d{4}", ptid) for ptid in ptids)
    assert all(ptid.startswith("999_S_9") for ptid in ptids[:1000])
    assert ptids[1000][:7] == "998_S_8"
    visits = [visit for i in range(200) for visit in subject_visits(SETTINGS["default"], 5, i)]
    uids = [visit.image_uid(variant) for visit in visits for variant in (0, 1)]
    assert len(set(uids)) == len(uids)


def test_larger_cohort_begins_with_the_smaller(loni, tmp_path, cache_dir):
    write_cohort(tmp_path / "c", n_subjects=2, seed=3, spacing=SPACING, max_visits=3, cache_dir=cache_dir)
    large, small = _bytes(loni / "ADNI"), _bytes(tmp_path / "c" / "ADNI")
    assert small and small.items() <= large.items()


def test_settings_of_one_seed_are_paired():
    for index in range(20):
        a = subject_visits(SETTINGS["default"], 0, index)
        b = subject_visits(SETTINGS["nogap"], 0, index)
        assert [v.dx for v in a] == [v.dx for v in b] and [v.ptid for v in a] == [v.ptid for v in b]
        assert a[0].subject.atrophy == b[0].subject.atrophy


def test_thread_count_is_restored(tmp_path, cache_dir):
    before = torch.get_num_threads()
    write_cohort(tmp_path / "c", n_subjects=1, seed=0, spacing=SPACING, max_visits=1, cache_dir=cache_dir)
    assert torch.get_num_threads() == before


def test_written_again_it_has_the_same_bytes(bids, tmp_path, cache_dir):
    write_cohort(
        tmp_path / "c", n_subjects=4, seed=3, spacing=SPACING, layout="bids", max_visits=2, cache_dir=cache_dir
    )
    assert _bytes(bids) == _bytes(tmp_path / "c"), "no clock, no path and no order of the file system in any file"


@pytest.mark.slow
def test_two_processes_write_the_same_bytes(loni, tmp_path, cache_dir):
    write_cohort(tmp_path / "c", n_subjects=10, seed=3, spacing=SPACING, max_visits=3, jobs=2, cache_dir=cache_dir)
    assert _bytes(loni) == _bytes(tmp_path / "c")


def test_mci_cohort_has_converters_and_stable_subjects():
    plans = [subject_visits(SETTINGS["default"], 2, i) for i in range(600)]
    mci = [visits for visits in plans if visits[0].dx == "MCI"]
    converted = np.mean([visits[-1].dx == "AD" for visits in mci])
    stable = np.mean([visits[-1].dx == "MCI" and visits[-1].month == 36 for visits in mci])
    assert 0.2 < converted < 0.45 and 0.15 < stable < 0.4


# --- failures ---------------------------------------------------------------------------------------------------------


def test_folder_in_use_is_refused(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "precious.txt").write_text("mine")
    with pytest.raises(DataError, match="not empty"):
        write_cohort(tmp_path / "c", n_subjects=1, seed=0)
    (tmp_path / "f").write_text("a file")
    with pytest.raises(DataError, match="not empty"):
        write_cohort(tmp_path / "f", n_subjects=1, seed=0)
    assert (tmp_path / "c" / "precious.txt").read_text() == "mine"


def test_empty_folder_is_taken(tmp_path, cache_dir):
    (tmp_path / "c").mkdir()
    write_cohort(tmp_path / "c", n_subjects=1, seed=0, spacing=SPACING, max_visits=1, cache_dir=cache_dir)
    assert (tmp_path / "c" / "PHANTOM").is_file()


@pytest.mark.parametrize("error", [RuntimeError("disk full"), KeyboardInterrupt()])
def test_interrupted_cohort_leaves_nothing(tmp_path, cache_dir, monkeypatch, error):
    def fail(*args):
        raise error

    monkeypatch.setattr(brain_cohort, "write_loni_tables", fail)
    with pytest.raises(type(error)):
        write_cohort(tmp_path / "c", n_subjects=1, seed=0, spacing=SPACING, max_visits=1, cache_dir=cache_dir)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_place_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot write a cohort"):
        write_cohort(tmp_path / "file" / "c", n_subjects=1, seed=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_subjects": 0}, "n_subjects"),
        ({"n_subjects": 10_001}, "n_subjects"),
        ({"layout": "zip"}, "loni or bids"),
        ({"max_visits": 9}, "max_visits"),
        ({"setting": "pretrain"}, "no diagnoses"),
        ({"seed": -1}, "seed"),
        ({"jobs": 0}, "jobs"),
        ({"setting": "defalt"}, "did you mean default"),
    ],
)
def test_bad_arguments_are_named(tmp_path, cache_dir, change, words):
    arguments = {"n_subjects": 1, "seed": 0, "spacing": SPACING, "cache_dir": cache_dir} | change
    with pytest.raises(ConfigError, match=words):
        write_cohort(tmp_path / "c", **arguments)
    assert not (tmp_path / "c").exists()


# --- follow-up beyond 36 months ---------------------------------------------------------------------------------------


def test_a_longer_follow_up_adds_visits_and_changes_none():
    setting = SETTINGS["default"]
    for index in range(60):
        short, long = (subject_visits(setting, 7, index, max_visits=bound) for bound in (5, 8))
        assert [visit.code for visit in long[: len(short)]] == [visit.code for visit in short]
        assert len(long) == len(short) or len(short) == 5
        for before, after in zip(short, long[: len(short)], strict=True):
            assert (before.loni_path(), before.dx, str(before.scores), before.has_variant, before.cognition) == (
                after.loni_path(), after.dx, str(after.scores), after.has_variant, after.cognition
            )  # fmt: skip


def test_numbers_of_images_and_series_are_unique_with_every_visit():
    setting = SETTINGS["default"]
    visits = [visit for index in (*range(200), 8999) for visit in subject_visits(setting, 7, index, max_visits=8)]
    images = [visit.image_uid(variant) for visit in visits for variant in (0, 1)]
    assert len(set(images)) == len(images) and len({visit.series_uid for visit in visits}) == len(visits)


def test_every_published_horizon_finds_both_outcomes_in_the_quick_cohort():
    entry = catalogue().presets["quick"].cohorts["adni_visits"].options
    histories = [
        [(visit.month, visit.dx) for visit in subject_visits(SETTINGS["default"], entry["seed"], index, max_visits=8)]
        for index in range(entry["n_subjects"])
    ]
    assert entry["max_visits"] == 8
    for horizon in HORIZONS:
        words = Counter(conversion_label(history, 0, horizon) for history in histories if history[0][1] == "MCI")
        assert words["pMCI"] >= 20 and words["sMCI"] >= 20, (horizon, words)
