"""RSNA, SIIM, NIH and MIMIC as tasks: splits, budgets, pairs, dense targets, and one cell of each kind."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medgraft.benchmarks.cell.steps.description import describe_data
from medgraft.benchmarks.cell.steps.evaluation import evaluate
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.precomputing import Ready, build
from medgraft.benchmarks.cell.steps.training import train
from medgraft.benchmarks.cohorts.chest.chexpert import read_chexpert
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.tasks import build_task
from medgraft.benchmarks.tasks.chest.radiographs import attributes
from medgraft.benchmarks.tasks.label_budget import LabelBudget, class_table, within_budget
from medgraft.errors import ConfigError, DataError

IDENTIFIER = re.compile(r"ffffffff-|2\.25\.|000900\d\d|[ps]9900\d|patient\d+")
TASKS = {
    **dict.fromkeys(("rsna", "rsna_zero_shot", "rsna_detection"), "rsna_cohort"),
    **dict.fromkeys(("siim", "siim_zero_shot", "siim_segmentation"), "siim_cohort"),
    **dict.fromkeys(("nih", "nih_zero_shot"), "nih_cohort"),
    "mimic_zero_shot": "mimic_cohort",
}


@pytest.mark.parametrize("name", TASKS)
def test_every_task_reads_its_phantom_and_keeps_identifiers_to_itself(name, request):
    root: Path = request.getfixturevalue(TASKS[name])
    data = build_task(name).load(root).check()
    text = json.dumps(data.provenance, default=str)
    assert data.phantom and data.provenance["generator"] == "chest-1"
    assert not IDENTIFIER.search(text) and str(root) not in text
    assert data.inputs["image"].read(int(data.splits["test"][0])).shape == (64, 64)


def test_pairs_beside_a_cohort_train_and_its_own_images_never_do(rsna_cohort):
    data = build_task("rsna_zero_shot").load(rsna_cohort).check()
    train = data.splits["train"]
    assert not data.untrainable and data.provenance["pairs"] == len(train) > 0
    assert all(str(data.subjects[i]).startswith("p99") for i in train) and (data.targets[train] == -1).all()
    assert all(data.inputs["text"].read(int(i)) for i in train)
    assert set(data.targets[data.splits["test"]]) <= {0, 1}
    assert data.prompts is not None and data.prompts[1][1] == "Findings suggesting pneumonia."


def test_mimics_own_pairs_are_its_training_split(mimic_cohort):
    data = build_task("mimic_zero_shot").load(mimic_cohort).check()
    homes = [set(data.subjects[index]) for index in data.splits.values()]
    assert len(set().union(*homes)) == sum(map(len, homes)) and data.targets.shape[1] == 5


def test_a_template_without_a_place_for_the_name_is_refused():
    with pytest.raises(ConfigError, match=r"'a film' has no \{\}"):
        build_task("siim_zero_shot", {"templates": ["a film"]})


def test_the_published_split_is_scikit_learns(rsna_cohort):
    data = build_task("rsna_zero_shot", {"split": "published"}).load(rsna_cohort).check()
    from sklearn.model_selection import train_test_split

    assert data.splits["test"].tolist() == sorted(train_test_split(np.arange(16), test_size=0.15, random_state=0)[1])


def test_boxes_are_fractions_and_masks_as_large_as_the_image(rsna_cohort, siim_cohort):
    found = build_task("rsna_detection").load(rsna_cohort)
    drawn = build_task("siim_segmentation", {"images": "positives"}).load(siim_cohort)
    assert found.regions is not None and drawn.regions is not None
    boxes = np.concatenate([found.regions(i) for i in range(len(found.targets))])
    assert len(boxes) == found.provenance["boxes"] and boxes.min() >= 0 and 0.1 < boxes.max() <= 1
    assert all(drawn.regions(i).shape == (64, 64) and drawn.regions(i).any() for i in range(len(drawn.targets)))


# --- few labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "known"),
    [("nih", ("sex", "age", "view")), ("nih_zero_shot", ("sex", "age", "view")), ("mimic_zero_shot", ("view",))],
)
def test_facts_of_people_and_views_are_attributes(name, known, request):
    data = build_task(name).load(request.getfixturevalue(TASKS[name])).check()
    assert tuple(data.attributes) == known
    seen = {str(value) for value in data.attributes["view"][data.splits["test"]]}
    assert seen <= {"AP", "PA"} and seen
    if "sex" in known:
        assert {str(value) for value in data.attributes["sex"]} - {"None"} == {"F", "M"}
        assert any(isinstance(value, float) and value > 0 for value in data.attributes["age"])


def test_of_pairs_behind_the_images_nothing_is_known():
    frame = pd.DataFrame({"sex": ["F", "M"], "image": ["a", "b"]})
    assert {name: each.tolist() for name, each in attributes(frame, ("sex", "age"), 2).items()} == {
        "sex": ["F", "M", None, None]
    }


@pytest.fixture(scope="module")
def many() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    subjects = np.array([f"s{i // 2}" for i in range(600)])
    targets = np.repeat(rng.random(300) < 0.1, 2).astype(np.int64)
    return np.arange(600), subjects, targets


def budget(many: tuple[np.ndarray, np.ndarray, np.ndarray], **options: Any) -> set[int]:
    index, subjects, targets = many
    own = LabelBudget.model_validate(options)
    return set(within_budget(index, subjects, class_table(targets, 2), targets, own).tolist())


def test_a_smaller_share_is_part_of_a_larger_one_and_by_subject(many):
    one, ten, everything = (budget(many, label_fraction=share) for share in (0.01, 0.1, 1.0))
    assert one < ten < everything == set(range(600))
    for kept, share in ((one, 0.01), (ten, 0.1)):
        assert all(sample ^ 1 in kept for sample in kept)  # both samples of a subject, or none
        assert abs(len(kept) / 600 - share) < 0.01 and {many[2][i] for i in kept} == {0, 1}


def test_shots_are_per_class_of_different_subjects_and_nested(many):
    few, more = budget(many, shots=2), budget(many, shots=8)
    assert few < more and [sum(many[2][i] == k for i in few) for k in (0, 1)] == [2, 2]
    assert len({many[1][i] for i in more}) == len(more) == 16


def test_shots_in_the_cohorts_proportions_are_as_many_and_nested(many):
    few, more = budget(many, shots=10, proportions="cohort"), budget(many, shots=30, proportions="cohort")
    share = many[2].mean()
    for kept, total in ((few, 20), (more, 60)):
        assert len(kept) == len({many[1][i] for i in kept}) == total
        assert abs(sum(many[2][i] for i in kept) - share * total) <= 1
    assert few < more


def test_labels_that_go_together_are_taken_as_their_subjects_come():
    labels = (np.random.default_rng(0).random((200, 3)) < 0.4).astype(np.float32)
    own = LabelBudget(shots=6, proportions="cohort")
    index, subjects = np.arange(200), np.arange(200).astype(str)
    kept = within_budget(index, subjects, class_table(labels, 3), labels.argmax(axis=1), own)
    assert len(kept) == 6 * 4  # three labels, and none


def test_another_seed_keeps_others(many):
    assert budget(many, shots=5) != budget(many, shots=5, label_seed=1)


def test_two_limits_at_once_are_refused():
    with pytest.raises(ConfigError, match="choose one"):
        build_task("nih", {"shots": 2, "label_fraction": 0.1})


def test_chexpert_has_budgets_and_a_class_for_uncertain_labels(chest_cohort):
    whole = build_task("chexpert", {"uncertainty": "multiclass"}).load(chest_cohort).check()
    small = build_task("chexpert", {"label_fraction": 0.1}).load(chest_cohort).check()
    assert set(small.splits["train"]) < set(whole.splits["train"])
    assert np.array_equal(small.splits["test"], whole.splits["test"])
    raw = read_chexpert(chest_cohort, "train").labels(whole.classes)
    train = whole.splits["train"]
    assert whole.uncertain_class and np.array_equal(whole.targets[train] == 2, raw[train] == -1)
    for name in ("val", "test"):
        assert set(np.unique(whole.targets[whole.splits[name]])) <= {0, 1}


# --- cells ------------------------------------------------------------------------------------------------------------


def cell(root: Path, task: str, adapter: str = "linear_probe", epochs: int = 1, **options: Any) -> Ready:
    spec = {
        "task": task,
        "task_options": options,
        "cohort": {"name": "c", "revision": "r", "phantom": True},
        "encoder": "phantom_chest@random",
        "adapter": adapter,
        "seed": 0,
        "train": {"epochs": epochs, "batch_size": 8},
    }
    return build(load(CellSpec.model_validate(spec), root))


def test_training_without_pairs_is_refused_with_the_remedy(siim_cohort):
    made = cell(siim_cohort, "siim_zero_shot", "ace_lora")
    with pytest.raises(DataError, match=r"no image-report pairs to train on; put a copy of MIMIC-CXR"):
        train(made, lambda share: None)


def test_nothing_trained_needs_no_pairs(siim_cohort):
    made = cell(siim_cohort, "siim_zero_shot", "zero_shot", 0)
    train(made, lambda share: None)
    metrics = evaluate(made).metrics
    assert {"accuracy", "balanced_accuracy", "auc_macro", "auc_flattened"} <= set(metrics)


@pytest.mark.parametrize(
    ("task", "cohort", "metric", "shape"),
    [
        ("siim_segmentation", "siim_cohort", "dice_positive", (3,)),
        ("rsna_detection", "rsna_cohort", "map_50", (20, 5)),
    ],
)
def test_a_dense_head_trains_and_its_stored_predictions_give_its_metrics(task, cohort, metric, shape, request):
    from medgraft.benchmarks.objectives.evaluation import evaluate as judge
    from medgraft.metric import Predictions

    made = cell(request.getfixturevalue(cohort), task, "lora")
    log = train(made, lambda share: None)
    evaluated = evaluate(made)
    metrics, stored = evaluated.metrics, evaluated.arrays
    assert np.isfinite(log.epoch_loss).all() and metric in metrics and stored["scores"].shape[1:] == shape
    objective = made.loaded.task.objective
    again = Predictions(
        stored["scores"], stored["targets"], stored["groups"], ("x",), None, stored["thresholds"], objective
    )
    assert judge(again) == metrics
    assert describe_data(made.loaded, evaluated)["objective"] == objective


def test_the_uncertain_class_trains_three_outputs_and_predicts_one(chest_cohort):
    made = cell(chest_cohort, "chexpert", uncertainty="multiclass")
    train(made, lambda share: None)
    stored = evaluate(made).arrays
    assert made.grafted.trainable_count()["head"] == 15 * (made.loaded.encoder.spec.dim + 1)
    assert stored["scores"].shape[1] == 5 and 0 <= stored["scores"].min() <= stored["scores"].max() <= 1
