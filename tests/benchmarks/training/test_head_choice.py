"""Heads of all adapters: who is fitted on folds, who on the validation split, and what the result says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from medgraft_toy import ToyEncoder, ToyGain
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.training import head_choice
from medgraft.benchmarks.training.head_choice import FALLBACK, Samples, choose_by_folds, choose_by_validation
from medgraft.benchmarks.training.linear_problems import CANDIDATES, Linear, fit_heads
from medgraft.benchmarks.training.logistic import Logistic
from medgraft.benchmarks.training.trainer import Runner
from medgraft.grafting import Grafted
from medgraft.objective import make_objective
from medgraft.registry import TrainDefaults, build_adapter, build_adapters
from medgraft.task import RawInputs, TaskData

FAST = TrainDefaults(epochs=3, lr=0.05, head_lr=0.05, batch_size=16)


def samples(n: int = 90, D: int = 8, classes: int = 3, *, per_subject: int = 3, seed: int = 0) -> Samples:
    """Subjects with several samples that look alike, and one class each."""
    rng = np.random.default_rng(seed)
    subject = np.arange(n) // per_subject
    y = rng.integers(0, classes, subject.max() + 1)[subject]
    person = rng.normal(size=(subject.max() + 1, D))[subject]
    x = person + 0.3 * rng.normal(size=(n, D)) + 0.6 * rng.normal(size=(classes, D))[y]
    outputs = tuple(range(classes)) if classes > 2 else (0,)
    return Samples(x, [Logistic("", outputs, np.ones(n, bool), y)], subject.astype(str))


def test_the_choice_is_that_of_a_plain_loop_over_pipelines():
    given = samples()
    x, y, groups = given.features, given.problems[0].values, given.subjects
    scores = []
    for C in CANDIDATES:
        found = np.zeros((len(y), 3))
        for inside, outside in StratifiedGroupKFold(5).split(x, y, groups):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=10_000))
            found[outside] = model.fit(x[inside], y[inside]).predict_proba(x[outside])
        scores.append(log_loss(y, found))
    told = choose_by_folds([given], given)
    assert [each["log_loss"] for each in told["candidates"]] == pytest.approx(scores, abs=0.01)
    assert told["C"] == CANDIDATES[int(np.argmin(scores))] and told["folds"] == 5 and told["subjects"] == 30


def test_no_subject_is_fitted_and_scored_in_one_fold():
    given = samples()
    for inside, outside in head_choice._folds(given.problems[0], given.subjects):
        assert not set(given.subjects[inside]) & set(given.subjects[outside])


def test_samples_of_one_subject_do_not_speak_for_each_other():
    # Each subject's class is chance: folds by sample would find C large, since a subject's samples are all but equal.
    rng = np.random.default_rng(0)
    subject = np.repeat(np.arange(40), 5)
    x = rng.normal(size=(40, 30))[subject] + 0.01 * rng.normal(size=(200, 30))
    given = Samples(x, [Logistic("", (0,), np.ones(200, bool), rng.integers(0, 2, 40)[subject])], subject)
    by_sample = Samples(x, given.problems, np.arange(200))
    assert choose_by_folds([given], given)["C"] <= 0.01 < 1 <= choose_by_folds([by_sample], by_sample)["C"]


@pytest.mark.parametrize(("subjects", "folds"), [(2, 2), (3, 3), (4, 4), (9, 5)])
def test_fewer_subjects_than_folds_make_fewer_folds(subjects, folds):
    y = np.arange(subjects * 2) % 2  # each subject has a sample of either class
    x = np.random.default_rng(0).normal(size=(len(y), 3)) + y[:, None]
    given = Samples(x, [Logistic("", (0,), np.ones(len(y), bool), y)], np.repeat(np.arange(subjects), 2))
    told = choose_by_folds([given], given)
    assert told["folds"] == folds and all(each["log_loss"] is not None for each in told["candidates"])


@pytest.mark.parametrize("subjects", [1, 2])
def test_where_no_fold_has_two_classes_the_default_strength_holds_and_the_result_says_so(subjects):
    y = np.repeat(np.arange(2), 3) if subjects == 2 else np.arange(6) % 2
    given = Samples(np.eye(6), [Logistic("", (0,), np.ones(6, bool), y)], np.repeat(np.arange(subjects), 6 // subjects))
    told = choose_by_folds([given], given)
    assert told["C"] == FALLBACK in CANDIDATES and "too few" in told["rule"]


def test_a_label_of_one_class_is_named_and_does_not_enter():
    given = samples(classes=2)
    constant = Logistic("never", (1,), np.ones(90, bool), np.zeros(90, int))
    both = Samples(given.features, [*given.problems, constant], given.subjects)
    alone, told = choose_by_folds([given], given), choose_by_folds([both], both)
    assert told["one_class"] == ["never"] and told["candidates"] == alone["candidates"]


def test_a_rare_class_that_a_fold_cannot_learn_is_not_held_against_a_candidate():
    given = samples(classes=3)
    y = given.problems[0].values.copy()
    y[(y == 2) & (given.subjects != given.subjects[y == 2][0])] = 0  # one subject is left of class 2
    rare = Samples(given.features, [Logistic("", (0, 1, 2), np.ones(90, bool), y)], given.subjects)
    losses = [each["log_loss"] for each in choose_by_folds([rare], rare)["candidates"]]
    assert max(losses[:3]) < 2  # a class that is held to be impossible costs 20 nats a sample


# --- behind a trained adapter -----------------------------------------------------------------------------------------


def test_a_clearly_better_candidate_takes_the_trained_heads_place():
    train, val = samples(300), samples(300, seed=0).part(np.arange(150, 300))
    junk = Linear(np.random.default_rng(0).normal(size=(3, 8)) * 5, np.zeros(3))
    told = choose_by_validation([train.part(np.arange(150))], val, junk)
    losses = {each["C"]: each["log_loss"] for each in told["candidates"]}
    assert told["C"] == min(CANDIDATES, key=lambda C: losses[C])
    assert told["gain"] == pytest.approx(losses[None] - losses[told["C"]]) and told["gain"] > told["standard_error"] > 0


def test_a_trained_head_that_is_about_as_good_stays():
    train, val = samples(300).part(np.arange(150)), samples(300).part(np.arange(150, 300))
    (good,) = fit_heads(train.features, train.problems, [2.0])
    told = choose_by_validation([train], val, good)
    assert told["C"] is None and told["candidates"][0]["C"] is None


def test_the_standard_error_is_over_subjects():
    train, val = samples(300).part(np.arange(150)), samples(300).part(np.arange(150, 300))
    junk = Linear(np.zeros((3, 8)), np.zeros(3))
    once = choose_by_validation([train], val, junk)
    four = val.part(np.repeat(np.arange(150), 4))
    again = choose_by_validation([train], four, junk)
    assert again["gain"] == pytest.approx(once["gain"]) and again["standard_error"] == pytest.approx(
        once["standard_error"]
    )


@pytest.mark.parametrize("counts", [False, True])
def test_one_validation_subject_or_none_with_a_label_leaves_the_trained_head(counts):
    train = samples(60)
    val = samples(3)
    val = Samples(val.features, [Logistic("", (0, 1, 2), np.full(3, counts), val.problems[0].values)], np.zeros(3))
    assert choose_by_validation([train], val, Linear(np.ones((3, 8)), np.zeros(3)))["C"] is None


# --- in the harness ---------------------------------------------------------------------------------------------------

N = 60


def runner(adapters: Any, kind: str = "multiclass", views: int = 0, **more: Any) -> Runner:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    targets = (np.arange(N) // 2) % 3
    x = (0.3 * rng.random((N, 1, 8, 8)) + 0.2 * targets[:, None, None, None]).astype(np.float32)
    table = (targets[:, None] == np.arange(3)).astype(np.float32)
    data = TaskData(
        inputs={"image": RawInputs(lambda i: x[i], N, "")},
        targets=table if kind == "multilabel" else targets.astype(np.int64),
        subjects=(np.arange(N) // 2).astype(str),
        splits={},
        classes=("a", "b", "c"),
        **more,
    )
    grafted = Grafted(ToyEncoder(), adapters)
    seen = {"image": [TowerInputs(0, {"x": x + 0.01 * v}) for v in range(views)]} if views else {}
    objective = make_objective(kind, data, ("image",))
    found = Runner(grafted, objective, data, {"image": TowerInputs(0, {"x": x})}, grafted.encode, views=seen)
    found.add_head(np.arange(N))
    return found


TRAIN, VAL = np.arange(40), np.arange(40, N)


def trained(found: Runner, how: TrainDefaults = FAST) -> dict[str, Any]:
    return head_choice.train(found, TRAIN, VAL, how, 0, lambda share: None).head


@pytest.mark.parametrize("kind", ["multiclass", "multilabel"])
def test_the_probe_predicts_what_a_pipeline_on_its_features_does(kind):
    found = runner(build_adapters("linear_probe"), kind)
    told = trained(found)
    x = head_choice._features(found, np.arange(N))
    y, scores = found.data.targets, found.predict(VAL)
    columns = [y] if kind == "multiclass" else list(y.T)
    for k, own in enumerate(columns):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=told["C"], tol=1e-8, max_iter=10_000))
        expected = model.fit(x[TRAIN], own[TRAIN]).predict_proba(x[VAL])
        assert np.abs((scores if kind == "multiclass" else scores[:, k]) - (
            expected if kind == "multiclass" else expected[:, 1])).max() < 1e-3  # fmt: skip


def test_the_head_stays_one_linear_map_of_the_same_size():
    found = runner(build_adapters("linear_probe"))
    before, statistics = found.grafted.trainable_count(), found.grafted.head.mean.clone()  # pyright: ignore
    trained(found)
    head = found.grafted.head
    assert isinstance(head, torch.nn.Module) and isinstance(head.linear, torch.nn.Linear)
    assert found.grafted.trainable_count() == before and torch.equal(head.mean, statistics)  # pyright: ignore


def test_the_probe_does_not_depend_on_seed_or_validation_samples():
    heads = []
    for seed, val in ((0, VAL), (5, VAL[:3])):
        found = runner(build_adapters("linear_probe"))
        torch.manual_seed(seed)
        log = head_choice.train(found, TRAIN, val, FAST, seed, lambda share: None)
        heads.append((log.head, found.predict(VAL)))
    assert heads[0][0] == heads[1][0] and np.array_equal(heads[0][1], heads[1][1])


def test_gradient_descent_is_had_by_name_and_left_alone():
    named, own = runner({"p": build_adapter("linear_probe:sgd")}), runner(build_adapters("linear_probe"))
    assert trained(named) == {}
    own.fit(TRAIN, FAST, 0, lambda share: None)
    assert np.array_equal(named.predict(VAL), own.predict(VAL))


def test_what_trains_is_judged_on_the_validation_split_foreign_adapters_too():
    told = trained(runner({"foreign": ToyGain()}))
    assert "validation" in told["rule"] and [each["C"] for each in told["candidates"]] == [None, *CANDIDATES]


def test_without_a_validation_split_the_trained_head_stays_and_the_result_says_so():
    found = runner({"foreign": ToyGain()})
    log = head_choice.train(found, TRAIN, VAL[:0], FAST, 0, lambda share: None)
    assert log.steps and log.head == {"rule": "there is no validation split, so the trained head stays", "C": None}


def test_without_a_validation_split_the_thresholds_of_labels_are_a_half():
    found = runner(build_adapters("linear_probe"), "multilabel")
    splits = {"train": TRAIN, "val": VAL[:0], "test": VAL}
    predictions = found.objective.predictions(found.predict, splits, np.arange(len(VAL)))
    assert predictions.thresholds is not None and predictions.thresholds.tolist() == [0.5] * 3


class ByHand(ToyGain):
    """Nothing trainable, but something happens behind each step."""

    def attach(self, encoder: Any, sites: Any) -> Any:
        attachment = super().attach(encoder, sites)
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        return attachment

    def after_step(self) -> None:
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(0.01)


def test_an_adapter_that_changes_by_hand_is_trained_before_its_head_is_chosen():
    found = runner({"own": ByHand()})
    before = [p.clone() for p in found.grafted.adapters["own"].parameters()]
    assert "validation" in trained(found)["rule"]
    after: list[Tensor] = list(found.grafted.adapters["own"].parameters())
    assert not any(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("adapter", ["linear_probe", "gain"])
def test_zero_epochs_train_and_choose_nothing(adapter):
    found = runner({"own": ToyGain() if adapter == "gain" else build_adapter(adapter)})
    before = found.predict(VAL)
    assert trained(found, FAST.model_copy(update={"epochs": 0})) == {}
    assert np.array_equal(found.predict(VAL), before)


@pytest.mark.parametrize("adapter", ["linear_probe", "gain"])
def test_what_cannot_be_trained_on_is_not_fitted_either(adapter):
    from medgraft.errors import DataError

    found = runner({"own": ToyGain() if adapter == "gain" else build_adapter(adapter)}, untrainable="no labels")
    with pytest.raises(DataError, match="no labels"):
        trained(found)


def test_augmented_views_are_fitted_on_in_the_samples_place():
    plain, moved = runner(build_adapters("linear_probe")), runner(build_adapters("linear_probe"), views=2)
    trained(plain)
    told = trained(moved)
    x = np.concatenate([head_choice._features(moved, TRAIN, view) for view in range(2)])
    y = np.tile(moved.data.targets[TRAIN], 2)
    (expected,) = fit_heads(x, [Logistic("", (0, 1, 2), np.ones(80, bool), y)], [told["C"]], np.full(80, 0.5))
    weight, _ = moved.grafted.head.folded()  # pyright: ignore
    np.testing.assert_allclose(weight, expected.weight, rtol=1e-4, atol=1e-4)
    assert not np.array_equal(plain.predict(VAL), moved.predict(VAL))


def test_a_head_that_takes_a_map_and_gives_it_back_keeps_it():
    found = runner(build_adapters("linear_probe"))
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=found.grafted.head.linear.weight.shape), rng.normal(size=3)  # pyright: ignore
    found.grafted.head.take(weight, bias)  # pyright: ignore
    for given, kept in zip((weight, bias), found.grafted.head.folded(), strict=True):  # pyright: ignore
        np.testing.assert_allclose(kept, given, rtol=1e-4, atol=1e-4)


def test_the_result_holds_the_choice(chest_cohort: Path):
    from cells import spec

    from medgraft.benchmarks.cell.job import Job
    from medgraft.benchmarks.cell.worker import run_cell

    job = Job(spec=spec(task="chexpert", encoder="pixels:2d", adapter="linear_probe"), root=chest_cohort)
    first, again = (run_cell(job, lambda stage, share: None) for _ in range(2))
    told = first[0].training["head"]
    assert told["C"] in CANDIDATES and len(told["candidates"]) == 6
    assert told == again[0].training["head"] and np.array_equal(first[1]["scores"], again[1]["scores"])
