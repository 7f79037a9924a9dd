"""The few-shot tasks score what the zero-shot tasks score, and train on labelled images of other people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medgraft.benchmarks.cell import Cell
from medgraft.benchmarks.data.chexpert import COMPETITION_5, exclude_subjects, read_chexpert
from medgraft.benchmarks.results import CellSpec
from medgraft.benchmarks.tasks import build_task
from medgraft.errors import ConfigError

PAIRS = {
    "rsna_few_shot": ("rsna_zero_shot", "rsna_cohort"),
    "siim_few_shot": ("siim_zero_shot", "siim_cohort"),
    "chexpert_few_shot": ("chexpert_5x200", "chest_cohort"),
}


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
    [("zero_shot", {}), ("coop", {"class_specific": True}), ("cocoop", {}), ("tip_adapter", {"train_keys": True})],
)
def test_a_cell_trains_predicts_and_counts_its_text_tower(adapter, options, rsna_cohort):
    made = cell(rsna_cohort, adapter, options)
    log = made.train(lambda share: None)
    metrics, stored = made.evaluate()
    efficiency = made.measure(log)
    assert np.isfinite(log.epoch_loss).all() and (len(log.epoch_loss) == 2) == (adapter != "zero_shot")
    assert {"accuracy", "auc_macro", "auc_flattened"} <= set(metrics)
    np.testing.assert_allclose(stored["scores"].sum(axis=1), 1, atol=1e-5)
    parameters = sum(p.numel() for p in made.encoder.parameters())
    assert efficiency.encoder_parameters == parameters and efficiency.inference_samples_per_s
    described = made.describe_data()
    assert described["objective"] == "prompted" and described["texts_at_limit"] is None


def cell(root: Path, adapter: str, options: dict[str, Any]) -> Cell:
    spec = {
        "task": "rsna_few_shot",
        "task_options": {"shots": 3},
        "cohort": {"name": "c", "revision": "r", "phantom": True},
        "encoder": "phantom_chest@random",
        "adapter": adapter,
        "adapter_options": options,
        "seed": 0,
        "train": {"epochs": 2, "batch_size": 4},
    }
    made = Cell(CellSpec.model_validate(spec), root)
    made.load()
    made.build()
    return made
