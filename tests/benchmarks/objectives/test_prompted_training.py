"""One model that is asked several questions: training in stages by the runner, and what the result says of routing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_encoders as tiny
import torch
from cells import ran, spec
from sweeping import Toy

from medgraft.adapters.tgh_moe import TghMoe
from medgraft.benchmarks.prefix_cache.rows import TowerInputs
from medgraft.benchmarks.results.migrations import SCHEMA_VERSION
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.training.trainer import Runner
from medgraft.errors import DataError
from medgraft.grafting import Grafted
from medgraft.objective import make_objective
from medgraft.registry import TrainDefaults
from medgraft.task import RawInputs, TaskData

N = 16


def asked_data(asked: np.ndarray, train: np.ndarray) -> TaskData:
    raw = RawInputs(lambda i: i, N, "")
    rest = np.setdiff1d(np.arange(N), train)
    return TaskData(
        inputs={"image": raw, "text": raw},
        targets=np.arange(N) % 2,
        subjects=np.arange(N).astype(str),
        splits={"train": train, "val": rest[:1], "test": rest[1:]},
        classes=("no", "yes"),
        asked=asked,
        questions=("which sex", "which age group"),
    )


def test_a_prompted_graft_trains_in_stages_and_reports_its_routing():
    torch.manual_seed(0)
    encoder = tiny.fresh("hf_clip")
    asked = np.arange(N) // 2 % 2
    data = asked_data(asked, np.arange(8)).check()
    words = np.where(asked[:, None] == 1, np.array([[58, 7, 8, 59]]), np.array([[58, 20, 21, 59]]))
    ids = np.concatenate([words, np.full((N, 8), 59)], axis=1).astype(np.int32)
    images = np.random.default_rng(0).normal(size=(N, 3, 32, 32)).astype(np.float32)
    inputs = {"image": TowerInputs(0, {"x": images}), "text": TowerInputs(0, {"x": ids})}
    adapter = TghMoe(TghMoe.Config(tasks=2, width=8, task_loss=1.0))
    grafted = Grafted(encoder, {"tgh_moe": adapter})
    found = Runner(grafted, make_objective("multiclass", data, ("image",)), data, inputs, grafted.encode)
    found.add_head(data.splits["train"])
    before = {name: p.detach().clone() for name, p in adapter.named_parameters()}
    log = found.fit(data.splits["train"], TrainDefaults(epochs=24, lr=0.02, batch_size=4), 0, lambda share: None)
    assert [(stage["stage"], stage["steps"]) for stage in log.stages] == [("task-shared", 24), ("task-specific", 24)]
    trained = [set(stage["parameters"]) for stage in log.stages]
    assert not trained[0] & trained[1] and trained[0] | trained[1] == set(before)
    moved = {name for name, p in adapter.named_parameters() if not torch.equal(p, before[name])}
    assert moved & trained[0] and moved & trained[1]
    adapter.reset_diagnostics()
    assert found.predict(np.arange(N)).shape == (N, 2)
    report = adapter.diagnostics()
    assert report["samples"] == N and report["task_accuracy"] == 1.0 and report["chosen_tasks"] == [8, 8]
    assert json.loads(json.dumps(report)) == report


def test_a_question_that_no_training_sample_asks_is_refused():
    with pytest.raises(DataError, match="no training sample asks 'which age group'"):
        asked_data((np.arange(N) >= 8).astype(np.int64), np.arange(8)).check()
    with pytest.raises(DataError, match="0 to 2 of 2"):
        asked_data(np.arange(N) % 3, np.arange(8)).check()
    with pytest.raises(DataError, match="3 rows of asked"):
        asked_data(np.zeros(3, np.int64), np.arange(8)).check()


def test_what_an_adapter_reports_is_kept_in_the_cell(toy: Toy):
    cell = ran(spec(adapter="toy_reporting"), toy.cohort)
    # reset after the blank run of grafting, and before the test samples
    assert cell.evaluated.diagnostics == {"toy_reporting": {"load": 0.5, "resets": 2}}


def test_results_of_older_schemas_are_still_read(tmp_path: Path):
    store, result = ResultStore(tmp_path), CellResult(key=spec().key(), status="success", spec=spec(), phantom=True)
    path = store.put(result.model_copy(update={"diagnostics": {"it": {"load": [1.0]}}}))
    stored = json.loads(path.read_text())
    assert stored["schema_version"] == SCHEMA_VERSION and stored["diagnostics"] == {"it": {"load": [1.0]}}
    for name in ("ops", "cache"):
        del stored[name]
    path.write_text(json.dumps(stored | {"schema_version": 2}))
    second = store.get(spec())
    assert second is not None and second.diagnostics and second.ops == second.cache == {}
    del stored["diagnostics"]
    path.write_text(json.dumps(stored | {"schema_version": 1}))
    old = store.get(spec())
    assert old is not None and old.diagnostics == {}
