"""Diagnosis on ADNI, read from a tiny phantom in the real layout."""

from __future__ import annotations

import json
import re
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from medgraft.benchmarks.cohorts.adni.conversion import HORIZONS
from medgraft.benchmarks.cohorts.adni.reader import load_volume, read_adni
from medgraft.benchmarks.cohorts.places import data_of, was_trained_on
from medgraft.benchmarks.phantoms.brain.cohort import write_cohort
from medgraft.benchmarks.tasks import build_task
from medgraft.benchmarks.tasks.brain.adni import DIAGNOSES
from medgraft.encoders import m3d, medicalnet, neuro_simclr
from medgraft.encoders.slices import take_slices
from medgraft.errors import ConfigError, DataError
from medgraft.files.content import file_facts
from medgraft.registry import build_encoder
from medgraft.task import TaskData
from medgraft.testing.phantoms import small_phantom

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


def test_a_volume_knows_the_size_of_its_voxels_and_is_the_same_to_who_does_not_ask(adni_cohort, frame):
    volume = build_task("adni_image").load(adni_cohort).inputs["volume"].read(0)
    plain, _ = load_volume(frame["image"][0])
    assert volume.spacing == (6.0, 6.0, 6.0) and type(plain) is np.ndarray
    towers = {name: build_encoder(name).towers()["volume"].prepare for name in ("phantom_brain@random", "pixels:3d")}
    sized = {each.__name__: partial(each.prepare_volume, size=(8, 24, 16)) for each in (m3d, medicalnet, neuro_simclr)}
    for name, prepare in (towers | sized).items():
        assert torch.equal(prepare(volume), prepare(plain)), name


def test_slices_by_millimetres_are_cut_from_the_tasks_volumes(adni_cohort):
    volume = build_task("adni_image").load(adni_cohort).inputs["volume"].read(0)
    for step in (12.0, 24.0):
        assert len(take_slices(volume, 2, 100, step)) == round(volume.shape[2] * 6 / step)


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
    with pytest.raises(
        ConfigError, match=r"text_policy.*'demographic', 'genetic', 'without_criteria', 'cognitive' or 'full'"
    ):
        build_task("adni_text", {"text_policy": "everything"})


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no ADNI cohort"):
        build_task("adni_image").load(tmp_path)


def test_the_control_reads_a_cohort_of_its_own():
    assert build_task("adni_image:nogap").cohort == "adni_nogap" != build_task("adni_image").cohort


# --- pairs, sites, variants ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "classes"),
    [("adni_image:ad_cn", ("CN", "AD")), ("adni_image:mci_cn", ("CN", "MCI")), ("adni_image:ad_mci", ("MCI", "AD"))],
)
def test_a_pair_leaves_the_third_diagnosis_out_and_counts_it(adni_cohort, frame, name, classes):
    data = build_task(name).load(adni_cohort).check()
    (third,) = set(DIAGNOSES) - set(classes)
    assert data.classes == classes and set(data.targets) == {0, 1}
    assert data.provenance["left_out"] == {third: int((frame["dx"] == third).sum())}
    assert "bayes_f1_macro" not in data.provenance, "the known ceiling is that of three classes"


def test_a_pair_is_also_an_option_of_the_other_inputs(adni_cohort):
    data = build_task("adni_image_text", {"contrast": "CN-AD"}).load(adni_cohort).check()
    assert data.split_hash() == build_task("adni_image:ad_cn").load(adni_cohort).split_hash()


def test_held_out_sites_are_new_to_the_test(adni_cohort, frame):
    data = build_task("adni_image", {"split": "site"}).load(adni_cohort).check()
    sites = {name: set(frame["site"].iloc[index]) for name, index in data.splits.items()}
    assert not sites["test"] & (sites["train"] | sites["val"])
    assert data.provenance["sites"]["test_shares_with_train"] == 0 and data.provenance["split_by"] == "site"
    plain = build_task("adni_image").load(adni_cohort)
    assert plain.provenance["sites"]["test_shares_with_train"] > 0


def test_sites_can_be_named(adni_cohort, frame):
    name = str(frame["site"].mode()[0])
    options = {"split": "site", "held_out_sites": [name]}
    data = build_task("adni_image", options).load(adni_cohort).check()
    assert set(frame["site"].iloc[data.splits["test"]].astype(str)) == {name}
    with pytest.raises(DataError, match=r"no subject is of site 77; the cohort has: 9"):
        build_task("adni_image", options | {"held_out_sites": ["77"]}).load(adni_cohort)
    with pytest.raises(ConfigError, match="held_out_sites needs split: site"):
        build_task("adni_image", {"held_out_sites": [name]})
    with pytest.raises(DataError, match="at least one on either side"):
        every = sorted(set(frame["site"].astype(str)))
        build_task("adni_image", options | {"held_out_sites": every}).load(adni_cohort)


def test_processed_variants_of_a_scan_never_straddle_a_split(adni_cohort):
    table = read_adni(adni_cohort, variants=True).frame
    for options in ({}, {"train_visits": "baseline"}, {"split": "site"}, {"stratify": ["dx", "field_strength"]}):
        data = build_task("adni_image", {"variants": "all", **options}).load(adni_cohort).check()
        scans = {name: set(table["scan"].iloc[index]) for name, index in data.splits.items()}
        assert not scans["train"] & scans["test"] and not scans["train"] & scans["val"]
        assert (table["variant"].iloc[data.splits["test"]] == 0).all()
        assert (table["variant"].iloc[data.splits["train"]] > 0).any()


