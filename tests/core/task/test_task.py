"""Splits by subject, and the checks and the digest of a task's data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.errors import DataError
from medgraft.task import RawInputs, Task, TaskConfig, TaskData, subject_split

fast = settings(max_examples=100, deadline=None, derandomize=True, database=None)
FRACTIONS = {"train": 0.6, "val": 0.15, "test": 0.25}


@st.composite
def cohorts(draw):
    """Subjects with one to four samples each, in any order, and a stratum per subject."""
    strata = draw(st.lists(st.sampled_from(["AD", "CN", "MCI"]), min_size=1, max_size=40))
    rows = [f"s{i}" for i in range(len(strata)) for _ in range(draw(st.integers(1, 4)))]
    subjects = draw(st.permutations(rows))
    return np.array(subjects), np.array([strata[int(subject[1:])] for subject in subjects])


cohort_and_seed = given(cohort=cohorts(), seed=st.integers(0, 2**31))


@fast
@cohort_and_seed
def test_every_sample_is_in_exactly_one_split(cohort, seed):
    parts = subject_split(*cohort, FRACTIONS, seed)
    assert list(parts) == list(FRACTIONS)
    assert sorted(np.concatenate(list(parts.values()))) == list(range(len(cohort[0])))


@fast
@cohort_and_seed
def test_no_subject_is_in_two_splits(cohort, seed):
    parts = [set(cohort[0][index]) for index in subject_split(*cohort, FRACTIONS, seed).values()]
    assert sum(len(part) for part in parts) == len(set.union(*parts))


@fast
@given(cohort=cohorts(), seed=st.integers(0, 2**31), shuffle=st.randoms(use_true_random=False))
def test_the_order_of_the_samples_does_not_matter(cohort, seed, shuffle):
    subjects, strata = cohort
    order = list(range(len(subjects)))
    shuffle.shuffle(order)
    one = subject_split(subjects, strata, FRACTIONS, seed)
    other = subject_split(subjects[order], strata[order], FRACTIONS, seed)
    assert all(set(subjects[one[name]]) == set(subjects[order][other[name]]) for name in FRACTIONS)


@fast
@cohort_and_seed
def test_every_stratum_is_shared_out_by_the_fractions(cohort, seed):
    subjects, strata = cohort
    parts = subject_split(subjects, strata, FRACTIONS, seed)
    for stratum in set(strata):
        members = set(subjects[strata == stratum])
        for name, share in FRACTIONS.items():
            # Rounded bounds put each share within one subject of its exact size.
            assert abs(len(members & set(subjects[parts[name]])) - share * len(members)) <= 1


@fast
@cohort_and_seed
def test_indices_are_ascending(cohort, seed):
    assert all((np.diff(index) > 0).all() for index in subject_split(*cohort, FRACTIONS, seed).values())


def test_the_seed_defines_the_split():
    subjects = [f"s{i}" for i in range(60)]
    splits = [subject_split(subjects, [0] * 60, FRACTIONS, seed)["test"].tolist() for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_strata_are_shuffled_independently():
    subjects = [f"{group}{i:02d}" for group in "ab" for i in range(20)]
    test = set(subject_split(subjects, [each[0] for each in subjects], {"train": 0.5, "test": 0.5}, 0)["test"])
    assert {i for i in test if i < 20} != {i - 20 for i in test if i >= 20}


@pytest.mark.parametrize("fractions", [{"train": 0.5}, {"train": 0.9, "test": 0.2}])
def test_fractions_that_do_not_sum_to_one_are_refused(fractions):
    with pytest.raises(ValueError, match="not to 1"):
        subject_split(["a"], [0], fractions, 0)


def test_subjects_and_strata_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        subject_split(["a", "b"], [0], FRACTIONS, 0)


# -- the data of a task -----------------------------------------------------------------------------------------------


def data(**changes) -> TaskData:
    whole = TaskData(
        inputs={"image": RawInputs(lambda i: i, 6, "x")},
        targets=np.array([0, 1, 0, 0, 1, 0]),
        subjects=np.array(["a", "a", "b", "c", "d", "d"]),
        splits={"train": np.array([0, 1]), "val": np.array([2]), "test": np.array([3, 4, 5])},
        classes=("no", "yes"),
    )
    return replace(whole, **changes)


def test_data_that_fit_together_pass():
    whole = data()
    assert whole.check() is whole


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": {"image": RawInputs(lambda i: i, 5, "x")}}, "6 targets but .*'image': 5"),
        ({"subjects": np.array(["a"])}, "6 targets but .*'subjects': 1"),
        ({"mask": np.ones((5, 2), bool)}, "5 rows of mask"),
        ({"labels": np.ones((7, 2), np.float32)}, "7 rows of labels"),
        ({"splits": {"train": np.array([0]), "val": np.array([2])}}, "the test split has no sample"),
        ({"validated": False}, "the data have no validation split, they say, and 1 samples in it"),
        ({"splits": {"train": np.array([0]), "val": np.array([], int), "test": np.array([3])}}, "the val split has no"),
        (
            {"splits": {"train": np.array([0]), "val": np.array([1]), "test": np.array([3])}},
            "both the train and the val",
        ),
        (
            {"splits": {"train": np.array([4]), "val": np.array([2]), "test": np.array([5])}},
            "both the train and the test",
        ),
        (
            {"splits": {"train": np.array([0, 0]), "val": np.array([2]), "test": np.array([3])}},
            "train split names a sample",
        ),
        ({"splits": {"train": np.array([0]), "val": np.array([6]), "test": np.array([3])}}, "val split names a sample"),
        (
            {"splits": {"train": np.array([0]), "val": np.array([2]), "test": np.array([-1])}},
            "test split names a sample",
        ),
    ],
)
def test_data_that_do_not_fit_together_are_an_error_that_says_why(changes, message):
    with pytest.raises(DataError, match=message):
        data(**changes).check()


LABELS = np.array([[0, 1], [1, 1], [0, 1], [0, 1], [1, 1], [0, 1]], np.float32)
TWO = {"questions": ("a", "b"), "answers": ((0, 1), (2, 3)), "classes": ("no", "yes", "small", "large")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"targets": np.zeros(6, np.int64)}, "all samples of the train split are of one class, 'no'"),
        ({"targets": np.array([1, 1, 0, 0, 1, 1])}, "all samples of the train split are of one class, 'yes'"),
        ({"targets": np.array([0, 1, 0, 1, 1, 1])}, "all samples of the test split are of one class, 'yes'"),
        ({"targets": np.array([0, 0, 0, 0, 0, 0]), "classes": ("no",)}, "of one class, 'no'"),
        ({"targets": np.array([-1, -1, -1, 0, 0, 0]), "labels": LABELS}, "the test split are of one class"),
        ({"targets": np.ones((6, 2), np.float32)}, "no label of the train split is present in some"),
        ({"targets": LABELS, "mask": np.repeat([[0, 1]], 6, 0)}, "no label of the train split"),
        (
            {"targets": np.zeros(6, np.int64), "regions": lambda i: i, "classes": ("air",)},
            "train and test .*shows 'air'",
        ),
        (
            {**TWO, "targets": np.array([0, 2, 2, 0, 1, 3]), "asked": np.array([0, 1, 1, 0, 0, 1])},
            "train split that answer 'a' are of one class, 'no'",
        ),
    ],
)
def test_samples_that_are_all_alike_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        data(**changes).check()


@pytest.mark.parametrize(
    "changes",
    [
        {"targets": LABELS},  # one label varies, the other never
        {"targets": np.where(np.arange(6) > 2, 0, LABELS.T).T.astype(np.float32)},  # scores of the test are undefined
        {"targets": np.array([-1, -1, -1, 0, 1, 0]), "labels": LABELS},  # pairs have no classes
        {"targets": np.array([1, 1, 1, 0, 1, 0]), "untrainable": "there are no pairs", "labels": LABELS},
        {"targets": np.ones(6, np.int64), "regions": lambda i: i, "classes": ("air",)},  # where it is, is learnt
    ],
)
def test_samples_that_differ_in_what_is_learnt_pass(changes):
    data(**changes).check()


def test_a_class_that_a_split_has_no_subject_of_is_named(caplog):
    whole = data(targets=np.array([0, 1, 0, 2, 1, 0]), classes=("no", "yes", "a rare thing")).check()
    expected = {"yes": {"train": 1, "val": 0, "test": 1}, "a rare thing": {"train": 0, "val": 0, "test": 1}}
    assert whole.provenance["missing_in_splits"] == expected
    assert "a rare thing (train 0, val 0, test 1)" in caplog.text and "too few subjects" in caplog.text


def test_a_class_that_every_split_has_is_not_named():
    subjects = np.array(["a", "b", "c", "d", "e", "f"])
    splits = {"train": np.array([0, 1]), "val": np.array([2, 3]), "test": np.array([4, 5])}
    whole = data(targets=np.array([0, 1] * 3), subjects=subjects, splits=splits).check()
    assert "missing_in_splits" not in whole.provenance


def test_a_leak_into_a_further_split_is_found_too():
    splits = {**data().splits, "audit": np.array([1])}
    with pytest.raises(DataError, match="both the train and the audit"):
        data(splits=splits).check()


def test_an_error_about_a_leak_names_no_subject():
    splits = {"train": np.array([4]), "val": np.array([2]), "test": np.array([5])}
    with pytest.raises(DataError) as error:
        data(subjects=np.array(["a", "a", "b", "c", "011_S_0002", "011_S_0002"]), splits=splits).check()
    assert "011" not in str(error.value)


def test_the_split_hash_ignores_the_order_of_indices_and_their_type():
    shuffled = {"test": np.array([5, 3, 4], np.int32), "val": np.array([2]), "train": np.array([1, 0])}
    assert data(splits=shuffled).split_hash() == data().split_hash()


@pytest.mark.parametrize(
    "changes",
    [
        {"splits": {"train": np.array([0, 1]), "val": np.array([3]), "test": np.array([2, 4, 5])}},
        {"splits": {"train": np.array([0]), "val": np.array([2]), "test": np.array([3, 4, 5])}},
        {"splits": {"train": np.array([3, 4, 5]), "val": np.array([2]), "test": np.array([0, 1])}},
        {"subjects": np.array(["a", "a", "b", "c", "e", "e"])},
    ],
    ids=["subjects change places", "one sample less", "splits change names", "another subject"],
)
def test_the_split_hash_sees_what_is_in_which_split(changes):
    assert data(**changes).split_hash() != data().split_hash()


@pytest.mark.parametrize("changes", [{"targets": np.ones(6, np.int64)}, {"classes": ("a", "b")}, {"phantom": True}])
def test_the_split_hash_is_of_the_split_alone(changes):
    assert data(**changes).split_hash() == data().split_hash()


def test_a_tasks_unknown_option_is_an_error():
    with pytest.raises(ValueError, match="no_such_option"):
        TaskConfig.model_validate({"no_such_option": 1})


def test_a_task_without_load_says_so(tmp_path):
    class Mine(Task):
        pass

    with pytest.raises(TypeError, match=r"Mine must implement load\(\)"):
        Mine().load(tmp_path)
