"""Contrast between windows of a run: losses by hand, what is learnt, what is judged, and what cannot be compared."""

from __future__ import annotations

import itertools
import logging
import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from medgraft import graft
from medgraft.benchmarks.cell.steps.loading import load
from medgraft.benchmarks.cell.steps.precomputing import build
from medgraft.benchmarks.objectives.space.windows import WIDTH, WindowHead, WindowObjective, windows_of
from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.results.spec import CellSpec, CohortId
from medgraft.benchmarks.tasks.fmri.abide import Abide
from medgraft.benchmarks.training.trainer import Runner
from medgraft.errors import DataError, IncompatibleError, MedgraftError
from medgraft.features import Features
from medgraft.metric import Predictions, value_of
from medgraft.metric.judging import judged, values
from medgraft.objective import Batch, make_objective
from medgraft.registry import TrainDefaults
from medgraft.task import RawInputs, TaskData
from medgraft.task.names import task_class
from medgraft.testing.phantoms import small_phantom

EXACT = {"rel": 1e-9, "abs": 1e-9}
NAMES = ("instance_contrast", "local_contrast")
GRID = (3, 1, 1, 2, 2)
TOKENS, DIM = 4, 24


def task_data(people: np.ndarray, splits: dict[str, np.ndarray] | None = None) -> TaskData:
    n = len(people)
    every = {"train": np.arange(n - 4), "val": np.arange(0), "test": np.arange(n - 4, n)}
    return TaskData(
        inputs={"volume_sequence": RawInputs(lambda i: i, n, "")},
        targets=np.arange(n) % 2,
        subjects=people.astype(str),
        splits=splits or every,
        classes=("control", "autism"),
        validated=splits is not None,
    )


def objective_of(name: str, people: np.ndarray) -> WindowObjective:
    made = make_objective(name, task_data(people), ("volume_sequence",))
    assert isinstance(made, WindowObjective)
    return made


def features_of(counts: list[int], seed: int = 0) -> Features:
    """Tokens of runs of some windows, NaN where a run has none, so that reading one shows."""
    random = torch.Generator().manual_seed(seed)
    tokens = torch.randn(len(counts), GRID[0], TOKENS, 5, generator=random, dtype=torch.float64)
    real = torch.arange(GRID[0]) < torch.tensor(counts)[:, None]
    pooled = (tokens.mean(dim=2) * real[:, :, None]).sum(dim=1) / real.sum(dim=1)[:, None]
    mask = None if bool(real.all()) else real.repeat_interleave(TOKENS, dim=1)
    return Features(tokens.flatten(1, 2), pooled, 0, GRID, mask=mask)


def holder(head: WindowHead) -> Any:
    return type("Holder", (), {"head": head})


def unit_windows(head: WindowHead, features: Features) -> list[list[np.ndarray]]:
    """Of each run its windows' vectors, by loops."""
    weight, mean, deviation = (
        each.detach().numpy() for each in (head.linear.weight, head.mean, head.deviation)
    )  # [width, C], [C], [C]
    found = []
    for i, run in enumerate(features.tokens.unflatten(1, (GRID[0], TOKENS)).numpy()):
        real = [True] * len(run) if features.mask is None else features.mask[i, ::TOKENS].tolist()
        rows = [
            weight @ ((window.mean(axis=0) - mean) / deviation)
            for window, there in zip(run, real, strict=True)
            if there
        ]
        found.append([row / np.linalg.norm(row) for row in rows])
    return found


def cross_entropy(first: list[np.ndarray], second: list[np.ndarray]) -> float:
    """NT-Xent at 0.1 of rows whose partners are in the same place, by loops."""
    rows, half, total = [*first, *second], len(first), 0.0
    for i, row in enumerate(rows):
        every = sum(math.exp(row @ other / 0.1) for j, other in enumerate(rows) if j != i)
        total -= math.log(math.exp(row @ rows[(i + half) % len(rows)] / 0.1) / every)
    return total / len(rows)


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def case(
    name: str, counts: list[int], people: list[int]
) -> tuple[float, list[list[np.ndarray]], list[list[np.ndarray]]]:
    """The loss of a batch, and by loops the windows of its runs and of their views."""
    objective = objective_of(name, np.array([*people, *range(90, 94)]))
    outputs, again = features_of(counts), features_of(counts, seed=1)
    torch.manual_seed(3)
    head = objective.make_head({"volume_sequence": outputs})
    batch = Batch(torch.zeros(len(counts)), index=np.arange(len(counts)), again={"volume_sequence": again})
    loss = objective.loss(holder(head), {"volume_sequence": outputs}, batch)
    return loss.item(), unit_windows(head, outputs), unit_windows(head, again)


