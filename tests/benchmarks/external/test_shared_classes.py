"""What two cohorts both label, and predictions seen through it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgraft.benchmarks.external.shared import (
    Labelling,
    Shared,
    plain_name,
    seen_through,
    shared_classes,
    truth,
)
from medgraft.errors import DataError

ADNI, PAIR = Labelling("classes", ("CN", "MCI", "AD")), Labelling("classes", ("AD", "CN"))
CHEXPERT = Labelling("labels", ("Atelectasis", "Pleural Effusion", "Pneumonia"))
NIH = Labelling("labels", ("Effusion", "Hernia", "Atelectasis"), {"Effusion": "Pleural Effusion"})
RSNA = Labelling("classes", ("No Finding", "pneumonia"))


def test_classes_are_found_by_name_in_the_order_at_home():
    assert shared_classes(ADNI, PAIR) == Shared("classes", ("CN", "AD"), (0, 2), (1, 0), ("MCI",), ())
    assert shared_classes(PAIR, ADNI) == Shared("classes", ("AD", "CN"), (0, 1), (2, 0), (), ("MCI",))


def test_another_cohorts_word_for_the_same_thing():
    shared = shared_classes(CHEXPERT, NIH)
    assert shared.classes == ("Atelectasis", "Pleural Effusion") and shared.away == (2, 0)
    assert shared.left_at_home == ("Pneumonia",) and shared.left_away == ("Hernia",)
    assert shared_classes(NIH, CHEXPERT).classes == ("Effusion", "Atelectasis")
    assert plain_name("Pleural_Effusion ") == plain_name("pleural  effusion")


def test_a_finding_is_a_label_and_its_absence_is_none():
    """RSNA's films without pneumonia may show anything else, CheXpert's without a finding do not."""
    shared = shared_classes(Labelling("labels", ("No Finding", "Pneumonia")), RSNA)
    assert shared == Shared("labels", ("Pneumonia",), (1,), (1,), ("No Finding",), ())
    assert shared_classes(RSNA, CHEXPERT) == Shared(
        "labels", ("pneumonia",), (1,), (2,), (), ("Atelectasis", "Pleural Effusion")
    )


def test_names_that_the_user_matches():
    other = Labelling("classes", ("healthy", "dementia"))
    assert shared_classes(ADNI, other, {"healthy": "CN", "dementia": "ad"}).home == (0, 2)
    with pytest.raises(DataError, match="the other cohort has no class 'sick'"):
        shared_classes(ADNI, other, {"sick": "AD"})
    with pytest.raises(DataError, match="the graft knows no class 'FTD'"):
        shared_classes(ADNI, other, {"dementia": "FTD"})
    with pytest.raises(DataError, match="would both be"):
        shared_classes(ADNI, Labelling("classes", ("CN", "control", "AD")), {"control": "CN"})


@pytest.mark.parametrize(
    ("home", "away", "words"),
    [
        (ADNI, Labelling("classes", ("CN", "FTD")), "have one in common and two are needed"),
        (ADNI, CHEXPERT, "exclude each other"),
        (CHEXPERT, ADNI, "exclude each other"),
        (CHEXPERT, Labelling("labels", ("Hernia",)), "have none in common"),
        (ADNI, Labelling("numbers", ()), "nothing to compare"),
    ],
)
def test_too_little_in_common(home, away, words):
    with pytest.raises(DataError, match=words):
        shared_classes(home, away)


def test_numbers_are_compared_as_they_are():
    numbers = Labelling.of(np.array([70.5, 61.0]), ())
    assert shared_classes(numbers, numbers).kind == "numbers"


def probabilities(seed: int, n: int, K: int) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet(np.ones(K), n)


@given(seed=st.integers(0, 99), n=st.integers(2, 12), K=st.integers(2, 5))
def test_all_classes_in_common_change_nothing(seed, n, K):
    scores, targets = probabilities(seed, n, K), np.arange(n) % K
    shared = Shared("classes", tuple("abcde"[:K]), tuple(range(K)), tuple(range(K)))
    p = seen_through(scores, truth(targets, None, "classes", shared.away), np.arange(n), shared, None, "multiclass")
    assert np.array_equal(p.scores, scores) and np.array_equal(p.targets, targets)


@given(seed=st.integers(0, 99), n=st.integers(3, 12))
def test_classes_elsewhere_are_numbered_otherwise_and_mean_the_same(seed, n):
    """Whatever the other cohort's order of the classes, the same persons give the same predictions."""
    scores, targets = probabilities(seed, n, 3), np.random.default_rng(seed).integers(3, size=n)
    order = np.random.default_rng(seed).permutation(3)
    there = np.argsort(order)[targets]  # class k is number argsort(order)[k] there
    names = ("CN", "MCI", "AD")
    shared = shared_classes(Labelling("classes", names), Labelling("classes", tuple(names[k] for k in order)))
    facts = truth(there, None, shared.kind, shared.away)
    p = seen_through(scores, facts, np.arange(n), shared, None, "multiclass")
    assert np.array_equal(p.targets, targets) and np.array_equal(p.scores, scores)


