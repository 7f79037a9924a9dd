"""Several questions on one volume: who is asked what, in which words, and on which split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cohorts.adni.reader import read_adni
from medgraft.benchmarks.tasks import build_task
from medgraft.benchmarks.tasks.brain.brain_prompts import AGE_LIMITS, BY_NAME, QUESTIONS, BrainPrompts, answers_of
from medgraft.encoders.slices import take_slices
from medgraft.errors import ConfigError, DataError
from medgraft.task import TaskData

ALONE = ("brain_prompts:diagnosis", "brain_prompts:age", "brain_prompts:sex", "brain_prompts:ventricles")


@pytest.fixture(scope="module")
def data(adni_cohort: Path) -> TaskData:
    return build_task("brain_prompts").load(adni_cohort).check()


def asked(data: TaskData) -> np.ndarray:
    assert data.asked is not None
    return data.asked


def texts(data: TaskData, split: str) -> list[tuple[int, str]]:
    return [(int(asked(data)[i]), data.inputs["text"].read(int(i))) for i in data.splits[split]]


def test_every_visit_is_asked_every_question_and_the_target_answers_it(data):
    counts = np.bincount(asked(data))
    assert data.questions == ("diagnosis", "age", "sex", "ventricles") and len(set(counts)) == 1
    for question, classes in enumerate(data.answers):
        names = [data.classes[k].partition(": ") for k in classes]
        assert [name[0] for name in names] == [data.questions[question]] * len(classes)
        assert tuple(name[2] for name in names) == QUESTIONS[question].answers
        assert set(data.targets[asked(data) == question]) <= set(classes)


def test_test_wordings_are_never_trained_on(data):
    trained, tested = set(texts(data, "train")), set(texts(data, "test")) | set(texts(data, "val"))
    assert not {text for _, text in trained} & {text for _, text in tested}
    for question, each in enumerate(QUESTIONS):
        assert {text for q, text in trained if q == question} <= set(each.wordings)
        assert {text for q, text in tested if q == question} <= set(each.held_out)


def test_wordings_of_a_question_belong_to_it_alone():
    every = [text for each in QUESTIONS for text in (*each.wordings, *each.held_out)]
    assert len(set(every)) == len(every) and all(text.strip() for text in every)


def test_seen_wordings_are_an_option(adni_cohort):
    found = build_task("brain_prompts", {"wording": "seen"}).load(adni_cohort)
    assert {text for q, text in texts(found, "test")} <= {text for each in QUESTIONS for text in each.wordings}


def test_answers_are_those_of_the_tables(adni_cohort, data):
    frame = read_adni(adni_cohort).frame
    units = len(frame[frame["subject"].isin(data.subjects)])
    sex = [k for k in range(len(data.targets)) if asked(data)[k] == 2]
    words = {data.subjects[k]: data.classes[data.targets[k]] for k in sex}
    assert units and words == {row.subject: f"sex: {row.sex}" for row in frame.itertuples() if row.subject in words}


def test_sizes_of_ventricles_are_thirds_of_the_training_visits():
    n = 90
    frame = pd.DataFrame({"dx": "CN", "sex": "F", "age": 75.0, "ICV": 1e6, "Ventricles": np.arange(n) * 100.0})
    train = np.arange(0, n, 2)
    found, limits = answers_of(frame, train)
    assert np.bincount(found["ventricles"][train]).tolist() == [15, 15, 15] and limits[0] < limits[1]


def test_age_groups_begin_at_their_limits_and_gaps_are_not_asked():
    ages = [AGE_LIMITS[0] - 0.1, AGE_LIMITS[0], AGE_LIMITS[1] - 0.1, AGE_LIMITS[1], np.nan]
    frame = pd.DataFrame({"dx": "CN", "sex": ["F", "M", None, "F", "M"], "age": ages, "ICV": 1e6, "Ventricles": np.nan})
    found, _ = answers_of(frame, np.arange(5))
    assert found["age"].tolist() == [0, 1, 1, 2, -1] and found["sex"].tolist() == [0, 1, -1, 0, 1]
    assert found["ventricles"].tolist() == [-1] * 5


def test_no_subject_is_in_two_splits_and_all_models_share_the_split(adni_cohort, data):
    homes = {name: set(data.subjects[index]) for name, index in data.splits.items()}
    assert not (homes["train"] & homes["test"] or homes["train"] & homes["val"] or homes["val"] & homes["test"])
    for name in (*ALONE, "brain_prompts:without_text"):
        other = build_task(name).load(adni_cohort)
        assert {split: set(other.subjects[index]) for split, index in other.splits.items()} == homes


@pytest.mark.parametrize("name", ALONE)
def test_a_question_alone_has_its_own_classes_only(adni_cohort, name):
    found = build_task(name).load(adni_cohort).check()
    question = BY_NAME[name.partition(":")[2]]
    assert found.classes == tuple(f"{question.name}: {answer}" for answer in question.answers)
    assert set(asked(found)) == {0}


def test_without_text_there_is_no_prompt(adni_cohort, data):
    found = build_task("brain_prompts:without_text").load(adni_cohort)
    assert set(found.inputs) == {"volume"} and np.array_equal(found.targets, data.targets)


def test_volumes_know_their_voxels_so_that_slices_can_be_cut_in_millimetres(data):
    volume = data.inputs["volume"].read(0)
    assert volume.spacing == pytest.approx((6.0, 6.0, 6.0)) and volume.dtype == np.float32
    assert len(take_slices(volume, 2, 100, 12.0)) == round(volume.shape[2] / 2)
    assert data.inputs["volume"].read(1) is volume, "the questions on a visit share one reading"


def test_provenance_holds_no_identifier(adni_cohort, data):
    people = set(read_adni(adni_cohort).frame["subject"])
    assert data.phantom and not any(person in str(data.provenance) for person in people)
    assert data.provenance["unanswered"] == {"diagnosis": 0, "age": 0, "sex": 0, "ventricles": 0}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"questions": ["handedness"]}, "diagnosis"),
        ({"questions": []}, "questions"),
        ({"questions": ["sex", "sex"]}, "names one twice"),
        ({"test_fraction": 0.8, "val_fraction": 0.3}, "leave no subject"),
    ],
)
def test_bad_options_are_named(options, words):
    with pytest.raises(ConfigError, match=words):
        build_task("brain_prompts", options)


def test_a_question_that_no_table_answers_is_refused_by_name(adni_cohort, monkeypatch):
    from medgraft.benchmarks.tasks.brain import brain_prompts

    def blind(root: Path):
        table = read_adni(root)
        table.frame["Ventricles"] = np.nan
        return table

    monkeypatch.setattr(brain_prompts, "read_adni", blind)
    with pytest.raises(DataError, match=r"no training visit answers 'ventricles' .*options: questions"):
        BrainPrompts().load(adni_cohort)
    found = BrainPrompts(BrainPrompts.Config(questions=("diagnosis", "sex"))).load(adni_cohort).check()
    assert found.questions == ("diagnosis", "sex") and len(found.classes) == 5
