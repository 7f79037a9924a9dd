"""CheXpert as labels and as the five-class set, read from a tiny phantom in the real layout."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.chest.chexpert import CHEXPERT_14, COMPETITION_5, read_chexpert
from medgraft.benchmarks.tasks import build_task
from medgraft.errors import ConfigError, DataError
from medgraft.task import TaskData

PATIENT = re.compile(r"patient\d+")
FOLDER = "CheXpert-v1.0-small"


@pytest.fixture(scope="module")
def labels(chest_cohort: Path) -> TaskData:
    return build_task("chexpert").load(chest_cohort).check()


@pytest.fixture(scope="module")
def five(chest_cohort: Path) -> TaskData:
    return build_task("chexpert_5x200").load(chest_cohort).check()


@pytest.fixture
def copy(chest_cohort: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(chest_cohort, tmp_path / "copy"))


def disjoint(data: TaskData) -> bool:
    homes = [set(data.subjects[index]) for index in data.splits.values()]
    return len(set().union(*homes)) == sum(map(len, homes))


def rewrite(copy: Path, table: str, change) -> None:
    path = copy / FOLDER / table
    frame = pd.read_csv(path)
    change(frame)
    frame.to_csv(path, index=False)


# --- findings as labels -----------------------------------------------------------------------------------------------


def test_no_patient_is_in_two_splits(labels):
    assert disjoint(labels)


def test_the_test_split_is_the_test_table(labels, chest_cohort):
    table = read_chexpert(chest_cohort, "test").frame
    assert sorted(labels.subjects[labels.splits["test"]]) == sorted(table["subject"])
    assert labels.provenance["tested_on"] == "test"


def test_a_training_patient_who_is_in_the_test_table_is_left_out_and_counted(copy):
    patient = read_chexpert(copy, "test").frame["subject"][0]

    def move(frame: pd.DataFrame) -> None:
        old = PATIENT.search(frame["Path"][0])
        assert old is not None
        shutil.copytree(copy / FOLDER / "train" / old[0], copy / FOLDER / "train" / patient)
        frame.loc[0, "Path"] = frame["Path"][0].replace(old[0], patient)

    rewrite(copy, "train.csv", move)
    data = build_task("chexpert").load(copy).check()
    assert patient not in set(data.subjects[data.splits["train"]]) | set(data.subjects[data.splits["val"]])
    assert data.provenance["reader"]["train"]["skipped"]["subject held out"] == 1


def test_a_copy_without_a_test_table_is_tested_on_valid_and_says_so(copy):
    (copy / FOLDER / "test.csv").unlink()
    data = build_task("chexpert").load(copy).check()
    assert sorted(data.subjects[data.splits["test"]]) == sorted(read_chexpert(copy, "valid").frame["subject"])
    assert data.provenance["tested_on"] == "valid"


def test_a_test_table_that_lacks_a_column_is_an_error_and_is_not_replaced(copy):
    path = copy / FOLDER / "test.csv"
    path.write_text(path.read_text().replace("Edema", "Edma", 1))
    with pytest.raises(DataError, match=r"test\.csv has no column Edema"):
        build_task("chexpert").load(copy)


def test_classes_are_the_five_or_all_fourteen(labels, chest_cohort):
    assert labels.classes == COMPETITION_5 and labels.targets.shape[1] == 5
    whole = build_task("chexpert", {"labels": "all", "uncertainty": "ones"}).load(chest_cohort)
    assert whole.classes == CHEXPERT_14 and whole.targets.shape[1] == 14


@pytest.mark.parametrize(
    ("policy", "targets", "counts"),
    [
        ("ones", [1, 1, 1, 1, 1], [True] * 5),
        ("zeros", [0, 0, 0, 0, 0], [True] * 5),
        ("best", [1, 0, 0, 1, 1], [True] * 5),  # atelectasis, oedema and effusion become 1
        ("ignore", None, [False] * 5),
    ],
)
def test_an_uncertain_label_becomes_what_the_policy_says(copy, policy, targets, counts):
    def unsure(frame: pd.DataFrame) -> None:
        frame[list(COMPETITION_5)] = frame[list(COMPETITION_5)].astype(float)
        frame.loc[0, list(COMPETITION_5)] = -1.0

    rewrite(copy, "train.csv", unsure)
    data = build_task("chexpert", {"uncertainty": policy}).load(copy)
    assert data.mask is not None and data.mask[0].tolist() == counts
    assert targets is None or data.targets[0].tolist() == targets
    assert data.provenance["uncertainty"] == policy


def test_nothing_is_scored_against_a_guess(copy):
    def unsure(frame: pd.DataFrame) -> None:
        frame["Edema"] = frame["Edema"].astype(float)
        frame.loc[0, "Edema"] = -1.0

    rewrite(copy, "test.csv", unsure)
    data = build_task("chexpert", {"uncertainty": "ones"}).load(copy)
    assert data.mask is not None
    assert data.mask[data.splits["test"]][0].tolist() == [name != "Edema" for name in COMPETITION_5]


def test_blank_labels_count_as_absent(labels, chest_cohort):
    raw = read_chexpert(chest_cohort, "train").labels(COMPETITION_5)
    blank = np.isnan(raw)
    train = labels.targets[: len(raw)]
    assert blank.any() and not train[blank].any()


def test_images_are_grey_arrays(labels):
    image = labels.inputs["image"].read(0)
    assert image.dtype == np.uint8 and image.shape == (64, 64)


# --- the five-class set -----------------------------------------------------------------------------------------------


def test_patients_of_the_five_class_set_never_train(five, chest_cohort):
    tested = set(read_chexpert(chest_cohort, "5x200").frame["subject"])
    assert set(five.subjects[five.splits["test"]]) == tested
    assert tested.isdisjoint(set(five.subjects[five.splits["train"]]) | set(five.subjects[five.splits["val"]]))


def test_other_images_of_a_tested_patient_do_not_train_either(copy):
    patient = read_chexpert(copy, "5x200").frame["subject"][0]
    second = copy / FOLDER / "train" / patient / "study9"
    shutil.copytree(next((copy / FOLDER / "train" / patient).iterdir()), second)
    before = build_task("chexpert_5x200").load(copy).splits["train"]

    def add(frame: pd.DataFrame) -> None:
        image = next(second.iterdir()).name
        frame.loc[len(frame)] = frame.loc[0]
        frame.loc[len(frame) - 1, "Path"] = f"{FOLDER}/train/{patient}/study9/{image}"

    rewrite(copy, "train.csv", add)
    data = build_task("chexpert_5x200").load(copy).check()
    assert patient not in set(data.subjects[data.splits["train"]]) and len(data.splits["train"]) == len(before)
    assert data.provenance["reader"]["train"]["skipped"]["subject held out"] >= 1


def test_every_class_has_its_number_of_images(five):
    assert np.bincount(five.targets[five.splits["test"]]).tolist() == [4] * 5


def test_training_samples_have_no_class_but_labels_and_a_report(five):
    train = five.splits["train"]
    assert (five.targets[train] == -1).all() and five.labels is not None and set(np.unique(five.labels)) <= {0.0, 1.0}
    assert all(five.inputs["text"].read(int(i)).strip() for i in train)


def test_prompts_are_the_templates_with_each_findings_name(chest_cohort):
    data = build_task("chexpert_5x200", {"templates": ["{} is seen."]}).load(chest_cohort)
    assert data.prompts is not None and data.prompts[0] == ("atelectasis is seen.",)
    assert len(data.prompts) == 5 and data.provenance["templates"] == ["{} is seen."]


@pytest.fixture
def exclusive(copy: Path) -> Path:
    """A copy whose first 20 training films show one of the five findings each, and no other."""

    def alone(frame: pd.DataFrame) -> None:
        frame[list(CHEXPERT_14)] = frame[list(CHEXPERT_14)].astype(float)
        frame.loc[:19, list(CHEXPERT_14)] = np.nan
        for row in range(20):
            frame.loc[row, COMPETITION_5[row % 5]] = 1.0

    rewrite(copy, "train.csv", alone)
    (copy / FOLDER / "chexpert_5x200.csv").unlink()
    return copy


def test_a_regenerated_set_is_drawn_from_training_and_recorded(exclusive):
    data = build_task("chexpert_5x200", {"classes_from": "regenerated", "per_class": 2}).load(exclusive).check()
    assert np.bincount(data.targets[data.splits["test"]]).tolist() == [2] * 5
    assert data.provenance["classes_from"] == "regenerated" and disjoint(data)
    trained = set(read_chexpert(exclusive, "train").frame["subject"])
    assert set(data.subjects[data.splits["test"]]) <= trained


def test_a_copy_without_the_published_set_needs_the_option(exclusive):
    with pytest.raises(DataError, match=r"no chexpert_5x200\.csv"):
        build_task("chexpert_5x200").load(exclusive)


def test_another_seed_regenerates_another_set(exclusive):
    hashes = {
        build_task("chexpert_5x200", {"classes_from": "regenerated", "per_class": 2, "split_seed": seed})
        .load(exclusive)
        .split_hash()
        for seed in range(3)
    }
    assert len(hashes) == 3


def test_too_few_exclusive_images_are_an_error_with_their_numbers(chest_cohort):
    with pytest.raises(DataError, match="200 images per class were asked for, but the table has only"):
        build_task("chexpert_5x200", {"classes_from": "regenerated"}).load(chest_cohort)


def test_missing_reports_name_the_table_that_holds_them(copy):
    (copy / FOLDER / "df_chexpert_plus_240401.csv").unlink()
    with pytest.raises(DataError, match=r"no report for any training image.*df_chexpert_plus_240401\.csv"):
        build_task("chexpert_5x200").load(copy)


# --- what a result may say, and mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chexpert", "chexpert_5x200"])
def test_provenance_holds_no_identifier_and_says_phantom(chest_cohort, name):
    data = build_task(name).load(chest_cohort)
    text = json.dumps(data.provenance, default=str)
    assert data.phantom and data.provenance["generator"]
    assert not PATIENT.search(text) and str(chest_cohort) not in text


def test_the_best_policy_is_refused_for_labels_that_have_none():
    with pytest.raises(ConfigError, match="'best' is defined for the five competition labels only"):
        build_task("chexpert", {"labels": "all"})


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no train\.csv under"):
        build_task("chexpert").load(tmp_path)