def test_probabilities_are_of_the_shared_classes_and_others_are_left_out():
    scores = np.array([[0.2, 0.6, 0.2], [0.1, 0.0, 0.9], [0.3, 0.3, 0.4], [0.0, 1.0, 0.0]])
    shared = Shared("classes", ("CN", "AD"), (0, 2), (1, 0))
    facts = truth(np.array([1, 0, 2, 1]), None, "classes", shared.away)
    assert facts.used.tolist() == [True, True, False, True] and facts.targets.tolist() == [0, 1, 0]
    p = seen_through(scores, facts, np.array([4, 4, 5, 9]), shared, None, "multiclass")
    assert np.allclose(p.scores, [[0.5, 0.5], [0.1, 0.9], [0.5, 0.5]], rtol=0, atol=1e-15)
    assert p.groups.tolist() == [0, 0, 1]


def test_similarities_are_not_divided_by_their_sum():
    scores = np.array([[-1.0, 2.0, 0.5], [3.0, 1.0, -2.0]])
    shared = Shared("classes", ("a", "c"), (0, 2), (0, 1))
    p = seen_through(scores, truth(np.array([0, 1]), None, "classes", (0, 1)), np.arange(2), shared, None, "x")
    assert p.scores.tolist() == [[-1.0, 0.5], [3.0, -2.0]]


def test_labels_keep_their_mask_and_threshold_and_uncertain_ones_do_not_count():
    targets = np.array([[1, 0, 2], [0, 1, 1]])
    mask = np.array([[True, True, True], [False, True, True]])
    shared = Shared("labels", ("a", "c"), (0, 2), (0, 2))
    facts = truth(targets, mask, "labels", shared.away)
    assert facts.targets.tolist() == [[1, 0], [0, 1]] and facts.mask is not None
    assert facts.mask.tolist() == [[True, False], [False, True]]
    p = seen_through(np.full((2, 3), 0.5), facts, np.arange(2), shared, np.array([0.1, 0.2, 0.3]), "multilabel")
    assert p.thresholds is not None and p.thresholds.tolist() == [0.1, 0.3]


def test_a_graft_of_classes_decides_labels_at_one_half():
    shared = shared_classes(RSNA, CHEXPERT)
    facts = truth(np.array([[0, 0, 1], [1, 0, 0]]), None, "labels", shared.away)
    p = seen_through(np.array([[0.2, 0.8], [0.7, 0.3]]), facts, np.arange(2), shared, None, "multiclass")
    assert p.scores.tolist() == [[0.8], [0.3]] and p.targets.tolist() == [[1], [0]]
    assert p.thresholds is not None and p.thresholds.tolist() == [0.5] and p.objective == "multilabel"
