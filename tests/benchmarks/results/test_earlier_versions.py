"""Results of every earlier version of the schema load, are checked, and are gone on from; later ones are named.

The files in ``earlier`` were written by the code of each version.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.results.migrations import SCHEMA_VERSION, STEPS, migrated
from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result_files import UnreadableError
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import verified, verified_results

EARLIER = Path(__file__).parent / "earlier"
SUCCESSES = sorted(EARLIER.glob("version-?.json"))


def place(file: Path, folder: Path) -> Path:
    """A file of ``earlier`` under its key, with its predictions."""
    key = json.loads(file.read_text())["key"]
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(EARLIER / "predictions.npz", folder / f"{key}.npz")
    return Path(shutil.copy(file, folder / f"{key}.json"))


def test_there_is_a_step_and_a_file_for_every_version():
    assert sorted(STEPS) == list(range(1, SCHEMA_VERSION))
    assert [json.loads(path.read_text())["schema_version"] for path in SUCCESSES] == [1, *(v + 1 for v in STEPS)]


@pytest.mark.parametrize("file", SUCCESSES, ids=lambda path: path.stem)
def test_a_result_of_each_version_loads_and_is_checked(tmp_path, file):
    path = place(file, tmp_path)
    (found,) = verified_results([tmp_path])
    said = json.loads(file.read_text())
    assert not found.unverified and found.path == path and found.cell.key == said["key"]
    assert found.cell.schema_version == SCHEMA_VERSION
    assert {name: each.value for name, each in found.cell.metrics.items()} == {
        name: each["value"] for name, each in said["metrics"].items()
    }
    assert found.cell.data == said["data"] and found.cell.diagnostics == said.get("diagnostics", {})
    assert path.read_bytes() == file.read_bytes()


def test_results_of_all_versions_stand_on_one_board(tmp_path):
    for file in SUCCESSES:
        place(file, tmp_path / file.stem)
    rows = board_rows([tmp_path])
    # Versions 3 to 5 hold the same cell; 1 and 2 other versions of the harness's numbers, which are rows of their own.
    assert len(rows) == 3 and not any(row.unverified or row.conflicts for row in rows)


def test_an_edited_result_of_an_earlier_version_is_still_found_out(tmp_path, caplog):
    path = place(EARLIER / "version-1.json", tmp_path)
    said = json.loads(path.read_text())
    said["metrics"]["f1_macro"]["value"] = 0.99
    path.write_text(json.dumps(said))
    assert verified_results([tmp_path]) == [] and "f1_macro is 0.99" in caplog.text


def test_a_failure_of_version_4_loads():
    cell = read_result(EARLIER / "version-4-killed.json")
    assert (cell.status, cell.stage, cell.log) == ("killed", "train", "x.log")


def test_a_sweep_goes_on_from_a_result_of_the_previous_version(tmp_path):
    """Version 3 was also written with the numbers version of today, and its cells have today's keys."""
    said = json.loads((EARLIER / "version-3.json").read_text())
    written = {k: v for k, v in said["spec"].items() if k not in ("train",)} | {"train": said["spec"]["train"]}
    spec = CellSpec.model_validate(written)
    store = ResultStore(tmp_path)
    path = store.path(read_result(EARLIER / "version-3.json").spec)
    place(EARLIER / "version-3.json", path.parent)
    found = verified(path, store.get(spec))
    assert found is not None and found.key == spec.key() == said["key"]


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 99, 0, -1, "4", None, True, 4.0])
def test_another_version_is_named_and_left_out(tmp_path, caplog, version):
    path = place(SUCCESSES[-1], tmp_path)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": version}))
    assert verified_results([tmp_path]) == []
    assert path.name in caplog.text and f"it has schema version {version}" in caplog.text
    assert ("update medgraft" in caplog.text) == (version in (SCHEMA_VERSION + 1, 99))


def test_steps_are_taken_one_after_the_other_and_keep_what_is_there():
    taken: list[int] = []
    steps = {v: (lambda d, v=v: taken.append(v) or {f"step {v}": 1} | d) for v in (1, 2, 3)}
    document = {"schema_version": 2, "step 3": "own"}
    assert migrated(document, 4, steps) == {"schema_version": 4, "step 2": 1, "step 3": "own"}
    assert taken == [2, 3] and document == {"schema_version": 2, "step 3": "own"}
    with pytest.raises(UnreadableError, match="schema version 5"):
        migrated({"schema_version": 5}, 4, steps)
