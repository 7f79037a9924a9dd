"""Sweeps of made-up cells: they fail as they are meant to, are found done, and what they cost stays small."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from sweeping import command

from medgraft.benchmarks.board import finished_rows
from medgraft.benchmarks.board.finished_rows import FinishedRows
from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.results import verified_before
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import succeeded
from medgraft.benchmarks.simulate import phases
from medgraft.benchmarks.simulate.cells import seconds_of, specs, templates, write_outcome
from medgraft.benchmarks.simulate.launcher import OUTCOMES
from medgraft.benchmarks.simulate.phases import PHASES


@pytest.fixture(scope="module")
def real(chest_cohort: Path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    what = ("--adapters", "linear_probe", "--tasks", "chexpert", "--encoders", "pixels:2d", "--seeds", "0,1")
    where = ("--data", f"chexpert={chest_cohort}", "--results", str(folder))
    done = command("run", *what, *where, "--epochs", "2", "--no-baselines")
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.usefixtures("cache")
def test_a_simulated_sweep_is_sent_out_found_done_estimated_and_shown(real, tmp_path):
    out, cells = tmp_path / "results", 300
    seconds, ended = PHASES["dispatch"](real, out, cells)
    assert ended["done before"] == 0 and sum(ended[name] for name in OUTCOMES if name in ended) == cells
    assert ended["success"] < cells, "some fail"
    _, found = PHASES["resume"](real, out, cells)
    assert found["found"] == ended["success"]
    _, told = PHASES["estimate"](real, out, cells)
    assert told["said"] == pytest.approx(told["true"], rel=0.25)
    _, rows = PHASES["board"](real, out, cells)
    assert rows["rows"] == cells / 5
    (journal,) = (out / "sweeps").iterdir()
    shown = sum('"row"' in line for line in journal.read_text().splitlines()[1:])
    assert shown == ended["rows computed meanwhile"] <= cells / 5
    assert seconds / cells < 0.2, "0.02 s on an idle machine; four times that on one core that is shared"


def test_durations_are_those_of_the_cell_and_differ_between_seeds(real):
    template = templates(real)[0].result.spec
    cells = list(specs(template, 40))
    assert [seconds_of(each) for each in cells] == [seconds_of(each) for each in specs(template, 40)]
    assert len({each.key() for each in cells}) == 40 and len({each.row() for each in cells}) == 8
    assert seconds_of(cells[0]) != seconds_of(cells[1])


def filled(real: Path, out: Path, n: int) -> tuple[ResultStore, list]:
    """A folder with results of ``n`` cells that succeeded."""
    found, store = templates(real), ResultStore(out)
    cells = list(specs(found[0].result.spec, n))
    for cell in cells:
        place = store.path(cell)
        place.parent.mkdir(parents=True, exist_ok=True)
        write_outcome(cell, found[0], place.parent, place.name, place.with_suffix(".npz").name)
    return store, cells


@pytest.mark.usefixtures("cache")
def test_a_finished_cell_is_read_once_and_again_when_a_file_of_it_changes(real, tmp_path, monkeypatch):
    store, (cell,) = filled(real, tmp_path / "results", 1)
    path, read = store.path(cell), []
    original = verified_before.remember
    monkeypatch.setattr(verified_before, "remember", lambda digest: (read.append(digest), original(digest)))
    assert succeeded(path) and read
    read.clear()
    assert succeeded(path) and not read
    text = path.read_text()
    path.write_text(text.replace('"seed": 0', '"seed": 7'))
    assert not succeeded(path), "its key is not that of its specification"
    path.write_text(text)
    shutil.copyfile(path.with_suffix(".npz"), tmp_path / "kept.npz")
    path.with_suffix(".npz").write_bytes(b"no archive")
    assert not succeeded(path)
    shutil.copyfile(tmp_path / "kept.npz", path.with_suffix(".npz"))
    assert succeeded(path)
    path.unlink()
    assert not succeeded(path)


@pytest.mark.usefixtures("cache")
def test_rows_are_computed_beside_a_large_sweep_and_here_if_that_process_dies(real, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(finished_rows, "MANY", 5)
    store, cells = filled(real, tmp_path / "results", 15)
    rows = FinishedRows(store, cells, {cell.key() for cell in cells})
    results = [result for cell in cells if (result := store.get(cell)) is not None]
    for result in results[:5]:
        rows.add(result)
    end = time.monotonic() + 120
    while not (first := list(rows.computed())):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert rows._pool is not None
    (process,) = rows._pool._processes
    assert process != os.getpid()
    os.kill(process, signal.SIGKILL)
    for result in results[5:]:
        rows.add(result)
    rest = list(rows.rest())
    assert [len(first), len(rest)] == [1, 2] and len({row.metric for row in [*first, *rest]}) == 1
    assert "this one does it" in caplog.text


@pytest.mark.usefixtures("cache")
def test_a_sweep_that_ends_early_does_not_wait_for_rows_that_nobody_will_see(real, tmp_path, monkeypatch):
    monkeypatch.setattr(finished_rows, "MANY", 2)
    store, cells = filled(real, tmp_path / "results", 2)
    rows = FinishedRows(store, cells, {cell.key() for cell in cells})
    assert rows._pool is not None
    waiting = [rows._pool.submit(time.sleep, 40) for _ in range(5)]
    (process,) = rows._pool._processes.values()
    start = time.monotonic()
    rows.close()
    assert time.monotonic() - start < 35 and not process.is_alive(), "it imports for seconds before it can end"
    assert all(each.exception() is not None for each in waiting)
    rows.close()


def test_what_is_kept_of_rows_without_computing_them_is_what_would_be_computed(real, cache, tmp_path):
    out = tmp_path / "results"
    phases._write(real, out, 0, 10)
    kept = board_rows([out])
    assert len(list((cache / "rows").iterdir())) >= 2
    shutil.rmtree(cache / "rows")
    computed = board_rows([out])
    told = [[(row.metrics, row.few, row.standing, row.standing_note) for row in rows] for rows in (kept, computed)]
    assert told[0] == told[1] and len(kept) == 2
