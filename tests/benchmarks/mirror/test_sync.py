"""A folder and shared storage in step: nothing lost, doubled or overwritten, whoever is killed."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import uuid
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from s3_server import S3
from test_leaderboard import store

from medgraft.benchmarks.mirror import place as places
from medgraft.benchmarks.mirror.place import copy_of, local_folders, shown
from medgraft.benchmarks.mirror.sync import STATE, Sync
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import verified_results
from medgraft.benchmarks.storage.base import Storage
from medgraft.benchmarks.storage.folder import FolderStorage
from medgraft.benchmarks.storage.opening import open_storage


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, s3: S3) -> Storage:
    place = tmp_path / "share" if request.param == "folder" else f"{s3.bucket(f'b{uuid.uuid4().hex}')}/sweep"
    return open_storage(place)


@pytest.fixture
def share(tmp_path: Path) -> FolderStorage:
    return FolderStorage(tmp_path / "share")


def keys(folder: Path) -> list[str]:
    return sorted(each.cell.key for each in verified_results([folder]))


def path_of(folder: Path, result: CellResult) -> Path:
    return ResultStore(folder).path(result.spec)


def test_both_sides_have_everything_after_it(storage, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for seed in (0, 1):
        store(a, seed)
    store(b, 2)
    assert len(Sync(a, storage).run().sent) == 2
    report = Sync(b, storage).run()
    assert (len(report.sent), len(report.fetched)) == (1, 2)
    assert len(Sync(a, storage).run().fetched) == 1
    assert keys(a) == keys(b) and len(keys(a)) == 3
    again = Sync(a, storage).run()
    assert (again.sent, again.fetched, again.kept, again.refused) == ([], [], [], {})


def test_what_is_in_step_is_not_read_again_and_without_its_state_only_compared(share, tmp_path, monkeypatch):
    store(tmp_path / "a")
    Sync(tmp_path / "a", share).run()
    monkeypatch.setattr(FolderStorage, "download", lambda *rest: pytest.fail("it was read"))
    Sync(tmp_path / "a", share).run()
    monkeypatch.undo()
    (tmp_path / "a" / STATE).write_text("{ no json")
    report = Sync(tmp_path / "a", share).run()
    assert report.sent == report.fetched == []


@pytest.mark.parametrize("prefer", [None, "local", "shared"])
def test_another_result_of_one_cell_is_not_overwritten_unless_somebody_says_which_stays(share, tmp_path, prefer):
    a, b = tmp_path / "a", tmp_path / "b"
    first, second = store(a, skill=0.5), store(b, skill=0.2)
    Sync(a, share).run()
    before = {path: path.read_bytes() for path in [*share.root.rglob("*.zip"), path_of(b, second)]}
    report = Sync(b, share, prefer=prefer).run()
    if prefer is None:
        (why,) = report.refused.values()
        assert why.startswith("brain_adapter seed 0 was found twice with other numbers")
        assert {path: path.read_bytes() for path in before} == before
    else:
        Sync(tmp_path / "c", share).run()
        kept = ResultStore(tmp_path / "c").get(first.spec)
        assert kept is not None and kept.metrics == (second if prefer == "local" else first).metrics


@pytest.mark.parametrize("lost", ["removed", "damaged"])
def test_predictions_that_one_side_has_lost_come_from_the_other_and_never_go_there(share, tmp_path, lost):
    a = tmp_path / "a"
    result = store(a)
    Sync(a, share).run()
    (archive,) = share.root.rglob("*.zip")
    before, predictions = archive.read_bytes(), path_of(a, result).with_suffix(".npz")
    kept = predictions.read_bytes()
    predictions.unlink()
    if lost == "damaged":
        predictions.write_bytes(b"no archive")
    report = Sync(a, share).run()
    assert (report.sent, len(report.fetched)) == ([], 1)
    assert archive.read_bytes() == before and predictions.read_bytes() == kept


def test_a_sweep_leaves_trials_alone_and_a_sync_does_not(share, tmp_path):
    a = tmp_path / "a"
    trial = path_of(a, store(a)).parent / "row.trials" / "0000.trial.json"
    trial.parent.mkdir()
    trial.write_text('{"score": 0.5}')
    assert len(Sync(a, share, trials=False).run().sent) == 1
    assert len(Sync(a, share).run().sent) == 1
    other = tmp_path / "b"
    assert len(Sync(other, share, trials=False).run().fetched) == 1


def test_a_result_takes_the_place_of_a_failure_on_either_side(share, tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    store(a, 0, status="error"), store(a, 1)
    store(b, 0), store(b, 1, status="error")
    Sync(a, share).run()
    report = Sync(b, share).run()
    assert (len(report.sent), len(report.fetched)) == (1, 1)
    Sync(a, share).run()
    assert all(each.cell.status == "success" for folder in (a, b) for each in verified_results([folder]))


def test_a_damaged_archive_is_made_again_from_here_and_named_elsewhere(share, tmp_path):
    store(tmp_path / "a")
    Sync(tmp_path / "a", share).run()
    (archive,) = share.root.rglob("*.zip")
    archive.write_bytes(archive.read_bytes()[:-50])
    report = Sync(tmp_path / "b", share).run()
    assert len(report.damaged) == 1 and keys(tmp_path / "b") == []
    Sync(tmp_path / "a", share).run()
    assert len(Sync(tmp_path / "b", share).run().fetched) == 1


def test_a_copy_loses_what_was_removed_and_a_folder_sends_it_again(share, tmp_path):
    store(tmp_path / "a")
    for folder in ("a", "copy"):
        Sync(tmp_path / folder, share, copy=folder == "copy").run()
    share.remove(list(share.listed("cells")))
    assert len(Sync(tmp_path / "copy", share, copy=True).run().removed) == 1 and keys(tmp_path / "copy") == []
    assert len(Sync(tmp_path / "a", share).run().sent) == 1


def test_hostile_names_in_storage_reach_no_file(share, tmp_path):
    share.write("cells/../../../up/0123456789abcdef.zip", b"x")
    share.write("cells/.work-1/0123456789abcdef.zip", b"x")
    share.write("sweeps/.x.sweep.jsonl", b"x")
    Sync(tmp_path / "a" / "b", share).run()
    assert [path.name for path in (tmp_path / "a").rglob("*") if path.is_file()] == [STATE]


def test_places_are_folders_or_copies_of_urls(storage, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    store(tmp_path / "a")
    Sync(tmp_path / "a", storage).run()
    url = storage.url if "://" in storage.url else f"file://{storage.url}"
    (folder,) = local_folders([Path(url)])
    assert keys(folder) == keys(tmp_path / "a") and folder == copy_of(url)
    assert local_folders([tmp_path]) == [tmp_path] and shown(Path(url)) == storage.url
    assert places.FOLDER in folder.parts


def test_a_journal_is_as_old_as_the_storage_says(share, tmp_path, monkeypatch):
    journal = tmp_path / "a" / "sweeps" / "20260101-000000-00000000-1.sweep.jsonl"
    journal.parent.mkdir(parents=True)
    journal.write_text("{}\n")
    Sync(tmp_path / "a", share).run()
    there = share.root / "sweeps" / journal.name
    os.utime(there, (time.time() - 500,) * 2)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - 7200)  # this machine's clock is two hours late
    Sync(tmp_path / "b", share, copy=True, send=False).run()
    age = time.time() - (tmp_path / "b" / "sweeps" / journal.name).stat().st_mtime
    assert 495 < age < 560


# --- eight machines, two mount points, and kill -9 --------------------------------------------------------------------

CELLS = 20
ENOUGH = "enough"
"""A file of the test: there were so many kills that machines may come to their end."""


def _machine(number: int, root: Path, mount: Path) -> None:
    """A machine with results of its own and some that others have too, that sends and fetches again and again."""
    folder = root / f"own-{number}"
    for seed in range(number, number + 6):
        store(folder, seed % CELLS, status="error" if (number + seed) % 5 == 0 else "success")
    while not (root / ENOUGH).exists():  # until there were kills enough, however fast this machine is
        Sync(folder, FolderStorage(mount)).run()
    Sync(folder, FolderStorage(mount)).run()


def test_eight_machines_on_two_mount_points_killed_at_random_lose_and_double_no_result(tmp_path):
    (tmp_path / "share").mkdir()
    (tmp_path / "mount").symlink_to(tmp_path / "share")
    fork, chance = multiprocessing.get_context("fork"), random.Random(1)
    kills = dict.fromkeys(range(8), 0)

    def start(number: int) -> BaseProcess:
        mount = tmp_path / ("share" if number % 2 else "mount")
        process = fork.Process(target=_machine, args=(number, tmp_path, mount))
        process.start()
        return process

    machines = {number: start(number) for number in range(8)}
    end = time.monotonic() + 120
    while any(process.exitcode != 0 for process in machines.values()):
        assert time.monotonic() < end, {n: process.exitcode for n, process in machines.items()}
        time.sleep(0.03)
        if alive := [each for each, process in machines.items() if kills[each] < 2 and process.is_alive()]:
            number = chance.choice(alive)
            os.kill(machines[number].pid or 0, signal.SIGKILL)
            machines[number].join()
            kills[number] += 1
        if sum(kills.values()) > 5:
            (tmp_path / ENOUGH).touch()
        for each, process in machines.items():
            assert process.exitcode in (None, 0, -signal.SIGKILL)
            if process.exitcode == -signal.SIGKILL:
                machines[each] = start(each)
    assert sum(kills.values()) > 5
    report = Sync(tmp_path / "all", FolderStorage(tmp_path / "share")).run()
    wanted = {seed % CELLS for number in range(8) for seed in range(number, number + 6)}
    found = verified_results([tmp_path / "all"])
    assert not report.damaged and sorted(each.cell.spec.seed for each in found) == sorted(wanted)
    good = {s % CELLS for n in range(8) for s in range(n, n + 6) if (n + s) % 5}
    assert {each.cell.spec.seed for each in found if each.cell.status == "success"} == good
    assert not any(each.unverified or each.conflict for each in found)
