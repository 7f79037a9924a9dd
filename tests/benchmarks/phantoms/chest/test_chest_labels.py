"""The label model of the chest phantom: how often, how surely and how rightly a finding is reported."""

from __future__ import annotations

import numpy as np
import pytest

from medgraft.benchmarks.cohorts.chest.chexpert import CHEXPERT_14, apply_uncertainty
from medgraft.benchmarks.phantoms.chest.labels import sample_disease, sample_visits
from medgraft.benchmarks.phantoms.chest.renderer import FINDINGS


@pytest.fixture(scope="module")
def visits():
    rng = np.random.default_rng(11)
    return sample_visits(sample_disease(rng, 60_000), 1.1, rng)


def column(matrix: np.ndarray, name: str) -> np.ndarray:
    return matrix[:, CHEXPERT_14.index(name)]


@pytest.mark.parametrize(
    ("name", "positive", "uncertain"),
    [
        ("Atelectasis", 0.149, 0.151),
        ("Cardiomegaly", 0.121, 0.036),
        ("Consolidation", 0.066, 0.124),
        ("Edema", 0.234, 0.058),
        ("Pleural Effusion", 0.386, 0.052),
        ("Pneumothorax", 0.087, 0.014),
        ("Pneumonia", 0.027, 0.084),
        ("Support Devices", 0.519, 0.005),
    ],
)
def test_marginals_are_in_the_ballpark_of_the_real_training_table(visits, name, positive, uncertain):
    labels = column(visits.reported, name)
    assert (labels == 1).mean() == pytest.approx(positive, rel=0.35)
    assert (labels == -1).mean() == pytest.approx(uncertain, rel=0.35, abs=0.025)


@pytest.mark.parametrize("name", ["Atelectasis", "Consolidation"])
def test_uncertain_labels_are_true_in_about_two_of_three(visits, name):
    uncertain = column(visits.reported, name) == -1
    assert 0.58 < column(visits.truth, name)[uncertain].mean() < 0.72


@pytest.mark.parametrize("name", FINDINGS)
def test_label_noise(visits, name):
    reported, truth = column(visits.reported, name), column(visits.truth, name)
    assert 0.015 < 1 - truth[reported == 1].mean() < 0.045, "false positives among assertions"
    assert truth[np.isnan(reported)].mean() < 0.06, "missed findings among the blanks"
    assert truth[reported == 0].mean() == 0


def test_uncertainty_policies_disagree_on_the_cohort(visits):
    labels = column(visits.reported, "Atelectasis")[:, None]
    ones, zeros = (apply_uncertainty(labels, policy)[0] for policy in ("ones", "zeros"))
    truth = column(visits.truth, "Atelectasis")[:, None]
    mistakes = [float((targets != truth).mean()) for targets in (ones, zeros)]
    assert 0.05 < mistakes[0] < mistakes[1]


def test_derived_labels(visits):
    truth, reported = visits.truth, visits.reported
    assert set(np.unique(truth)) == {0.0, 1.0}
    opaque = np.max([column(truth, n) for n in ("Edema", "Consolidation", "Atelectasis", "Lung Lesion")], axis=0)
    assert np.array_equal(column(truth, "Lung Opacity"), opaque)
    assert (column(truth, "Pneumonia") <= column(truth, "Consolidation")).all()
    for labels in (truth, reported):
        clean = ~(np.abs(labels[:, 1:-1]) == 1).any(1)
        assert np.array_equal(column(labels, "No Finding") == 1, clean)
    assert np.isnan(column(reported, "Fracture")).all()


def test_findings_occur_together_as_heart_failure_does(visits):
    pair = np.corrcoef(column(visits.truth, "Edema"), column(visits.truth, "Cardiomegaly"))[0, 1]
    assert pair > 0.2
