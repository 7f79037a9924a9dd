"""fMRIPrep's derivatives: which files are a run's, what the table of participants says, and what is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.fmri.fmriprep import read_fmriprep
from medgraft.benchmarks.tasks.fmri.fmriprep import Fmriprep, FmriprepAge
from medgraft.cohort import cohort_class
from medgraft.errors import DataError
from medgraft.testing.phantoms import small_phantom

FIRST = Path("sub-900000") / "func"
BOLD = "sub-900000_task-rest_run-1_space-MNI152NLin2009cAsym_res-2_desc-preproc_bold.nii.gz"


def made(task: Any, **options: Any) -> Any:
    """A task with options."""
    return task(task.Config(**options))


@pytest.fixture
def folder(tmp_path) -> Path:
    return Path(shutil.copytree(small_phantom("fmriprep"), tmp_path / "raw" / "derivatives" / "fmriprep"))


def test_each_run_has_its_mask_table_and_time(folder):
    table: Any = read_fmriprep(folder)
    first = table.frame.iloc[0]
    assert len(table.frame) == 48 and table.frame["subject"].nunique() == 24 and not table.report.skipped
    assert first["image"].endswith(BOLD) and first["step"] == 2.0
    assert first["mask"].endswith("_run-1_space-MNI152NLin2009cAsym_res-2_desc-brain_mask.nii.gz")
    assert first["confounds"].endswith("sub-900000_task-rest_run-1_desc-confounds_timeseries.tsv")
    assert (first["dx"], first["sex"], first["site"]) == ("control", "M", "SITE1")


def test_the_table_of_participants_may_lie_with_the_raw_data(folder):
    raw = folder.parents[1]
    shutil.move(folder / "participants.tsv", raw / "participants.tsv")
    for place in (folder, raw):
        assert len(read_fmriprep(place).frame) == 48
        assert cohort_class("fmriprep")().revision(folder)
    (raw / "participants.tsv").unlink()
    with pytest.raises(DataError, match=r"no participants\.tsv"):
        read_fmriprep(folder)


def test_sessions_spaces_and_older_names_are_understood(folder):
    home = folder / FIRST
    session = folder / "sub-900000" / "ses-02" / "func"
    session.mkdir(parents=True)
    for path in home.glob("*_run-1_*"):
        name = path.name.replace("_task-rest_run-1", "_ses-02_task-rest").replace("_res-2", "")
        shutil.copy(path, session / name.replace("confounds_timeseries", "confounds_regressors"))
    shutil.copy(home / BOLD, home / BOLD.replace("2009cAsym_res-2", "6Asym"))
    shutil.copy(home / BOLD, home / BOLD.replace("MNI152NLin2009cAsym_res-2", "T1w"))
    shutil.copy(home / BOLD, home / BOLD.replace("rest", "nback"))
    table: Any = read_fmriprep(folder)
    mine = table.frame[table.frame["subject"] == "sub-900000"]
    assert [Path(path).name for path in mine["image"]] == [
        BOLD,
        BOLD.replace("run-1", "run-2"),
        "sub-900000_ses-02_task-rest_space-MNI152NLin2009cAsym_desc-preproc_bold.nii.gz",
    ]
    assert mine["confounds"].iloc[2].endswith("sub-900000_ses-02_task-rest_desc-confounds_regressors.tsv")
    assert table.report.skipped == {
        "a run in a further space or resolution": 1,
        "a run in another space": 1,
        "a run of another task": 1,
    }
    assert len(read_fmriprep(folder, task="nback").frame) == 1


def test_strangers_and_people_without_runs_are_counted(folder):
    shutil.rmtree(folder / "sub-900001")
    (folder / "sub-900002").rename(folder / "sub-strange")
    for path in (folder / "sub-strange" / "func").iterdir():
        path.rename(path.with_name(path.name.replace("sub-900002", "sub-strange")))
    report = read_fmriprep(folder).report
    assert report.skipped == {"a run without a row in the table": 2, "a person of the table without a run": 2}


def test_a_missing_sidecar_leaves_the_time_to_the_header(folder):
    sidecar = folder / FIRST / BOLD.replace(".nii.gz", ".json")
    sidecar.write_text(json.dumps({"RepetitionTime": "two"}))
    assert read_fmriprep(folder).frame.iloc[0]["step"] == 0
    data = made(Fmriprep, baseline=False).load(folder)
    assert (
        sum(data.provenance["repetition_times"].values()) == 48 and "unknown" not in data.provenance["repetition_times"]
    )


def test_classes_are_the_words_of_a_column(folder):
    path = folder / "participants.tsv"
    table = pd.read_csv(path, sep="\t")
    table["stage"] = ["AD", "CN", "MCI", "n/a"] * 6
    table.to_csv(path, sep="\t", index=False)
    data = made(Fmriprep, column="stage", classes=("CN", "AD"), baseline=False, val_fraction=0.2).load(folder)
    assert data.classes == ("CN", "AD") and np.bincount(data.targets).tolist() == [12, 12]
    assert data.provenance["left_out"] == {"no diagnosis of the task": 24}
    assert made(Fmriprep, column="stage", baseline=False, val_fraction=0.2).load(folder).classes == (
        "AD",
        "CN",
        "MCI",
    )
    for config, why in (
        ({"column": "nothing"}, "no column nothing"),
        ({"column": "age"}, "24 different words"),
        ({"column": "stage", "classes": ("CN", "FTD")}, "no run is of FTD"),
    ):
        with pytest.raises(DataError, match=why):
            made(Fmriprep, **config).load(folder)


def test_runs_that_move_are_left_out_by_their_reason_and_others_are_shorter(folder):
    data = made(FmriprepAge, scrub=0.5, confounds="24", detrend=True).load(folder)
    lengths = {len(data.inputs["volume_sequence"].read(i)) for i in range(12)}
    assert min(lengths) < 40 and max(lengths) <= 40
    plain = made(FmriprepAge).load(folder)
    assert plain.inputs["volume_sequence"].fingerprint != data.inputs["volume_sequence"].fingerprint
    one, other = (each.provenance["table_baselines"]["functional connectivity"] for each in (plain, data))
    assert one["mae"] != other["mae"] and one["fields"] == other["fields"]
    next((folder / FIRST).glob("*_run-1_desc-confounds*")).unlink()
    data = made(FmriprepAge, scrub=0.5).load(folder)
    with pytest.raises(DataError, match="no table of confounds"):
        data.inputs["volume_sequence"].read(0)
    (fields,) = data.provenance["table_baselines"]["functional connectivity"]["fields"]
    assert "1 without: no table of confounds" in fields
