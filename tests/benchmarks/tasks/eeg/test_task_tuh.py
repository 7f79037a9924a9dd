"""TUAB and TUEV: their own test split, events where annotations say, and what is left out of them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from medgraft.benchmarks.cohorts.eeg.tuh import events_of
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.benchmarks.tasks.eeg.tuh import Tuab, Tuev
from medgraft.cohort import cohort_class
from medgraft.errors import DataError
from medgraft.testing.phantoms import small_phantom


def tuab(**options) -> Tuab:
    return Tuab(Tuab.Config(**({"seconds": 4, "baselines": False} | options)))


def tuev(**options) -> Tuev:
    return Tuev(Tuev.Config(**({"seconds": 2, "baselines": False} | options)))


def copied(name: str, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_phantom(name), tmp_path / name))


def test_recordings_keep_their_part_and_validation_is_drawn_from_training():
    data = tuab().load(small_phantom("tuab")).check()
    assert data.classes == ("normal", "abnormal") and data.given_test and data.phantom and len(data.targets) == 36
    assert {name: len(np.unique(data.subjects[part])) for name, part in data.splits.items()} == {
        "train": 10, "val": 2, "test": 6,
    }  # fmt: skip
    window = data.inputs["signal"].read(0)
    assert window.channels[:2] == ("FP1", "FP2") and "T7" in window.channels and window.values.shape == (19, 512)
    assert set(data.attributes["sex"]) == {"F", "M"} and all(20 <= age < 90 for age in data.attributes["age"])
    assert data.provenance["bayes_f1_macro"] == pytest.approx(0.8944, abs=2e-3)  # Phi(2.5 / 2)


def test_a_patient_of_both_parts_is_tested_and_not_trained_on(tmp_path):
    folder = copied("tuab", tmp_path)
    file = next((folder / "edf/eval/normal/01_tcp_ar").glob("*.edf"))
    shutil.copy(file, folder / "edf/train/normal/01_tcp_ar" / file.name.replace("s001", "s002"))
    (folder / "edf/train/unsure").mkdir()
    shutil.copy(file, folder / "edf/train/unsure" / "phantom999_s001_t000.edf")
    data = tuab().load(folder).check()
    assert data.provenance["reader"]["skipped"] == {
        "a recording in a folder that is neither normal nor abnormal": 1,
        "a training recording of a patient of the evaluation part": 1,
    }


def test_a_window_lies_around_its_event():
    folder = small_phantom("tuev")
    data = tuev().load(folder).check()
    assert data.classes == ("SPSW", "GPED", "PLED", "EYEM", "ARTF", "BCKG") and len(data.targets) == 72
    assert np.bincount(data.targets).tolist() == [12] * 6
    for i in np.flatnonzero(data.targets == 3):
        window = data.inputs["signal"].read(int(i))
        front = window.values[[window.channels.index(name) for name in ("FP1", "FP2")]].mean(axis=0)
        assert abs(np.argmax(front) - 128) < 30  # of two seconds at 128 Hz; the phantom blinks elsewhere, too


def test_events_beyond_the_end_and_unknown_codes_are_counted(tmp_path):
    file = tmp_path / "one.rec"
    file.write_text("0,1.0,2.0,1\n5,1.0,2.0,1\n\n3,2.5,3.5,6\n3,9.5,10.5,6\n3,2.0,3.0,7\n40,2.0,3.0,1\n")
    report = ReadReport()
    found = events_of(str(file), 10.0, report)
    assert [tuple(event) for event in found] == [(1.0, 2.0, 1), (2.5, 3.5, 6)]
    assert report.skipped == {
        "an event of a code or a channel that nobody knows": 2,
        "an event beyond the end of its recording": 1,
    }


@pytest.mark.parametrize("line", ["0,1.0,2.0", "a,b,c,d", "0,2.0,1.0,1", "0,nan,1.0,1", "0;1;2;1"])
def test_a_damaged_annotation_leaves_its_recording_out(tmp_path, line):
    folder = copied("tuev", tmp_path)
    file = next((folder / "edf/train").glob("*/*.rec"))
    file.write_text(line + "\n")
    data = tuev().load(folder)
    assert data.provenance["reader"]["skipped"] == {"a recording left out: annotations that cannot be read": 1}
    assert len(data.targets) == 66


def test_recordings_and_annotations_without_the_other_are_counted(tmp_path):
    folder = copied("tuev", tmp_path)
    first, second = sorted((folder / "edf/train").glob("*/*.rec"))[:2]
    first.unlink()
    second.with_suffix(".edf").unlink()
    skipped = tuev(windows=3).load(folder).provenance["reader"]["skipped"]
    assert skipped == {"a recording without annotations": 1, "annotations without a recording": 1}


@pytest.mark.parametrize("task", [tuab, tuev])
def test_another_layout_is_named(tmp_path, task):
    with pytest.raises(DataError, match="no folders edf/train and edf/eval"):
        task().load(tmp_path)
    for part in ("train", "eval"):
        (tmp_path / "edf" / part).mkdir(parents=True)
    with pytest.raises(DataError, match=r"holds no .*recording of TU"):
        task().load(tmp_path)


@pytest.mark.parametrize("name", ["tuab", "tuev"])
def test_a_copy_without_its_marker_is_known_for_a_phantom(name, tmp_path):
    folder = copied(name, tmp_path)
    (folder / "PHANTOM").unlink()
    files = [str(path.relative_to(folder)) for path in folder.rglob("*.edf")]
    assert cohort_class(name).made_up(files)
    assert not cohort_class(name).made_up([file.replace("phantom0", "aaaaab") for file in files])
    assert (tuab if name == "tuab" else tuev)().load(folder).phantom
