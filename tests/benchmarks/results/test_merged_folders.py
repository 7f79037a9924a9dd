"""Folders of several people as one: what is there twice, and how much is said of what is left out."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import pytest
from test_leaderboard import store, terminal
from test_submission import as_another_seed, copy_as, put

from medgraft.benchmarks.board.markdown import markdown
from medgraft.benchmarks.board.options import BoardOptions
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.results.left_out import NAMED, LeftOut
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import verified_results


def test_equal_numbers_of_one_key_count_once_and_nothing_is_said(tmp_path, caplog):
    for folder in "ab":
        put(tmp_path / folder)
    (row,) = board_rows([tmp_path / "a", tmp_path / "b"])
    assert len(row.cells) == 1 and not row.conflicts and not caplog.records


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_of_different_numbers_the_first_folder_counts_and_the_board_says_both(tmp_path, caplog, order):
    cells = {folder: store(tmp_path / folder, skill=skill) for folder, skill in (("a", 0.2), ("b", 0.9))}
    (row,) = board_rows([tmp_path / folder for folder in order])
    values = [cells[folder].metrics["f1_macro"].value for folder in order]
    assert row.metrics["f1_macro"][0] == values[0] and len(row.cells) == 1
    told = f"f1_macro {values[0]:.6g}, not {values[1]:.6g}"
    assert told in row.conflicts[0] and "it was read first" in row.conflicts[0] and told in caplog.text
    assert f"{values[1]:.6g}" in markdown([row], BoardOptions("x")) and f"{values[1]:.6g}" in terminal([row], 200)
    assert str(tmp_path) not in markdown([row], BoardOptions("x"))


def test_checked_numbers_count_before_others_whatever_the_order(tmp_path):
    bare = ResultStore(tmp_path / "a").path(store(tmp_path / "a", skill=0.9).spec)
    bare.with_suffix(".npz").unlink()
    wanted = store(tmp_path / "b", skill=0.2)
    for order in ("ab", "ba"):
        (row,) = board_rows([tmp_path / folder for folder in order])
        assert row.cells == [wanted] and "its predictions were checked" in row.conflicts[0]


def test_a_success_beside_a_failure_is_no_conflict(tmp_path):
    store(tmp_path / "a", status="error")
    store(tmp_path / "b")
    (row,) = board_rows([tmp_path / "a", tmp_path / "b"])
    assert row.status == "success" and not row.conflicts


def test_a_copy_as_another_seed_does_not_count(tmp_path, caplog):
    paths = [put(tmp_path, seed) for seed in (0, 1)]
    as_another_seed(paths[0])
    (row,) = board_rows([tmp_path])
    assert len(row.cells) == 2 and {cell.spec.seed for cell in row.cells} in ({0, 1}, {1, 7})
    assert "it has all times and numbers of" in caplog.text


def test_copies_in_different_rows_are_all_left_out(tmp_path, caplog):
    path, kept = put(tmp_path), put(tmp_path, 1)
    said = json.loads(path.read_text())
    said["spec"]["adapter"] = "ours"
    said["key"] = CellSpec.model_validate(said["spec"]).key()
    other = path.with_name(f"{said['key']}.json")
    other.write_text(json.dumps(said))
    shutil.copy(path.with_suffix(".npz"), other.with_suffix(".npz"))
    (found,) = verified_results([tmp_path])
    assert found.path == kept and caplog.text.count("it has all times and numbers of") == 2


def test_a_copy_under_another_name_counts_once_and_is_named(tmp_path, caplog):
    copy = copy_as(put(tmp_path), "f" * 16)
    assert len(verified_results([tmp_path])) == 1
    assert f"{copy} is left out: it is a copy of" in caplog.text


def test_other_versions_of_a_plugin_are_rows_of_their_own_with_a_note(tmp_path):
    for version in ("1.0", "1.1"):
        store(tmp_path, plugins={"zoo": version})
    assert {row.note for row in board_rows([tmp_path])} == {"zoo 1.0", "zoo 1.1"}


def broken(folder: Path, count: int) -> None:
    folder.mkdir()
    for i in range(count):
        text = ['{"schema_version": 4, "key', '{"schema_version": 9}', "[]"][i % 3]
        (folder / f"{i:016x}.json").write_text(text)


def test_the_first_few_are_named_and_the_others_counted_by_reason(tmp_path, caplog):
    broken(tmp_path / "broken", 60)
    store(tmp_path / "good")
    left_out = LeftOut()
    assert len(verified_results([tmp_path], left_out)) == 1
    warnings = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(warnings) == NAMED + 1 and sum("is left out: " in text for text in warnings) == NAMED
    assert "60 files left out (40 damaged, or no result, 20 of another version of the schema)" in warnings[-1]
    assert len(left_out.files) == 60 and sum(left_out.kinds.values()) == 60


def test_few_are_all_named_and_not_counted(tmp_path, caplog):
    broken(tmp_path / "broken", NAMED)
    assert verified_results([tmp_path]) == []
    assert len(caplog.records) == NAMED and all("is left out: " in r.getMessage() for r in caplog.records)
