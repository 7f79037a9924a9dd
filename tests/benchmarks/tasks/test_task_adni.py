"""Diagnosis on ADNI, read from a tiny phantom in the real layout."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.data.adni import read_adni
from medgraft.benchmarks.tasks import build_task
from medgraft.benchmarks.tasks.adni import DIAGNOSES, file_facts
from medgraft.errors import ConfigError, DataError
from medgraft.task import TaskData

NAMES = ("adni_image", "adni_text", "adni_image_text")
PTID = re.compile(r"\d{3}_S_\d{4}")


@pytest.fixture(scope="module")
def frame(adni_cohort: Path) -> pd.DataFrame:
    return read_adni(adni_cohort).frame


@pytest.fixture(scope="module")
def image(adni_cohort: Path) -> TaskData:
    return build_task("adni_image").load(adni_cohort).check()


def first_visits(frame: pd.DataFrame) -> np.ndarray:
    """Positions of each subject's earliest visit, found without the harness."""
    return np.array(sorted(part["month"].idxmin() for _, part in frame.groupby("subject")))


# --- splits -----------------------------------------------------------------------------------------------------------


def test_no_subject_is_in_two_splits(image):
    homes = {name: set(image.subjects[index]) for name, index in image.splits.items()}
    assert not (homes["train"] & homes["val"] or homes["train"] & homes["test"] or homes["val"] & homes["test"])


def test_test_and_validation_hold_first_visits_only_and_of_every_subject(image, frame):
    first = set(first_visits(frame))
    for name in ("val", "test"):
        index = image.splits[name]
        assert set(index) <= first and len(index) == len(set(image.subjects[index]))


def test_every_subject_of_the_cohort_is_in_a_split(image, frame):
    placed = np.concatenate([image.subjects[index] for index in image.splits.values()])
    assert set(placed) == set(frame["subject"])


def test_training_sees_every_visit_of_its_subjects(image):
    train = set(image.subjects[image.splits["train"]])
    every = [i for i, subject in enumerate(image.subjects) if subject in train]
    assert image.splits["train"].tolist() == every and len(every) > len(train)


def test_training_may_be_held_to_first_visits(adni_cohort, frame):
    data = build_task("adni_image", {"train_visits": "baseline"}).load(adni_cohort)
    assert set(data.splits["train"]) <= set(first_visits(frame))
    assert len(data.splits["train"]) == len(set(data.subjects[data.splits["train"]]))


def test_every_diagnosis_is_in_training_and_test(image):
    for name in ("train", "test"):
        assert set(image.targets[image.splits[name]]) == {0, 1, 2}


def test_the_split_is_the_same_for_all_inputs(adni_cohort):
    found = [build_task(name).load(adni_cohort) for name in NAMES]
    assert len({data.split_hash() for data in found}) == 1


def test_another_split_seed_is_another_split(adni_cohort, image):
    assert build_task("adni_image", {"split_seed": 1}).load(adni_cohort).split_hash() != image.split_hash()


def test_targets_are_the_diagnoses_of_the_table(image, frame):
    assert [DIAGNOSES[target] for target in image.targets] == frame["dx"].tolist()


# --- inputs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "modalities"),
    [("adni_image", ("volume",)), ("adni_text", ("text",)), ("adni_image_text", ("volume", "text"))],
)
def test_a_sample_has_the_inputs_that_the_task_names(adni_cohort, name, modalities):
    data = build_task(name).load(adni_cohort)
    assert tuple(data.inputs) == modalities
    assert {raw.count for raw in data.inputs.values()} == {len(data.targets)}


def test_volumes_and_notes_are_read(adni_cohort):
    data = build_task("adni_image_text").load(adni_cohort)
    volume, note = data.inputs["volume"].read(0), data.inputs["text"].read(0)
    assert volume.ndim == 3 and volume.dtype == np.float32 and "year" in note


