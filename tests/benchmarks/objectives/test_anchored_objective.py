"""The objective of one space: what trains, missing modalities, two views, grouped batches, and what is judged."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medgraft.anchored_losses import AnchoredLoss, split_parts
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.precomputing import Ready, build
from medgraft.benchmarks.cohorts.scans.reader import read_scans
from medgraft.benchmarks.objectives.space.anchored import AnchoredObjective, SpaceHead
from medgraft.benchmarks.objectives.space.probes import Embedded, fit_probes, match_confounds
from medgraft.benchmarks.phantoms.brain.scans import write_scans
from medgraft.benchmarks.phantoms.brain.writing import save_volume
from medgraft.benchmarks.results.spec import CellSpec, CohortId
from medgraft.benchmarks.training.grouped_batches import group_similar
from medgraft.errors import DataError
from medgraft.metric import Predictions
from medgraft.metric.judging import values
from medgraft.objective import make_objective
from medgraft.registry import TrainDefaults
from medgraft.task import RawInputs, TaskData

ENCODER = "pair:pixels:3d|pet:pixels:3d|dmri:pixels:3d"
NAMES = ("volume", "pet", "dmri")


def spec(**options: Any) -> CellSpec:
    facts = {"adapter": "linear_probe", "encoder": ENCODER, "task": "brain_space", "task_options": options, "seed": 0}
    cohort = CohortId(name="brain_scans", revision="test", phantom=True)
    return CellSpec.model_validate({**facts, "train": recipe(epochs=2, batch_size=8), "cohort": cohort})


def recipe(**options: Any) -> TrainDefaults:
    return TrainDefaults.model_validate({"head_lr": 1e-2, **options})


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("space") / "scans"
    write_scans(out, n_subjects=16, size=8, missing=0.3, seed=2)
    return out


@pytest.fixture(scope="module")
def ready(cohort: Path) -> Iterator[Ready]:
    yield build(load(spec(), cohort))


def head_of(ready: Ready) -> SpaceHead:
    assert isinstance(ready.grafted.head, SpaceHead)
    return ready.grafted.head


def objective_of(ready: Ready) -> AnchoredObjective:
    assert isinstance(ready.runner.objective, AnchoredObjective)
    return ready.runner.objective


# -- training ---------------------------------------------------------------------------------------------------------


def test_the_loss_is_that_of_the_function_on_what_is_there(ready):
    index = ready.loaded.splits["train"][:9]
    objective, head = objective_of(ready), head_of(ready)
    view = np.ones(len(ready.loaded.data.targets), np.int64)
    z, again = head(ready.runner.outputs(index)), head(ready.runner.outputs(index, view[index]))
    data = ready.loaded.data
    has = {name: torch.from_numpy(objective.present[index, k]) for k, name in enumerate(NAMES)}
    people = torch.from_numpy(np.unique(data.subjects, return_inverse=True)[1][index])
    head.specific_scale.log_scale.data.add_(0.5)
    loss = ready.runner.loss(index, None, view[index])
    expected = AnchoredLoss("volume")(z, head.scale(), people, has, again, specific_scale=head.specific_scale())
    head.specific_scale.log_scale.data.sub_(0.5)
    assert expected.specific > 0 and not all(each.all() for each in has.values())
    torch.testing.assert_close(loss, expected.total)


def test_views_of_a_batch_differ_and_are_kept_for_every_modality(ready):
    assert {name: len(each) for name, each in ready.views.items()} == dict.fromkeys(NAMES, 2)
    index = ready.loaded.splits["train"][:5]
    first, second = (ready.runner.outputs(index, np.full(5, view)) for view in (0, 1))
    assert all(not torch.equal(first[name].pooled, second[name].pooled) for name in NAMES)
    drawn = np.array([0, 1, 1, 0, 1])
    whole = np.resize(drawn, len(ready.loaded.data.targets))
    other = ready.runner._other_views
    assert (other(np.random.default_rng(0), whole) == 1 - whole).all()
    assert set(other(np.random.default_rng(0), None)) == {0, 1} and not ready.runner.augmented


def test_the_head_is_scaled_by_samples_that_have_a_modality(ready):
    train, objective = ready.loaded.splits["train"], objective_of(ready)
    for k, name in enumerate(NAMES):
        there = train[objective.present[train, k]]
        pooled = ready.runner.outputs(there)[name].pooled
        torch.testing.assert_close(head_of(ready).get_buffer(f"mean_{name}"), pooled.mean(dim=0), rtol=1e-3, atol=1e-4)


def test_training_lowers_the_loss_and_learns_the_temperature(cohort):
    made = build(load(spec(orthogonal_weight=0.0), cohort))  # correlations of more columns than samples stay high
    before = head_of(made).scale.log_scale.item()
    log = made.runner.fit(made.loaded.splits["train"], recipe(epochs=12, batch_size=16), 0, lambda share: None)
    assert log.epoch_loss[-1] < 0.8 * log.epoch_loss[0]
    assert head_of(made).scale.log_scale.item() != before


def test_plain_info_nce_needs_no_views(cohort):
    made = build(load(spec(common_share=1.0), cohort))
    assert not made.views
    again = build(load(spec(specific_weight=0.0), cohort))
    assert not again.views


def test_grouped_batches_hold_the_same_samples(cohort):
    made = build(load(spec(grouped=True), cohort))
    seen = []
    loss = made.runner.loss
    made.runner.loss = lambda index, *draws: seen.append(index) or loss(index, *draws)  # pyright: ignore
    train = made.loaded.splits["train"]
    made.runner.fit(train, recipe(epochs=2, batch_size=4), 0, lambda share: None)
    steps = len(seen) // 2
    for epoch in (seen[:steps], seen[steps:]):
        assert sorted(np.concatenate(epoch).tolist()) == sorted(train.tolist())
    assert np.isfinite(objective_of(made).seen[train[objective_of(made).present[train, 0]]]).all()


def test_batches_of_alike_samples_are_more_alike_than_random_ones():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(64, 5))
    index = rng.permutation(64)

    def alike(order: np.ndarray) -> float:
        unit = points / np.linalg.norm(points, axis=1, keepdims=True)
        return float(np.mean([(unit[part] @ unit[part].T).mean() for part in order.reshape(-1, 8)]))

    grouped = group_similar(index, points, 8)
    assert sorted(grouped.tolist()) == list(range(64)) and alike(grouped) > alike(index) + 0.1
    assert group_similar(index, np.full((64, 5), np.nan), 8).tolist() == index.tolist()
    points[3] = np.nan
    assert sorted(group_similar(index, points, 8).tolist()) == list(range(64))
    assert group_similar(index[:0], points, 8).tolist() == []


# -- what is missing or damaged ---------------------------------------------------------------------------------------


def test_a_scan_that_cannot_be_read_is_missing_and_counted(cohort, tmp_path):
    root = Path(shutil.copytree(cohort, tmp_path / "scans"))
    scans = read_scans(root)
    row = next(i for i, each in enumerate(scans.pet) if each is not None and scans.t1[i] is not None)
    image, _ = scans.pet[row] or (Path(), None)
    save_volume(image, np.zeros((8, 8, 8), np.float32), np.eye(4))
    loaded = load(spec(), root)
    whole = load(spec(), cohort)
    assert loaded.unreadable == whole.unreadable + 1 and loaded.reasons["zero in every voxel"] == 1
    present, before = (each.data.inputs["pet"].present for each in (loaded, whole))
    assert present is not None and before is not None and (present != before).nonzero()[0].tolist() == [row]
    assert not loaded.prepared["pet"].array[row].any()
    assert {name: part.tolist() for name, part in loaded.splits.items()} == {
        name: part.tolist() for name, part in whole.splits.items()
    }


def data_of(present: dict[str, np.ndarray | None], subjects: list[str], **changes: Any) -> TaskData:
    n = len(subjects)
    third = max(1, n // 3)
    splits = {"train": np.arange(n - 2 * third), "val": np.arange(n - 2 * third, n - third)}
    facts: dict[str, Any] = {
        "inputs": {name: RawInputs(lambda i: i, n, "", present=each) for name, each in present.items()},
        "targets": np.arange(n) % 2,
        "subjects": np.array(subjects),
        "splits": {**splits, "test": np.arange(n - third, n)},
        "classes": ("CN", "AD"),
    }
    return TaskData(**facts | changes)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (data_of({"volume": None}, list("abcdef")), "needs two modalities or more, and the task reads volume"),
        (data_of({"volume": None, "pet": np.arange(6) > 8}, list("abcdef")), "0 subjects of the train split have both"),
        (data_of({"volume": None, "pet": None}, list("aabbcc")), "1 subjects of the train split have both volume and"),
        (data_of({"volume": None, "pet": None}, list("abcdef"), targets=np.ones(6)), "one class for each sample"),
    ],
)
def test_what_cannot_be_paired_is_said(data, said):
    with pytest.raises(DataError, match=said):
        make_objective("anchored", data, tuple(data.inputs))


def test_objectives_that_read_all_inputs_refuse_gaps():
    gaps = data_of({"volume": None, "pet": np.arange(6) > 1}, list("abcdef"))
    with pytest.raises(DataError, match=r"samples lack inputs \(pet: 2\), and MulticlassObjective reads all"):
        make_objective("multiclass", gaps, ("volume", "pet"))
    make_objective("multiclass", data_of({"volume": None, "pet": np.ones(6, bool)}, list("abcdef")), ("volume", "pet"))


def test_gaps_are_as_many_as_samples():
    with pytest.raises(DataError, match="6 targets but 4 rows of present of pet"):
        data_of({"volume": None, "pet": np.ones(4, bool)}, list("abcdef")).check()


# -- what is judged ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def predicted(ready: Ready) -> Predictions:
    test = ready.loaded.splits["test"]
    groups = np.unique(ready.loaded.data.subjects[test], return_inverse=True)[1]
    return objective_of(ready).predictions(ready.runner.predict, ready.loaded.splits, groups)


def test_predictions_hold_embeddings_and_probes(ready, predicted):
    test, objective = ready.loaded.splits["test"], objective_of(ready)
    assert predicted.scores.shape == (len(test), 3 * 64) and np.isfinite(predicted.scores).all()
    with torch.no_grad():
        z = head_of(ready)(ready.runner.outputs(test))
    for k, name in enumerate(NAMES):
        there = objective.present[test, k]
        assert (predicted.columns[f"present_{name}"] == there).all()
        block = predicted.scores[:, 64 * k : 64 * k + 64]
        np.testing.assert_allclose(block[there], z[name].numpy()[there], rtol=1e-4, atol=1e-5)
        assert not block[~there].any()
        assert (np.isfinite(predicted.columns[f"probe_both_{name}"]).all(axis=1) == there).all()
    assert set(predicted.columns["common"]) == {48}
    subset = np.isfinite(predicted.columns["subset_volume+pet"]).all(axis=1)
    assert (subset == objective.present[test][:, :2].all(axis=1)).all()
    assert AnchoredObjective.misfit(predicted) == ""


def test_every_number_is_made_of_them(predicted):
    numbers = values(Predictions(**{**vars(predicted), "objective": "anchored"}))
    assert {"r1_anchor", "r5_emergent_chance", "r1_emergent_confounds", "probe_specific"} <= set(numbers)
    assert sum(name.startswith("subset_") for name in numbers) == 7
    assert all(0 <= value <= 1 or np.isnan(value) for value in numbers.values())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"scores": np.zeros((4, 7))}, "no embeddings of 2"),
        ({"columns": {}}, "no embeddings of 0"),
        ({"targets": np.zeros(4)}, "no classes"),
    ],
)
def test_arrays_of_another_shape_are_none_of_its_kind(change, said):
    columns = {"present_a": np.ones(4, bool), "present_b": np.ones(4, bool), "common": np.full(4, 2)}
    facts: dict[str, Any] = {"scores": np.zeros((4, 8)), "targets": np.zeros(4, int), "groups": np.arange(4)}
    facts |= {"classes": ("CN", "AD"), "columns": columns}
    assert AnchoredObjective.misfit(Predictions(**facts)) == ""
    assert said in AnchoredObjective.misfit(Predictions(**facts | change))


def embedded(seed: int, n: int = 60) -> tuple[Embedded, np.ndarray, np.ndarray]:
    """Two modalities whose common part shows the class, whose features show a confound, and gaps."""
    rng = np.random.default_rng(seed)
    targets, confound = rng.integers(0, 2, n), rng.normal(size=(n, 1))
    z = {name: rng.normal(size=(n, 8)) + 4 * np.eye(8)[0] * targets[:, None] for name in ("volume", "pet")}
    features = {name: np.concatenate([confound, rng.normal(size=(n, 3))], axis=1) for name in z}
    present = rng.random((n, 2)) < 0.8
    present[0], present[1] = (True, False), (False, False)
    return Embedded(z, features, present, 6), targets, confound


def test_probes_read_what_is_in_a_part():
    (train, targets, _), (test, truth, _) = embedded(0), embedded(1)
    told = fit_probes(train, test, targets, np.arange(60).astype(str), 2)

    def right(name: str) -> float:
        rows = told[name]
        asked = np.isfinite(rows[:, 1])
        return float(((rows[asked, 1] > 0.5) == truth[asked]).mean())

    assert right("probe_common_pet") > 0.9 > 0.7 > right("probe_specific_pet")
    assert right("subset_volume+pet") > 0.9 and right("subset_pet") > 0.8
    assert np.isnan(told["subset_volume"][1]).all() and np.isnan(told["subset_volume+pet"][0]).all()
    assert all(np.allclose(rows[np.isfinite(rows[:, 0])].sum(axis=1), 1) for rows in told.values())


def test_without_a_specific_part_it_is_not_probed():
    train, targets, _ = embedded(0)
    whole = Embedded(train.z, train.features, train.present, 8)
    assert not any("specific" in name for name in fit_probes(whole, whole, targets, np.arange(60).astype(str), 2))


def test_one_class_in_training_is_what_probes_say():
    train, targets, _ = embedded(0)
    told = fit_probes(train, train, np.zeros_like(targets), np.arange(60).astype(str), 2)
    rows = told["probe_common_pet"]
    assert (rows[np.isfinite(rows[:, 0])] == [1, 0]).all()


def test_confounds_are_matched_as_far_as_features_tell_them():
    (train, _, confound), (test, _, truth) = embedded(0), embedded(1)
    for rows in match_confounds(train, test, confound).values():
        assert rows.shape == (60, 1) and np.corrcoef(rows[:, 0], truth[:, 0])[0, 1] > 0.95


def test_fusing_takes_the_mean_of_the_unit_parts_that_are_there():
    train, _, _ = embedded(0)
    fused = train.fused(["volume", "pet"])
    common = {name: split_parts(torch.from_numpy(rows), 0.75)[0].numpy() for name, rows in train.z.items()}
    units = {name: rows / np.linalg.norm(rows, axis=1, keepdims=True) for name, rows in common.items()}
    both = train.present.all(axis=1)
    np.testing.assert_allclose(fused[both], (units["volume"][both] + units["pet"][both]) / 2)
    np.testing.assert_allclose(fused[0], units["volume"][0])
    assert not fused[1].any()