# -- losses -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("counts", [[3, 3, 3], [2, 3, 1, 2], [1, 2]])
def test_local_contrast_is_the_formula_summed_over_runs_of_two_windows(counts):
    loss, windows, views = case("local_contrast", counts, list(range(len(counts))))
    several = [i for i, count in enumerate(counts) if count > 1]
    assert loss == pytest.approx(sum(cross_entropy(windows[i], views[i]) for i in several), **EXACT)


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("counts", [[3, 3, 3], [2, 3, 1, 2]])
def test_instance_contrast_is_the_formula_on_two_windows_of_each_person_at_different_times(counts):
    loss, windows, views = case("instance_contrast", counts, list(range(len(counts))))
    several = [i for i, count in enumerate(counts) if count > 1]
    drawn = [list(itertools.permutations(range(counts[i]), 2)) for i in several]
    wanted = [
        cross_entropy(
            [windows[i][a] for i, (a, _) in zip(several, chosen, strict=True)],
            [views[i][b] for i, (_, b) in zip(several, chosen, strict=True)],
        )
        for chosen in itertools.product(*drawn)
    ]
    assert min(abs(each - loss) for each in wanted) < 1e-9
    assert max(wanted) - min(wanted) > 0.1  # so that a wrong one would not pass


def test_every_two_different_windows_are_drawn_and_never_one_that_is_not_there(monkeypatch):
    seen: set[tuple[int, int]] = set()
    monkeypatch.setattr(
        "medgraft.benchmarks.objectives.space.instance_contrast.nt_xent",
        lambda a, b, _: seen.update(zip(a[:, 0].int().tolist(), b[:, 0].int().tolist(), strict=True)) or a.sum(),
    )
    z = torch.arange(3.0).view(1, 3, 1).expand(40, 3, 1)
    objective = objective_of("instance_contrast", np.arange(50))
    counts = np.full(40, 3)
    torch.manual_seed(0)
    objective.contrast(z, z, counts, np.arange(40), np.arange(40))
    assert seen == set(itertools.permutations(range(3), 2))
    seen.clear()
    objective.contrast(z, z, counts - 1, np.arange(40), np.arange(40))
    assert seen == {(0, 1), (1, 0)}


@pytest.mark.usefixtures("in_double")
def test_another_run_of_a_person_is_no_negative():
    several, *_ = case("instance_contrast", [2, 2, 2, 2], [0, 0, 1, 1])
    objective = objective_of("instance_contrast", np.array([0, 0, 1, 1, *range(90, 94)]))
    outputs, again = features_of([2, 2, 2, 2]), features_of([2, 2, 2, 2], seed=1)
    torch.manual_seed(3)
    head = objective.make_head({"volume_sequence": outputs})
    one_each = np.array([0, 2])
    batch = Batch(torch.zeros(2), index=one_each, again={"volume_sequence": pick(again, one_each)})
    alone = objective.loss(holder(head), {"volume_sequence": pick(outputs, one_each)}, batch)
    assert several == pytest.approx(alone.item(), **EXACT)


def pick(features: Features, rows: np.ndarray) -> Features:
    assert features.mask is not None
    return features.replace(tokens=features.tokens[rows], pooled=features.pooled[rows], mask=features.mask[rows])


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_of_runs_of_one_window_costs_nothing_and_trains_nothing(name):
    objective = objective_of(name, np.arange(9))
    head = objective.make_head({"volume_sequence": features_of([2, 1, 3])})
    outputs = {"volume_sequence": features_of([1, 1])}
    loss = objective.loss(holder(head), outputs, Batch(torch.zeros(2), index=np.arange(2), again=outputs))
    loss.backward()
    assert loss.item() == 0 and head.linear.weight.grad is not None and not head.linear.weight.grad.any()


def test_windows_that_a_run_lacks_stand_behind_those_it_has():
    features = features_of([3, 3])
    blank = torch.tensor([[True, False, True], [True, True, True]])
    windows = windows_of(features.replace(mask=blank.repeat_interleave(TOKENS, dim=1)))
    rows = features.tokens.float().unflatten(1, (3, TOKENS)).mean(dim=2)
    assert windows.counts.tolist() == [2, 3]
    assert torch.equal(windows.rows[0], rows[0, [0, 2, 1]]) and torch.equal(windows.last(), rows[:, 2])


# -- learning ---------------------------------------------------------------------------------------------------------