def test_a_richer_text_policy_says_more_and_is_recorded(adni_cohort):
    fields = {}
    for policy in ("demographic", "genetic", "cognitive", "full"):
        data = build_task("adni_text", {"text_policy": policy}).load(adni_cohort)
        note = data.inputs["text"].read(0)
        assert ("APOE" in note, "MMSE" in note or "Mini-Mental" in note, "CDR" in note) == (
            policy != "demographic",
            policy in ("cognitive", "full"),
            policy == "full",
        )
        assert data.provenance["text_policy"] == policy
        fields[policy] = set(data.provenance["text_fields"])
    assert fields["demographic"] < fields["genetic"] < fields["cognitive"] < fields["full"]


def test_no_note_states_the_diagnosis(adni_cohort):
    data = build_task("adni_text", {"text_policy": "full"}).load(adni_cohort)
    words = re.compile(r"\b(alzheimer|dementia|mci|cn|ad|cognitively normal)\b", re.IGNORECASE)
    assert [note for i in range(len(data.targets)) if words.search(note := data.inputs["text"].read(i))] == []


def test_another_text_policy_is_another_input_of_the_cache(adni_cohort):
    prints = {
        build_task("adni_text", {"text_policy": policy}).load(adni_cohort).inputs["text"].fingerprint
        for policy in ("cognitive", "full")
    }
    assert len(prints) == 2


def test_a_changed_image_changes_the_fingerprint(tmp_path):
    path = tmp_path / "a.nii"
    path.write_bytes(b"1")
    before = file_facts([str(path)], tmp_path)
    path.write_bytes(b"12")
    assert file_facts([str(path)], tmp_path) != before


def test_the_fingerprint_does_not_depend_on_where_a_copy_lies(tmp_path):
    import os

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.nii").write_bytes(b"1")
        os.utime(tmp_path / name / "a.nii", ns=(5, 5))
    prints = {file_facts([str(tmp_path / name / "a.nii")], tmp_path / name) for name in ("one", "two")}
    assert len(prints) == 1


# --- what a result may say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_provenance_holds_no_identifier(adni_cohort, frame, name):
    text = json.dumps(build_task(name).load(adni_cohort).provenance, default=str)
    assert not PTID.search(text) and str(adni_cohort) not in text
    assert not any(str(identity) in text for identity in frame["image_id"])


def test_a_phantom_says_so_with_its_generator_and_ceiling(adni_cohort):
    ceilings = {}
    for name in NAMES:
        data = build_task(name).load(adni_cohort)
        assert data.phantom and data.provenance["generator"].startswith("brain-")
        ceilings[name] = data.provenance["bayes_f1_macro"]
    assert 1 / 3 < ceilings["adni_image"] < ceilings["adni_image_text"] <= 1


def test_the_reader_counts_what_it_used_and_why_it_left_the_rest_out(adni_cohort, tmp_path):
    copy = Path(shutil.copytree(adni_cohort, tmp_path / "copy"))
    next(iter(sorted(copy.rglob("*.nii")))).unlink()
    data = build_task("adni_image").load(copy)
    reader = data.provenance["reader"]
    assert reader["used"] == len(data.targets)
    assert {type(reason) for reason in reader["skipped"]} == {str} and sum(reader["skipped"].values()) >= 1


# --- mistakes ---------------------------------------------------------------------------------------------------------


def test_options_that_leave_no_training_subject_are_refused():
    with pytest.raises(ConfigError, match="leave no subject for training"):
        build_task("adni_image", {"test_fraction": 0.6, "val_fraction": 0.4})


def test_an_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"text_policy.*'demographic', 'genetic', 'cognitive' or 'full'"):
        build_task("adni_text", {"text_policy": "everything"})


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no ADNI cohort"):
        build_task("adni_image").load(tmp_path)


def test_the_control_reads_a_cohort_of_its_own():
    assert build_task("adni_image_nogap").cohort == "adni_nogap" != build_task("adni_image").cohort
