"""The leak check: one test set, two trainings, and a split that no sweep accepts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from medgraft.benchmarks.audit.leak_check import compare, exposed, leak_check, scan_level
from medgraft.benchmarks.sweep.request import read_sweep
from medgraft.benchmarks.tasks import build_task
from medgraft.errors import ConfigError, DataError
from medgraft.metric import Predictions
from medgraft.task import TaskData


@pytest.fixture(scope="module")
def data(adni_cohort: Path) -> TaskData:
    return build_task("adni_image", {"variants": "all"}).load(adni_cohort).check()


def test_both_arms_have_the_same_test_scans_and_as_many_to_train_on(data):
    leaky = scan_level(data, 0)
    for name in ("val", "test"):
        assert leaky.splits[name].tolist() == data.splits[name].tolist()
    assert len(leaky.splits["train"]) == len(data.splits["train"])
    assert not set(leaky.splits["train"]) & set(np.concatenate([data.splits["val"], data.splits["test"]]))


def test_only_the_scan_level_arm_has_seen_the_test_subjects(data):
    assert exposed(data) == 0 < exposed(scan_level(data, 0)) <= 1


def test_the_draw_depends_on_the_seed_alone(data):
    first, again, other = (scan_level(data, seed).splits["train"].tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_a_sweep_refuses_the_leaky_split(data):
    leaky = scan_level(data, 0).check()  # samples are in one split only, so the check of this module lets it pass
    plain = replace(data, splits=leaky.splits)
    with pytest.raises(DataError, match="a subject is in both the"):
        plain.check()


def test_a_sample_on_both_sides_is_refused_here_too(data):
    leaky = scan_level(data, 0)
    leaky.splits = {**leaky.splits, "train": np.r_[leaky.splits["train"][:-1], leaky.splits["test"][:1]]}
    with pytest.raises(DataError, match="a sample is in two splits"):
        leaky.check()


def test_a_cohort_of_single_scans_cannot_leak(data):
    first = np.unique(data.subjects, return_index=True)[1]
    single = TaskData(
        inputs={},
        targets=data.targets[first],
        subjects=data.subjects[first],
        splits={"train": np.arange(6), "val": np.arange(6, 9), "test": np.arange(9, 14)},
        classes=data.classes,
    )
    with pytest.raises(DataError, match="nothing can leak"):
        scan_level(single, 0)


def test_the_difference_is_paired():
    rng = np.random.default_rng(0)
    targets, groups = rng.integers(0, 2, 80), np.arange(80)
    good, bad = (np.eye(2)[np.where(rng.random(80) < share, targets, 1 - targets)] for share in (0.95, 0.6))
    arms = {
        "subject": [Predictions(bad, targets, groups, ("a", "b"))] * 2,
        "scan": [Predictions(good, targets, groups, ("a", "b"))] * 2,
    }
    found = compare(arms, "accuracy")
    assert found["difference"][0] == pytest.approx(found["scan"][0] - found["subject"][0])
    assert 0 < found["difference"][1] < found["difference"][0] < found["difference"][2]
    same = compare({"subject": arms["scan"], "scan": arms["scan"]}, "accuracy")
    most = 1 - 0.025 ** (1 / 80)  # Clopper and Pearson's upper end of 0 in 80: nobody is judged otherwise here
    assert same["difference"] == pytest.approx((0.0, -most, most))


def test_the_difference_is_that_of_students_t_where_every_subject_has_one_scan():
    """Of accuracies it is the paired t interval of the subjects' differences, their classes being no strata of it."""
    rng = np.random.default_rng(1)
    targets, groups = np.arange(60) % 2, np.arange(60)
    right = {arm: rng.random(60) < share for arm, share in (("subject", 0.6), ("scan", 0.8))}
    arms = {
        arm: [Predictions(np.eye(2)[np.where(each, targets, 1 - targets)], targets, groups, ("a", "b"))]
        for arm, each in right.items()
    }
    difference = right["scan"].astype(float) - right["subject"]
    value, low, high = compare(arms, "accuracy")["difference"]
    assert value == pytest.approx(difference.mean())
    half = stats.t.ppf(0.975, 59) * difference.std(ddof=1) / np.sqrt(60)
    assert low is not None and high is not None
    # resamples, of which there are 1,000, may find up to a tenth more; strata of 30 a sixtieth
    assert half * 0.99 < (high - low) / 2 < half * 1.12 and (low + high) / 2 == pytest.approx(value)


def test_seeds_of_both_arms_go_together():
    """What a seed does to both arms cancels; what it does to one of them widens the interval."""
    targets, groups = np.arange(80) % 2, np.arange(80)

    def arm(rights: tuple[int, ...]) -> list[Predictions]:
        return [
            Predictions(np.eye(2)[np.where(groups < right, targets, 1 - targets)], targets, groups, ("a", "b"))
            for right in rights
        ]

    def width(subject: tuple[int, ...], scan: tuple[int, ...]) -> float:
        _, low, high = compare({"subject": arm(subject), "scan": arm(scan)}, "accuracy")["difference"]
        assert low is not None and high is not None
        return high - low

    alike, apart = width((40, 50, 60), (50, 60, 70)), width((40, 50, 60), (70, 60, 50))
    assert alike < 0.6 * apart


@pytest.mark.slow
def test_grey_values_recognise_people(adni_cohort, tmp_path, medgraft):
    """A probe on pixels knows a second scan of a test subject; the command says by how much that flatters it."""
    out = tmp_path / "leak.json"
    result = medgraft(
        "leak-check", "--encoders", "pixels:3d", "--seeds", "0", "--data", f"adni={adni_cohort}", "--out", str(out)
    )
    assert result.exit_code == 0, result.output
    assert "PHANTOM" in result.output and "the leak adds" in result.output
    (report,) = json.loads(out.read_text())
    assert report["exposed"] > 0.5 and report["phantom"] and report["n_train"] > report["n_test"]
    assert report["scan"][0] - report["subject"][0] == pytest.approx(report["difference"][0])
    assert report["difference"][0] > 0


def test_a_task_without_classes_is_refused(chest_cohort):
    sweep = {
        "adapters": ["zero_shot"], "tasks": ["chexpert_5x200"], "seeds": [0], "data": {"chexpert": chest_cohort},
    }  # fmt: skip
    with pytest.raises(ConfigError, match="leak-check takes classes or labels"):
        leak_check(read_sweep(None, sweep), lambda line: None)