def made_up_windows(people: int, counts: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Tokens of two windows: twelve numbers of the person beside twelve of the time that are three times as large."""
    rng = np.random.default_rng(0)
    mixed = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
    person = np.repeat(rng.normal(size=(people, 1, DIM // 2)), 2, axis=1)
    rows = np.concatenate([person, 3 * rng.normal(size=(people, 2, DIM // 2))], axis=2) @ mixed
    counts = np.full(people, 2) if counts is None else counts
    there = np.arange(2) < counts[:, None]
    pooled = (rows * there[:, :, None]).sum(axis=1) / counts[:, None]
    tokens = np.repeat(rows, TOKENS, axis=1).astype(np.float32)
    return {"tokens": tokens, "pooled": pooled.astype(np.float32), "mask": np.repeat(there, TOKENS, axis=1)}


def runner_of(name: str, rows: dict[str, np.ndarray]) -> Runner:
    torch.manual_seed(0)
    people = np.arange(len(rows["pooled"]))
    cut = len(people) - 40
    data = task_data(people, {"train": people[:cut], "val": people[:0], "test": people[cut:]})
    data.validated = False
    grafted = graft("swift:tiny,windows=2@random", "linear_probe")
    source = TowerInputs(grafted.first_stage()["volume_sequence"], rows, grid=(2, *GRID[1:]))
    inputs, views = {"volume_sequence": source}, {"volume_sequence": [source, source]}
    made = make_objective(name, data, ("volume_sequence",))
    built = Runner(grafted, made, data, inputs, grafted.encode, views=views, augmented=False)
    built.add_head(data.splits["train"])
    return built


def predicted(runner: Runner) -> Predictions:
    splits = dict(runner.data.splits)
    groups = np.unique(runner.data.subjects[splits["test"]], return_inverse=True)[1]
    made = runner.objective.predictions(runner.predict, splits, groups)
    return Predictions(**{**vars(made), "objective": "instance_contrast"})


def fit(runner: Runner, epochs: int = 10) -> list[float]:
    facts = {"epochs": epochs, "lr": 1e-3, "head_lr": 3e-2, "batch_size": 65}
    recipe = TrainDefaults.model_validate(facts)
    return runner.fit(runner.data.splits["train"], recipe, 0, lambda share: None).epoch_loss


def test_a_graft_learns_to_find_people_again():
    runner = runner_of("instance_contrast", made_up_windows(300))
    before = values(predicted(runner))
    losses = fit(runner)
    after = values(predicted(runner))
    assert losses[-1] < 0.5 * losses[0]
    assert before["r1_anchor_chance"] == pytest.approx(1 / 40)
    assert before["r1_anchor"] < 0.3 and after["r1_anchor"] > 0.8


def test_local_contrast_learns_to_tell_times_apart_and_so_no_people():
    rows = made_up_windows(300)
    rows["tokens"][:, TOKENS:] = 0.6 * rows["tokens"][:, :TOKENS] + 0.4 * rows["tokens"][:, TOKENS:]
    rows["pooled"] = rows["tokens"].mean(axis=1)
    runner = runner_of("local_contrast", rows)
    before = values(predicted(runner))
    losses = fit(runner)
    assert losses[-1] < 0.8 * losses[0]
    assert values(predicted(runner))["r1_anchor"] < before["r1_anchor"]


# -- what is judged ---------------------------------------------------------------------------------------------------


def test_runs_of_one_window_are_probed_but_neither_asked_nor_found(caplog):
    counts = np.where(np.arange(100) % 5 == 0, 1, 2)
    runner = runner_of("instance_contrast", made_up_windows(100, counts))
    with caplog.at_level(logging.WARNING):
        made = predicted(runner)
    assert runner.data.provenance["one_window"] == {"train": 12, "test": 8}
    assert "take no part in finding people again: 12 of the train split, 8 of the test split" in caplog.text
    numbers = values(made)
    assert numbers["r1_anchor_chance"] == pytest.approx(1 / 32)
    assert np.isfinite(made.columns["probe_common_first"]).all()
    assert np.isnan(made.columns["probe_common_last"]).any(axis=1).tolist() == (counts[60:] == 1).tolist()
    assert type(runner.objective).misfit(made) == "" and made.scores.shape == (40, 2 * WIDTH)


def test_first_and_last_window_are_what_is_compared():
    runner = runner_of("instance_contrast", made_up_windows(60))
    test, head = runner.data.splits["test"], runner.grafted.head
    rows = torch.from_numpy(made_up_windows(60)["tokens"][test]).unflatten(1, (2, TOKENS)).mean(dim=2)
    with torch.no_grad():
        z = head(rows).double().numpy()  # pyright: ignore[reportOptionalCall]
    cosines = z[:, 0] @ z[:, 1].T
    hits = [(cosines.argmax(axis=axis) == np.arange(len(test))).mean() for axis in (0, 1)]
    assert values(predicted(runner))["r1_anchor"] == pytest.approx(np.mean(hits), abs=1e-9)


@pytest.mark.parametrize("variant", ["instance", "local"])
def test_variants_of_tasks_on_runs_say_what_confounds_match_and_fit_no_regression(variant):
    for family in ("abide", "fmriprep"):
        cls = task_class(f"{family}:{variant}")
        assert (cls.objective, cls.primary) == (f"{variant}_contrast", "r1_anchor")
    assert Abide.objective == "multiclass" and "self_supervised" not in Abide.tags
    data = task_class(f"abide:{variant}")().load(small_phantom("abide")).check()
    assert "table_baselines" not in data.provenance and "bayes_f1_macro" not in data.provenance
    assert len(data.columns["confounds"]) == len(data.targets) and "site" in data.provenance["confounds"]


def cell(**facts: Any) -> CellSpec:
    named = {"adapter": "lora", "encoder": "swift:tiny@random", "task": "abide:instance", "seed": 0, **facts}
    train = TrainDefaults.model_validate({"epochs": 1, "batch_size": 8})
    cohort = CohortId(name="abide", revision="test", phantom=True)
    return CellSpec.model_validate({**named, "train": train, "cohort": cohort})


@pytest.mark.parametrize("task", ["abide:instance", "abide:local"])
def test_a_cell_trains_on_the_phantom_and_is_judged(task):
    ready = build(load(cell(task=task), small_phantom("abide")))
    assert len(ready.views["volume_sequence"]) == 2
    log = ready.runner.fit(ready.loaded.splits["train"], ready.spec.train, 0, lambda share: None)
    made = predicted(ready.runner)
    assert math.isfinite(log.epoch_loss[0]) and log.epoch_loss[0] > 0
    numbers = judged(made).statistics
    people = len(made.groups)
    for name in ("r1_anchor", "r1_anchor_chance", "r1_anchor_confounds", "probe_common"):
        assert 0 <= value_of(numbers[name], people) <= 1


# -- what cannot be compared ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "error", "says"),
    [
        ({"encoder": "swift:tiny,windows=1@random"}, DataError, r"lie on the grid \(2, 2, 2, 4\).*several"),
        (
            {"adapter": "attentive_probe"},
            IncompatibleError,
            "adapter 'attentive_probe' changes what stands for a whole run.*such as lora",
        ),
    ],
)
def test_encoders_and_adapters_that_do_not_fit_are_named(facts, error, says):
    with pytest.raises(error, match=says) as caught:
        build(load(cell(**facts), small_phantom("abide")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"grid": (3, 2, 2)}, {"grid": (12,)}, {"n_prefix": 1}])
def test_tokens_of_no_windows_are_refused(changes):
    with pytest.raises(DataError, match=f"the grid {re.escape(str(changes.get('grid', GRID)))}.* choose an encoder"):
        windows_of(features_of([3, 3]).replace(**changes))


def test_runs_that_all_have_one_window_are_refused_before_training():
    with pytest.raises(DataError, match=r"none of 20 training runs has two windows.*longer runs"):
        runner_of("instance_contrast", made_up_windows(60, np.ones(60, int)))


def test_a_test_split_without_two_people_to_tell_apart_is_refused():
    runner = runner_of("instance_contrast", made_up_windows(60, np.where(np.arange(60) < 21, 2, 1)))
    with pytest.raises(DataError, match="1 people of the test split have a run of two windows"):
        predicted(runner)


@pytest.mark.parametrize(
    ("changes", "inputs", "says"),
    [
        ({}, ("volume",), "windows are of runs .* and the task reads volume"),
        ({"targets": np.linspace(0, 1, 12)}, ("volume_sequence",), "one class for each run"),
        ({"subjects": np.repeat(["a", "b", "c"], 4)}, ("volume_sequence",), "test split are all of one person"),
    ],
)
def test_data_without_anything_to_compare_are_refused(changes, inputs, says):
    data = task_data(np.arange(12))
    for name, value in changes.items():
        setattr(data, name, value)
    with pytest.raises(MedgraftError, match=says):
        make_objective("local_contrast", data, inputs)
