"""Numbers and risks as objectives: what is refused, losses by hand, the exact head, predictions that are judged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from medgraft.benchmarks.objectives.evaluation import evaluate
from medgraft.errors import DataError, UnknownNameError
from medgraft.features import Features
from medgraft.metric.judging import objective_of
from medgraft.objective import Batch, make_objective, objective_class
from medgraft.task import RawInputs, TaskData

N = 40
SPLITS = {"train": np.arange(20), "val": np.arange(20, 28), "test": np.arange(28, N)}


def data(**changes: Any) -> TaskData:
    rng = np.random.default_rng(0)
    values: dict[str, Any] = {
        "inputs": {"image": RawInputs(lambda i: None, N, "")},
        "targets": rng.uniform(50, 90, N),
        "subjects": np.arange(N).astype(str),
        "splits": SPLITS,
        "classes": (),
        "columns": {"event": (np.arange(N) % 3 != 0).astype(float)},
        **changes,
    }
    return TaskData(**values)


def features(index: np.ndarray) -> dict[str, Features]:
    pooled = torch.randn(N, 5, generator=torch.Generator().manual_seed(0))[torch.from_numpy(index)]
    return {"image": Features(pooled[:, None], pooled, 0, (1,))}


class Holder:
    """Stands in for a graft: a head and nothing else."""

    def __init__(self, head: torch.nn.Module) -> None:
        self.head = head


def built(name: str, found: TaskData) -> tuple[Any, Any]:
    objective = make_objective(name, found, ("image",))
    head = objective.make_head(features(SPLITS["train"]))
    assert head is not None
    torch.manual_seed(0)
    torch.nn.init.normal_(head.linear.weight)
    return objective, Holder(head)


@pytest.mark.parametrize(("name", "changes", "reason"), [
    ("regression", {"targets": np.arange(N)}, r"targets are int64 \[40\]; a regression has one number \(float\)"),
    ("regression", {"targets": np.zeros((N, 2))}, r"targets are float64 \[40, 2\]"),
    ("regression", {"targets": np.where(np.arange(N) == 3, np.nan, 1.5)}, "1 targets are not finite"),
    ("regression", {"targets": np.ones(N)}, "all training targets are equal"),
    ("survival", {"columns": {}}, "survival needs columns"),
    ("survival", {"columns": {"event": np.full(N, 2)}}, "survival needs columns"),
    ("survival", {"targets": np.arange(N) - 1.0}, "the train split has times that are not finite or not above 0"),
    ("survival", {"columns": {"event": (np.arange(N) < 28).astype(int)}}, "no sample of the test split has an event"),
])  # fmt: skip
def test_targets_that_do_not_fit_are_refused_with_what_is_wrong(name, changes, reason):
    with pytest.raises(DataError, match=reason):
        make_objective(name, data(**changes), ("image",))


def test_a_name_that_does_not_exist_is_answered_with_a_near_one():
    with pytest.raises(UnknownNameError, match="unknown objective 'mutliclass'; did you mean multiclass"):
        objective_class("mutliclass")


def test_the_loss_of_numbers_is_a_squared_error_in_units_of_the_training_variance():
    found = data()
    objective, graft = built("regression", found)
    index = np.arange(6)
    with torch.no_grad():
        predicted = objective.scores(graft, features(index))[:, 0].numpy()
        loss = objective.loss(graft, features(index), Batch(torch.from_numpy(found.targets[index]), index=index))
    spread = found.targets[SPLITS["train"]].std()
    assert float(loss) == pytest.approx(np.mean(((predicted - found.targets[index]) / spread) ** 2), rel=1e-5)


def test_the_loss_of_risks_is_the_partial_likelihood_of_the_batch():
    found = data()
    objective, graft = built("survival", found)
    index = np.arange(9)
    batch = Batch(torch.from_numpy(found.targets[index]), index=index)
    with torch.no_grad():
        risk = objective.scores(graft, features(index))[:, 0].double().numpy()
        loss = float(objective.loss(graft, features(index), batch))
    time, event = found.targets[index], found.columns["event"][index]
    each = [np.log(np.exp(risk[time >= t]).sum()) - r for t, r, e in zip(time, risk, event, strict=True) if e]
    assert loss == pytest.approx(np.mean(each), rel=1e-5)


def test_a_batch_without_an_event_has_a_loss_of_0_and_a_gradient():
    objective, graft = built("survival", data())
    index = np.array([0, 3, 6])  # every third was not seen
    loss = objective.loss(graft, features(index), Batch(torch.ones(3), index=index))
    loss.backward()
    assert loss.item() == 0 and all(p.grad is not None and not p.grad.any() for p in graft.head.parameters())


@pytest.mark.parametrize(("name", "columns"), [("regression", set()), ("survival", {"event", "censoring", "horizons"})])
def test_predictions_hold_what_their_metrics_read(name, columns):
    objective, _ = built(name, data())
    p = objective.predictions(lambda index: np.cos(index.astype(float))[:, None], SPLITS, np.arange(12) // 2)
    p = replace(p, objective=name)
    assert set(p.columns) == columns and objective_of(p).misfit(p) == ""
    found = evaluate(p, resamples=50)
    assert set(objective.columns) <= set(found) and objective.primary in found
    assert all(each.n == 12 and each.n_subjects == 6 for each in found.values())
    assert objective_of(p).misfit(replace(p, scores=p.scores[:, 0]))


def test_horizons_are_the_tasks_or_quartiles_of_training_events():
    found = data()
    events = found.targets[:20][found.columns["event"][:20] > 0]
    quartiles, _ = built("survival", found)
    assert quartiles.horizons == pytest.approx(np.quantile(events, (0.25, 0.5, 0.75)))
    asked, _ = built("survival", data(horizons=(60.0,)))
    assert asked.horizons.tolist() == [60.0]


@pytest.mark.parametrize("name", ["regression", "survival"])
def test_a_task_without_classes_is_sound(name):
    assert data().check().provenance == {}
    assert make_objective(name, data().check(), ("image",)).subjects_by_class(None) == {}  # pyright: ignore
