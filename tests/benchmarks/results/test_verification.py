"""No stored result is believed: what contradicts itself is left out by name, and the rest of the board stands."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_leaderboard import store, terminal

from medgraft.benchmarks.board.leaderboard import table
from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.results import verification
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import LATER_FIELDS, CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import verified, verified_results
from medgraft.benchmarks.results.writing import write_arrays

Change = Callable[[dict[str, Any]], None]


def forge(folder: Path, seed: int, change: Change, *, rekey: bool = False) -> Path:
    """A stored result that somebody edited."""
    path = ResultStore(folder).path(store(folder, seed).spec)
    data = json.loads(path.read_text())
    change(data)
    if rekey:
        data["key"] = CellSpec.model_validate(data["spec"]).key()
    path.write_text(json.dumps(data))
    return path


def put(*keys: Any, value: Any) -> Change:
    def change(data: dict[str, Any]) -> None:
        for key in keys[:-1]:
            data = data[key]
        data[keys[-1]] = value

    return change


def both(*changes: Change) -> Change:
    def change(data: dict[str, Any]) -> None:
        for each in changes:
            each(data)

    return change


FORGED: dict[str, tuple[Change, str]] = {
    "metric": (put("metrics", "f1_macro", "value", value=0.99), "f1_macro is 0.99, and its predictions give"),
    "another metric": (put("metrics", "auc_ad", "value", value=1.0), "auc_ad is 1.0"),
    "undefined metric": (put("metrics", "auc_ad", "value", value=None), "auc_ad is None"),
    "invented metric": (
        lambda data: data["metrics"].update(best=data["metrics"]["f1_macro"]),
        "its predictions give no best",
    ),
    "no metric": (put("metrics", value={}), "a success without its metric f1_macro"),
    "primary": (put("primary", value="ours"), "a success without its metric ours"),
    "samples": (put("metrics", "f1_macro", "n", value=4000), "said to be of 4000 samples"),
    "interval": (put("metrics", "f1_macro", "ci_low", value=2.0), "has the interval"),
    "key": (put("key", value="0" * 16), "its key is not that of its specification"),
    "adapter": (put("spec", "adapter", value="ours"), "its key is not that of its specification"),
    "epochs": (put("spec", "train", "epochs", value=1), "its key is not that of its specification"),
    "phantom": (put("phantom", value=False), "its cohort says phantom: true"),
    "both phantoms": (both(put("phantom", value=False), put("spec", "cohort", "phantom", value=False)), "its key is"),
    "splits": (put("data", "splits", value=[1, 2]), "splits"),
    "split facts": (put("data", "splits", value={"test": {"samples": "many"}}), "splits.test.samples"),
    "classes": (put("data", "classes", value="CN"), "classes"),
    "reader": (put("data", "reader", value={"skipped": 3}), "reader.skipped"),
    "stages": (put("training", "stages", value=["all"]), "stages.0"),
    "routers": (put("diagnostics", value={"x": {"router_entropy": "high"}}), "router_entropy"),
    "baselines": (put("data", "table_baselines", value={"x": 3}), "table_baselines"),
    "weights": (put("encoder", "weights", value=7), "weights"),
}


@pytest.mark.parametrize("name", FORGED)
def test_what_contradicts_itself_is_left_out_by_name_and_the_rest_stands(tmp_path, caplog, name):
    change, reason = FORGED[name]
    store(tmp_path, 1)
    path = forge(tmp_path, 0, change)
    with caplog.at_level(logging.WARNING):
        (row,) = board_rows([tmp_path])
    assert [cell.spec.seed for cell in row.cells] == [1] and row.status == "success"
    told = [record.getMessage() for record in caplog.records if path.name in record.getMessage()]
    assert len(told) == 1 and reason in told[0], told
    assert markdown([row], BoardOptions("x")) and len(table([row])) == 1 and terminal([row])


def test_a_phantom_made_real_with_a_matching_key_is_told_by_its_data(tmp_path, caplog):
    real = both(put("phantom", value=False), put("spec", "cohort", "phantom", value=False))
    forge(tmp_path, 0, both(real, put("data", "generator", value="brain-3")), rekey=True)
    assert board_rows([tmp_path]) == [] and "their" not in caplog.text
    assert "it says phantom: false, and its data have a generator" in caplog.text


@pytest.mark.parametrize("shared", ["revision", "split"])
def test_a_phantom_made_real_is_told_by_other_results_of_its_cohort(tmp_path, caplog, shared):
    real = both(put("phantom", value=False), put("spec", "cohort", "phantom", value=False))
    if shared == "split":
        real = both(real, put("spec", "cohort", "revision", value="other"))
    else:
        real = both(real, put("data", "split_hash", value="other"))
    forge(tmp_path / "forged", 0, real, rekey=True)
    assert len(board_rows([tmp_path / "forged"])) == 1  # alone it cannot be told
    store(tmp_path / "honest", 1)
    (row,) = board_rows([tmp_path / "forged", tmp_path / "honest"])
    assert row.first.phantom and "other results of the same cohort or split say phantom: true" in caplog.text


def test_real_results_beside_phantoms_of_another_cohort_stay(tmp_path):
    store(tmp_path, phantom=True)
    store(tmp_path, phantom=False)
    assert [row.first.phantom for row in board_rows([tmp_path])] == [False, True]


HOSTILE_ARRAYS: dict[str, dict[str, np.ndarray]] = {
    "subjects beyond": {"groups": np.full(40, 10**12)},
    "negative subjects": {"groups": np.full(40, -1)},
    "no number": {"scores": np.full((40, 2), np.nan)},
    "too few": {"scores": np.zeros((3, 2))},
    "class beyond": {"targets": np.full(40, 9)},
    "fractions": {"targets": np.full(40, 0.5)},
    "a number": {"scores": np.array(1.0)},
    "mask": {"mask": np.ones((2, 2), bool)},
}


@pytest.mark.parametrize("name", HOSTILE_ARRAYS)
def test_hostile_predictions_are_none(tmp_path, name):
    result = store(tmp_path, 0)
    path = ResultStore(tmp_path).path(result.spec).with_suffix(".npz")
    with np.load(path) as stored:
        arrays = dict(stored)
    write_arrays(path, arrays | HOSTILE_ARRAYS[name])
    store(tmp_path, 1)
    (row,) = board_rows([tmp_path])
    assert row.status == "success (1 unverified)"


def test_a_row_without_predictions_says_that_nobody_checked_it(tmp_path):
    store(tmp_path)
    next(tmp_path.rglob("*.npz")).unlink()
    (row,) = board_rows([tmp_path])
    assert row.status == "success (1 unverified)"
    for text in (markdown([row], BoardOptions("x")), table([row]).to_csv(), terminal([row], 200)):
        assert "unverified" in text


def test_a_checked_result_wins_over_a_forged_one_and_one_that_nobody_checked(tmp_path):
    forge(tmp_path / "a", 0, put("metrics", "f1_macro", "value", value=0.99))
    bare = forge(tmp_path / "b", 0, put("metrics", "f1_macro", "value", value=0.98))
    bare.with_suffix(".npz").unlink()
    wanted = store(tmp_path / "c", 0)
    (found,) = verified_results([tmp_path / name for name in "abc"])
    assert found.cell == wanted and not found.unverified


def test_a_sweep_goes_on_from_what_is_true_only(tmp_path, caplog):
    good = ResultStore(tmp_path).path(store(tmp_path, 0).spec)
    assert verified(good, ResultStore(tmp_path).get(store(tmp_path, 0).spec)) is not None
    forged = forge(tmp_path, 1, put("metrics", "f1_macro", "value", value=0.99))
    assert verified(forged, CellResult.model_validate_json(forged.read_text())) is None
    assert f"{forged} is run again" in caplog.text
    good.with_suffix(".npz").write_bytes(b"damaged")
    assert verified(good, CellResult.model_validate_json(good.read_text())) is None
    good.with_suffix(".npz").unlink()
    assert verified(good, CellResult.model_validate_json(good.read_text())) is not None


def test_a_key_of_a_version_with_fewer_fields_is_a_key(tmp_path):
    def older(data: dict[str, Any]) -> None:
        del data["spec"]["limit"]
        told = json.dumps({k: v for k, v in data["spec"].items() if k not in LATER_FIELDS}, sort_keys=True)
        data["key"] = hashlib.sha256(told.encode()).hexdigest()[:16]

    forge(tmp_path, 0, older)
    assert len(board_rows([tmp_path])) == 1


# --- what a page, a spreadsheet and a terminal are told ---------------------------------------------------------------

HOSTILE = "=cmd|'/c calc'!A1 [red]\x1b[31m[/nope] <script>alert(1)</script> `x` [a](http://b) \u202e"


def test_a_hostile_name_is_only_shown(tmp_path):
    from medgraft.benchmarks.board.text import as_csv

    store(tmp_path, adapter=HOSTILE, encoder=HOSTILE, task=HOSTILE)
    rows = board_rows([tmp_path])
    page, sheet, screen = (
        markdown(rows, BoardOptions(f"medgraft run {HOSTILE}")),
        as_csv(table(rows)),
        terminal(rows, 300),
    )
    for text in (page, sheet, screen):
        assert "\x1b" not in text and "\u202e" not in text
    assert "<script>" not in page.split("\n", 4)[4] and "](http" not in page.split("\n", 4)[4]
    assert ",=cmd" not in sheet and "'=cmd" in sheet
    assert "[red]" in screen and "[/nope]" in screen


def test_the_command_of_a_board_names_no_place_of_the_machine(tmp_path, medgraft):
    store(tmp_path / "secret" / "r")
    done = medgraft("leaderboard", str(tmp_path / "secret" / "r"), "--out", str(tmp_path))
    assert done.exit_code == 0
    assert str(tmp_path) not in (tmp_path / "leaderboard.md").read_text()


# --- what was found true before ---------------------------------------------------------------------------------------


def test_a_result_is_computed_once_and_again_when_it_changes(tmp_path, monkeypatch):
    computed = []
    values = verification.values
    monkeypatch.setattr(verification, "values", lambda p: computed.append(1) or values(p))
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    for _ in range(2):
        store(tmp_path / "r")
        assert len(board_rows([tmp_path / "r"])) == 1
    assert len(computed) == 1
    forge(tmp_path / "r", 0, put("metrics", "f1_macro", "value", value=0.99))
    assert board_rows([tmp_path / "r"]) == [] and len(computed) == 2


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "file" / "cache"))
    store(tmp_path / "r")
    assert len(board_rows([tmp_path / "r"])) == 1
