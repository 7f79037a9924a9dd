"""The few-shot tasks score what the zero-shot tasks score, and train on labelled images of other people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medgraft.benchmarks.cell.steps.description import describe_data
from medgraft.benchmarks.cell.steps.evaluation import evaluate
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.measuring import measure
from medgraft.benchmarks.cell.steps.precomputing import Ready, build
from medgraft.benchmarks.cell.steps.training import train
from medgraft.benchmarks.cohorts.chest.chexpert import COMPETITION_5, exclude_subjects, read_chexpert
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.tasks import build_task
from medgraft.benchmarks.tasks.label_budget import in_proportion
from medgraft.errors import ConfigError

PAIRS = {
    "rsna_few_shot": ("rsna_zero_shot", "rsna_cohort"),
    "siim_few_shot": ("siim_zero_shot", "siim_cohort"),
    "chexpert_few_shot": ("chexpert_5x200", "chest_cohort"),
}

UNTRAINED = ("zero_shot", "knn", "lp_text")


@pytest.mark.parametrize("name", PAIRS)
def test_the_scored_images_are_those_of_the_zero_shot_task(name, request):
    twin, cohort = PAIRS[name]
    root: Path = request.getfixturevalue(cohort)
    few, zero = build_task(name).load(root).check(), build_task(twin).load(root).check()
    for data in (few, zero):
        assert data.prompts == zero.prompts and data.classes == zero.classes
    a, b = few.splits["test"], zero.splits["test"]
    assert few.subjects[a].tolist() == zero.subjects[b].tolist() and few.targets[a].tolist() == zero.targets[b].tolist()
    for i, j in zip(a[:3], b[:3], strict=True):
        assert np.array_equal(few.inputs["image"].read(int(i)), zero.inputs["image"].read(int(j)))


@pytest.mark.parametrize("name", PAIRS)
def test_shots_are_per_class_and_counted(name, request):
    root: Path = request.getfixturevalue(PAIRS[name][1])
    few = build_task(name, {"shots": 2}).load(root).check()
    more = build_task(name, {"shots": None}).load(root).check()
    counts = np.bincount(few.targets[few.splits["train"]], minlength=len(few.classes))
    assert counts.max() == 2 and few.provenance["shots"] == dict(zip(few.classes, counts.tolist(), strict=True))
    assert set(few.splits["train"]) < set(more.splits["train"])
    assert np.array_equal(few.splits["test"], more.splits["test"])


def test_sixteen_shots_are_the_default_and_exclude_a_fraction(rsna_cohort):
    assert build_task("rsna_few_shot").config.model_dump()["shots"] == 16
    with pytest.raises(ConfigError, match="choose one"):
        build_task("rsna_few_shot", {"label_fraction": 0.5})
    build_task("rsna_few_shot", {"label_fraction": 0.5, "shots": None}).load(rsna_cohort).check()


@pytest.mark.parametrize("name", PAIRS)
def test_shots_may_have_the_cohorts_own_proportions(name, request):
    root: Path = request.getfixturevalue(PAIRS[name][1])
    whole = build_task(name, {"shots": None}).load(root).check()
    K, kept = len(whole.classes), set[int]()
    have = [
        len(set(whole.subjects[whole.splits["train"]][whole.targets[whole.splits["train"]] == k])) for k in range(K)
    ]
    for shots in (2, 4):
        few = build_task(name, {"shots": shots, "proportions": "cohort"}).load(root).check()
        train = few.splits["train"]
        counts = np.bincount(few.targets[train], minlength=K)
        total = min(shots * K, sum(have))
        assert counts.tolist() == in_proportion(have, shots * K) and counts.sum() == total
        assert np.abs(counts - total * np.array(have) / sum(have)).max() < 1.5
        assert len(set(zip(few.subjects[train], few.targets[train], strict=True))) == len(train)
        assert kept <= set(train.tolist()), "fewer shots are part of more"
        kept = set(train.tolist())


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 60))
def test_proportions_take_all_there_is_and_grow_with_the_total(available, total):
    given_now, more = in_proportion(available, total), in_proportion(available, total + 1)
    assert sum(given_now) == min(total, sum(available))
    assert all(a <= b <= c for a, b, c in zip(given_now, more, available, strict=True))


@pytest.mark.parametrize("name", PAIRS)
def test_without_a_validation_split_nothing_else_changes(name, request):
    root: Path = request.getfixturevalue(PAIRS[name][1])
    with_it, without = (build_task(name, {"shots": 2, "validation": on}).load(root).check() for on in (True, False))
    assert len(with_it.splits["val"]) and not len(without.splits["val"]) and without.provenance["validation"] is False
    for split in ("train", "test"):
        assert np.array_equal(with_it.splits[split], without.splits[split])


@pytest.mark.parametrize("name", [*PAIRS, "chexpert", "rsna"])
def test_at_their_defaults_the_later_options_are_in_no_result(name):
    before, after = build_task(name).config.recorded(), build_task(name, {"proportions": "cohort", "shots": 8}).config
    assert not {"proportions", "validation"} & set(before) and "shots" in before
    assert after.recorded()["proportions"] == "cohort"
    if name in PAIRS:
        assert build_task(name, {"validation": False}).config.recorded()["validation"] is False


def test_proportions_are_those_of_shots():
    with pytest.raises(ConfigError, match="proportions 'cohort' are those of shots"):
        build_task("rsna_few_shot", {"shots": None, "proportions": "cohort"})


def test_chexperts_training_images_have_one_of_the_five_findings_for_certain(chest_cohort):
    data = build_task("chexpert_few_shot", {"shots": None}).load(chest_cohort).check()
    table = exclude_subjects(
        read_chexpert(chest_cohort, "train", reports=False), read_chexpert(chest_cohort, "5x200").frame["subject"]
    )
    labels = table.labels(COMPETITION_5)
    wanted = ((labels == 1).sum(axis=1) == 1) & (labels != -1).all(axis=1)
    kept = np.concatenate([data.splits["train"], data.splits["val"]])
    assert len(kept) == data.provenance["exclusive"] == wanted.sum() > 0
    assert sorted(data.targets[kept]) == sorted((labels[wanted] == 1).argmax(axis=1))


@pytest.mark.parametrize(
    ("adapter", "options"),
    [
        ("zero_shot", {}),
        ("coop", {"class_specific": True}),
        ("cocoop", {}),
        ("tip_adapter", {"train_keys": True}),
        ("taskres", {}),
        ("knn", {}),
        ("lp_text", {"steps": 3}),
    ],
)
@pytest.mark.parametrize("validation", [True, False])
def test_a_cell_trains_predicts_and_counts_its_text_tower(adapter, options, validation, rsna_cohort):
    made = cell(rsna_cohort, adapter, options, validation)
    log = train(made, lambda share: None)
    evaluated = evaluate(made)
    metrics, stored = evaluated.metrics, evaluated.arrays
    efficiency = measure(made, log)
    assert np.isfinite(log.epoch_loss).all() and (len(log.epoch_loss) == 2) == (adapter not in UNTRAINED)
    assert {"accuracy", "auc_macro", "auc_flattened"} <= set(metrics)
    np.testing.assert_allclose(stored["scores"].sum(axis=1), 1, atol=1e-5)
    parameters = sum(p.numel() for p in made.loaded.encoder.parameters())
    assert efficiency.encoder_parameters == parameters and efficiency.inference_samples_per_s
    described = describe_data(made.loaded, evaluated)
    assert described["objective"] == "prompted" and described["texts_at_limit"] is None


def cell(root: Path, adapter: str, options: dict[str, Any], validation: bool) -> Ready:
    spec = {
        "task": "rsna_few_shot",
        "task_options": {"shots": 3, "validation": validation},
        "cohort": {"name": "c", "revision": "r", "phantom": True},
        "encoder": "phantom_chest@random",
        "adapter": adapter,
        "adapter_options": options,
        "seed": 0,
        "train": {"epochs": 0 if adapter in UNTRAINED else 2, "batch_size": 4},
    }
    return build(load(CellSpec.model_validate(spec), root))
