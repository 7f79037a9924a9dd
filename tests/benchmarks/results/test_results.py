"""One JSON per cell: its key, its folder, how it is written, and how folders are read and merged."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from medgraft.benchmarks.metrics.bootstrap import Estimate as Metric
from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec, CohortId
from medgraft.benchmarks.results.store import ResultStore, safe_name
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.errors import MedgraftError
from medgraft.registry import TrainDefaults

BASE: dict[str, Any] = {
    "task": "toy",
    "task_options": {"split_seed": 0, "deep": {"b": 1, "a": [1, 2]}},
    "task_version": 1,
    "cohort": {"name": "toy", "revision": "r1", "phantom": True},
    "encoder": "toy:tiny",
    "encoder_weights": "random",
    "adapter": "toy_gain",
    "adapter_options": {"noise": 0.1},
    "seed": 0,
    "backend": "eager",
    "precision": "fp32",
    "train": {"epochs": 2, "lr": 0.001, "batch_size": 32, "weight_decay": 0.01, "warmup": 0.1},
    "threads": 1,
    "limit": None,
    "augment_views": 0,
    "device": "cpu",
    "plain": False,
    "calibrate": "none",
    "sets": "lac",
    "coverage": 0.9,
    "sets_by_class": False,
    "tune": 0,
    "budget": None,
    "plugins": {"medgraft-toy": "1.5"},
    "numbers_version": 1,
}
OTHER: dict[str, Any] = {
    "task": "toy2",
    "task_options": {"split_seed": 1},
    "task_version": 2,
    "cohort": {"name": "toy", "revision": "r2", "phantom": True},
    "encoder": "toy:small",
    "encoder_weights": "pretrained:0",
    "adapter": "toy_trouble",
    "adapter_options": {"noise": 0.2},
    "seed": 1,
    "backend": "compile",
    "precision": "bf16",
    "train": {**BASE["train"], "lr": 0.002},
    "threads": 2,
    "limit": 8,
    "augment_views": 2,
    "device": "cuda",
    "plain": True,
    "calibrate": "temperature",
    "sets": "aps",
    "coverage": 0.8,
    "sets_by_class": True,
    "tune": 3,
    "budget": 10_000,
    "plugins": {"medgraft-toy": "1.6"},
    "numbers_version": 2,
}


def spec(**changes: Any) -> CellSpec:
    return CellSpec.model_validate({**BASE, **changes})


def result(status: str = "success", value: float = 0.5, **changes: Any) -> CellResult:
    cell = spec(**changes)
    metric = Metric(value=value, ci_low=0.1, ci_high=0.9, n=4, n_subjects=2)
    return CellResult(
        key=cell.key(),
        status=status,  # pyright: ignore[reportArgumentType]
        spec=cell,
        phantom=True,
        metrics={"f1_macro": metric} if status == "success" else {},
    )


# --- keys -------------------------------------------------------------------------------------------------------------


def test_the_key_is_the_same_in_another_process():
    code = (
        "import sys; from medgraft.benchmarks.results.result import CellSpec; "
        "print(CellSpec.model_validate_json(sys.argv[1]).key())"
    )
    environment = os.environ | {"PYTHONHASHSEED": "77"}
    out = subprocess.run(
        [sys.executable, "-c", code, json.dumps(BASE)], capture_output=True, text=True, env=environment, check=True
    )
    assert out.stdout.strip() == spec().key()


def _reversed(value: Any) -> Any:
    return {k: _reversed(v) for k, v in reversed(value.items())} if isinstance(value, dict) else value


def test_the_key_does_not_depend_on_the_order_of_fields():
    assert CellSpec.model_validate(_reversed(BASE)).key() == spec().key()


def test_every_field_is_tested_here():
    assert set(OTHER) == set(BASE) == set(CellSpec.model_fields)


@pytest.mark.parametrize("field", sorted(OTHER))
def test_the_key_changes_with_every_field(field):
    assert spec(**{field: OTHER[field]}).key() != spec().key()


@pytest.mark.parametrize("field", sorted(set(OTHER) - {"seed"}))
def test_the_row_changes_with_every_field_but_the_seed(field):
    assert spec(**{field: OTHER[field]}).row() != spec().row()


@pytest.mark.parametrize("deep", [False, True])
def test_a_copy_has_a_key_of_its_own_and_a_field_cannot_be_set_behind_it(deep):
    made = spec()
    before = made.key(), made.row()
    copy = made.model_copy(update={"adapter": "another"}, deep=deep)
    assert copy.key() == spec(adapter="another").key() != before[0]
    assert copy.row() != before[1] and (made.key(), made.row()) == before
    assert made == spec() and pickle.loads(pickle.dumps(made)) == made
    with pytest.raises(ValidationError, match="frozen"):
        made.adapter = "another"


def test_seeds_share_a_row():
    assert spec(seed=5).row() == spec().row()


def test_numbers_written_differently_are_one_key():
    assert spec(train={**BASE["train"], "lr": 1e-3, "weight_decay": 1e-2}).key() == spec().key()


def test_a_field_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="colour"):
        spec(colour="red")


# --- storage ----------------------------------------------------------------------------------------------------------


def test_a_result_comes_back_equal(tmp_path):
    store = ResultStore(tmp_path)
    store.put(result())
    assert store.get(spec()) == result()


def test_a_result_lies_where_a_person_would_look(tmp_path):
    path = ResultStore(tmp_path).put(result())
    assert path.relative_to(tmp_path).as_posix() == f"toy_tiny/toy_gain/toy/{spec().key()}.json"


def test_predictions_lie_beside_the_result(tmp_path):
    path = ResultStore(tmp_path).put(result(), {"scores": np.eye(2)})
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as stored:
        assert stored.files == ["scores"] and np.array_equal(stored["scores"], np.eye(2))


def test_predictions_are_there_before_their_result(tmp_path, monkeypatch):
    order = []
    replace = os.replace

    def watched(source: Any, target: Any) -> None:
        order.append(Path(target).suffix)
        replace(source, target)

    monkeypatch.setattr(os, "replace", watched)
    ResultStore(tmp_path).put(result(), {"scores": np.eye(2)})
    assert order == [".npz", ".json"]


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("old")

    def fail(handle: Any) -> None:
        handle.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_named_with_a_remedy(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(MedgraftError, match=r"file/results cannot be written: .*choose another --results"):
        ResultStore(tmp_path / "file" / "results").check_writable()


def test_checking_leaves_nothing_behind(tmp_path):
    ResultStore(tmp_path / "r").check_writable()
    assert list((tmp_path / "r").iterdir()) == []


def test_a_damaged_result_counts_as_missing_and_is_kept(tmp_path):
    store = ResultStore(tmp_path)
    path = store.put(result())
    path.write_text('{"schema_version": 1, "key"')
    assert store.get(spec()) is None
    store.put(result())
    assert path.with_suffix(".json.old").read_text() == '{"schema_version": 1, "key"'


def test_long_names_fit_a_file_system_and_stay_apart():
    one, other = (safe_name(f"timm:vit@/{'long/' * 80}{end}") for end in "ab")
    assert len(one) < 200 and one != other


def test_a_name_cannot_leave_the_results_folder():
    assert "/" not in safe_name("transformers:vit@../../etc")


# --- reading ----------------------------------------------------------------------------------------------------------

UNREADABLE = {
    "cut.json": '{"schema_version": 1, "key"',
    "list.json": "[1, 2]",
    "number.json": "3",
    "old.json": '{"schema_version": 0}',
    "foreign.json": '{"hello": "world"}',
    "incomplete.json": '{"schema_version": 1, "key": "0"}',
    "binary.json": "\udc80",
}


@pytest.mark.parametrize("name", sorted(UNREADABLE))
def test_what_is_no_result_is_left_out_with_a_warning_that_names_it(tmp_path, caplog, name):
    ResultStore(tmp_path).put(result())
    (tmp_path / name).write_bytes(UNREADABLE[name].encode(errors="surrogateescape"))
    with caplog.at_level(logging.WARNING):
        assert [found.key for _, found in read_results([tmp_path])] == [spec().key()]
    assert name in caplog.text


def test_folders_are_merged_and_equal_keys_are_one_result(tmp_path):
    for name, seeds in (("a", (0, 1)), ("b", (1, 2))):
        for seed in seeds:
            ResultStore(tmp_path / name).put(result(seed=seed))
    found = [each.spec.seed for _, each in read_results([tmp_path / "a", tmp_path / "b"])]
    assert sorted(found) == [0, 1, 2]


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_a_success_wins_over_a_failure_of_the_same_key(tmp_path, order):
    ResultStore(tmp_path / "a").put(result("timeout"))
    ResultStore(tmp_path / "b").put(result("success"))
    assert [each.status for _, each in read_results([tmp_path / name for name in order])] == ["success"]


def test_unfinished_work_and_temporary_files_are_not_results(tmp_path):
    ResultStore(tmp_path / ".work-1").put(result())
    ResultStore(tmp_path).put(result(seed=1)).rename(tmp_path / "toy_tiny/toy_gain/toy/.x.json")
    assert list(read_results([tmp_path])) == []


def test_a_results_folder_may_lie_below_a_hidden_one(tmp_path):
    ResultStore(tmp_path / ".cache" / "r").put(result())
    assert len(list(read_results([tmp_path / ".cache" / "r" / "toy_tiny" / "toy_gain"]))) == 1


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(MedgraftError, match="nowhere does not exist"):
        list(read_results([tmp_path / "nowhere"]))


def test_the_spec_survives_json():
    again = CellSpec.model_validate_json(spec().model_dump_json())
    assert again == spec() and isinstance(again.train, TrainDefaults) and isinstance(again.cohort, CohortId)