def test_strata_are_shared_out(adni_cohort, frame):
    data = build_task("adni_image", {"stratify": ["sex"], "test_fraction": 0.5}).load(adni_cohort)
    women = [np.mean(frame["sex"].iloc[np.unique(data.splits[name])] == "F") for name in ("train", "test")]
    whole = frame.drop_duplicates("subject")
    assert abs(women[1] - (whole["sex"] == "F").mean()) < 0.1


# --- text -------------------------------------------------------------------------------------------------------------


def test_the_scores_that_define_the_diagnosis_can_be_left_out(adni_cohort):
    data = build_task("adni_text", {"text_policy": "without_criteria"}).load(adni_cohort)
    notes = [data.inputs["text"].read(i) for i in range(len(data.targets))]
    assert not [note for note in notes if re.search(r"MMSE|Mini-Mental|CDR", note)]
    assert any("ADAS-Cog" in note for note in notes)
    assert not {"MMSE", "CDRSB"} & set(data.provenance["text_fields"])


def test_a_result_says_how_many_notes_held_a_field(adni_cohort, frame):
    facts = build_task("adni_text").load(adni_cohort).provenance["texts_with_field"]
    assert facts["MMSE"] == int(frame["MMSE"].notna().sum()) < len(frame) == facts["age"]


def test_a_visit_of_which_no_table_says_anything_has_no_note(adni_cohort, tmp_path):
    copy = Path(shutil.copytree(adni_cohort, tmp_path / "copy"))
    table, search = pd.read_csv(copy / "ADNIMERGE.csv"), pd.read_csv(copy / "ADNI_phantom_search.csv", dtype=str)
    silent = table["PTID"].drop_duplicates().iloc[:3]
    table.loc[table["PTID"].isin(silent), ["AGE", "PTGENDER", "PTEDUCAT"]] = None
    table.to_csv(copy / "ADNIMERGE.csv", index=False)
    search.loc[search["Subject"].isin(silent), ["Age", "Sex"]] = None
    search.to_csv(copy / "ADNI_phantom_search.csv", index=False)
    data = build_task("adni_text", {"text_policy": "demographic"}).load(copy).check()
    used = np.concatenate(list(data.splits.values()))
    assert not set(data.subjects[used]) & set(silent)
    assert data.provenance["left_out"] == {
        "no field for the note": int(data.subjects[np.isin(data.subjects, silent)].size)
    }
    assert data.split_hash() != build_task("adni_image").load(copy).split_hash()
    both = set(data.subjects[data.splits["test"]])
    assert both <= set(build_task("adni_image").load(copy).subjects[build_task("adni_image").load(copy).splits["test"]])


# --- conversion -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visits_cohort() -> Path:
    return small_phantom("adni_visits")


@pytest.mark.slow
def test_conversion_labels_are_those_of_the_follow_up(visits_cohort):
    data = build_task("adni_mci_conversion", {"horizon": 24}).load(visits_cohort).check()
    truth = {row["subject"]: row["conversion_month"] for row in json.loads((visits_cohort / "truth.json").read_text())}
    table = read_adni(visits_cohort).frame
    month = {subject: part["month"].max() for subject, part in table.groupby("subject")}
    for subject, target in zip(data.subjects[data.splits["test"]], data.targets[data.splits["test"]], strict=True):
        converts = truth[subject] is not None and truth[subject] <= 24
        assert target == converts, "a first visit, so the horizon counts from baseline"
        assert month[subject] >= 24 or target == 1, "nobody is stable for lack of follow-up"
    assert data.classes == ("sMCI", "pMCI") and set(data.provenance["left_out"]) <= {
        "not MCI", "unknown", "unstable", "reverted"
    }  # fmt: skip


@pytest.mark.slow
def test_conversion_brings_the_tables_own_numbers_on_the_same_subjects(visits_cohort):
    facts = build_task("adni_mci_conversion", {"horizon": 24}).load(visits_cohort).provenance
    found = facts["table_baselines"]
    assert {"age, sex, APOE", "cognition", "hippocampal volume"} <= set(found) and facts["horizon_months"] == 24
    assert all(len(each["auc_macro"]) == 3 for each in found.values())
    assert not PTID.search(json.dumps(facts, default=str))


@pytest.mark.slow
def test_a_horizon_beyond_the_follow_up_is_refused_with_the_counts(visits_cohort):
    with pytest.raises(DataError, match=r"sMCI from pMCI, and the cohort has only: 0 sMCI, \d+ pMCI"):
        build_task("adni_mci_conversion", {"horizon": 60}).load(visits_cohort)


@pytest.mark.slow
def test_a_cohort_that_is_followed_for_six_years_serves_every_published_horizon(tmp_path):
    write_cohort(tmp_path / "adni", n_subjects=90, seed=2027, spacing=8.0, max_visits=8)
    table = read_adni(tmp_path / "adni")
    assert table.visits["month"].max() == 72 and table.frame["image"].is_unique
    stable = []
    for horizon in HORIZONS:
        data = build_task("adni_mci_conversion", {"horizon": horizon}).load(tmp_path / "adni").check()
        assert all(len(set(data.targets[data.splits[name]])) == 2 for name in ("train", "test"))
        stable.append(set(data.subjects[data.targets == 0]))
    assert stable[2] <= stable[1] <= stable[0], "who is stable for long is stable for a while"


def test_a_real_copy_of_adni_serves_the_conversion_too(adni_cohort):
    assert data_of(build_task("adni_mci_conversion").cohort) == "adni"
    assert (
        was_trained_on(["ADNI"], "adni_visits")
        and was_trained_on(["ADNI3"], "adni")
        and not was_trained_on(["phantom brain (pretrain)"], "adni")
    )
