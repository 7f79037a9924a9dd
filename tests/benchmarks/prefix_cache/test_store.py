"""The shared store of entries: its budget, what holds an entry, and caches that are full, read-only or damaged."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medgraft.benchmarks.prefix_cache import store as cache_entries
from medgraft.benchmarks.prefix_cache.store import Entry, entry, make_room, parse_size, size_budget
from medgraft.errors import ConfigError, MedgraftError


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def filled(size: int = 1000) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "x.npy", np.zeros(size, np.uint8))


def made(number: int, used: float = 0.0) -> Entry:
    """An entry of about 1 kB, last used at a given time."""
    found = entry({"n": number}, filled())
    if used:
        os.utime(found.folder.with_suffix(".use"), (used, used))
    return found


def present(*entries: Path) -> list[bool]:
    return [(folder / "facts.json").is_file() for folder in entries]


# --- the budget -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("1.5 mb", 1_500_000), ("7", 7), ("None", None), ("2TB", 2 * 10**12)]
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "3 PB", "GB"])
def test_what_is_no_size_is_named(text):
    with pytest.raises(ConfigError, match="write a number with KB, MB, GB or TB, or none"):
        parse_size(text)


def test_the_budget_comes_from_the_environment_and_has_a_default(monkeypatch):
    monkeypatch.delenv("MEDGRAFT_CACHE_SIZE", raising=False)
    assert size_budget() == 20 * 10**9
    monkeypatch.setenv("MEDGRAFT_CACHE_SIZE", "none")
    assert size_budget() is None


def test_the_longest_unused_entries_go_first(root):
    folders = [made(n, used=1000.0 + t).folder for n, t in enumerate((3, 1, 2))]
    size = cache_entries.size_of(folders[0])
    assert make_room(root, 2 * size + 1) == size
    assert present(*folders) == [True, False, True]
    made(2)  # used just now
    make_room(root, size + 1)
    assert present(*folders) == [False, False, True]


def test_a_new_entry_makes_room_and_stays_itself(monkeypatch):
    first = made(0, used=1000.0).folder
    monkeypatch.setenv("MEDGRAFT_CACHE_SIZE", "10")
    second = made(1)
    assert present(first, second.folder) == [False, True]


def test_what_is_held_stays(root, caplog):
    held = made(0, used=1000.0)
    free = made(1, used=2000.0).folder
    make_room(root, 0)
    assert present(held.folder, free) == [True, False] and "is being read" in caplog.text
    folder = held.folder
    del held
    assert make_room(root, 0) > 0 and present(folder) == [False]


def _hold(ready, leave) -> None:
    found = entry({"n": 0}, filled())
    ready.set()
    leave.wait(20)
    del found


def test_what_another_process_holds_stays(root):
    folder = made(0).folder
    fork = multiprocessing.get_context("fork")
    ready, leave = fork.Event(), fork.Event()
    process = fork.Process(target=_hold, args=(ready, leave))
    process.start()
    assert ready.wait(20)
    assert make_room(root, 0) == 0 and present(folder) == [True]
    leave.set()
    process.join()
    assert make_room(root, 0) > 0 and present(folder) == [False]


def _churn(number: int, failures) -> None:
    os.environ["MEDGRAFT_CACHE_SIZE"] = "2500"
    for turn in range(30):
        found = entry({"n": (number + turn) % 5}, filled(), needs=("x.npy",))
        if np.load(found.folder / "x.npy").size != 1000:
            failures.put(turn)


def test_processes_that_make_room_for_each_other_never_meet_half_an_entry():
    fork = multiprocessing.get_context("fork")
    failures = fork.SimpleQueue()
    processes = [fork.Process(target=_churn, args=(i, failures)) for i in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0] and failures.empty()


# --- what killed processes leave --------------------------------------------------------------------------------------


def _killed(number: int) -> None:
    def build(folder: Path) -> None:
        filled(5000)(folder)
        os.kill(os.getpid(), signal.SIGKILL)

    entry({"n": number}, build)


def _killed_while_removing(root: Path) -> None:
    def die(folder: Path, **_: object) -> None:
        if folder.exists():
            os.kill(os.getpid(), signal.SIGKILL)

    cache_entries.shutil.rmtree = die  # pyright: ignore[reportAttributeAccessIssue]
    make_room(root, 0)


def killed(target: Callable[..., None], *arguments: object) -> None:
    process = multiprocessing.get_context("fork").Process(target=target, args=arguments)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def leftovers(root: Path, ending: str) -> list[Path]:
    return sorted(root.glob(f"prefix/*/*{ending}"))


@pytest.mark.parametrize("budget", [None, 10**9])
def test_what_a_killed_builder_left_goes_when_room_is_made(root, budget):
    kept = made(0).folder
    killed(_killed, 1)
    assert len(leftovers(root, ".building")) == 1
    assert make_room(root, budget) > 5000
    assert not leftovers(root, ".building") and present(kept) == [True]
    assert make_room(root, budget) == 0


def test_what_a_killed_process_was_removing_goes_too(root):
    made(0)
    killed(_killed_while_removing, root)
    assert len(leftovers(root, ".gone")) == 1
    assert make_room(root, None) > 1000 and not leftovers(root, ".gone")


@pytest.mark.parametrize("hit", [True, False])
def test_opening_another_entry_removes_what_killed_processes_left(root, hit):
    if hit:
        made(0)
    killed(_killed, 1)
    assert made(0).hit == hit and not leftovers(root, ".building")


def _build_until(ready, leave) -> None:
    def build(folder: Path) -> None:
        filled()(folder)
        (folder.with_suffix(".gone")).mkdir()  # as if it were removing the damaged one before it
        ready.set()
        leave.wait(20)

    entry({"n": 1}, build)


def test_what_a_living_process_builds_or_removes_stays(root):
    fork = multiprocessing.get_context("fork")
    ready, leave = fork.Event(), fork.Event()
    process = fork.Process(target=_build_until, args=(ready, leave))
    process.start()
    assert ready.wait(20)
    made(0)
    assert make_room(root, None) == 0
    assert [len(leftovers(root, ending)) for ending in (".building", ".gone")] == [1, 1]
    assert (leftovers(root, ".building")[0] / "x.npy").is_file()
    leave.set()
    process.join()
    assert process.exitcode == 0 and made(1).hit and not leftovers(root, ".gone")


def test_an_entry_that_is_built_for_another_leaves_that_ones_folder_alone(root):
    def build(folder: Path) -> None:
        filled()(folder)
        made(0)
        make_room(root, None)
        assert (folder / "x.npy").is_file()

    assert entry({"n": 1}, build).size > 1000


# --- what is wrong with a cache ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("damage", ["gone", "short"])
def test_a_half_deleted_entry_is_made_again(listed, damage, caplog):
    folder = made(0).folder
    if not listed:
        (folder / "files.json").unlink()
    if damage == "gone":
        (folder / "x.npy").unlink()
    else:
        os.truncate(folder / "x.npy", 300)
    again = entry({"n": 0}, filled(), needs=("x.npy",))
    assert not again.hit and np.load(again.folder / "x.npy").size == 1000
    assert "is made again" in caplog.text


def test_an_entry_without_its_last_file_is_not_there():
    folder = made(0).folder
    (folder / "facts.json").unlink()
    assert not made(0).hit and made(0).hit


def test_an_entry_of_another_version_is_left_alone_and_goes_when_room_is_needed(root, monkeypatch):
    old = made(0, used=1000.0).folder
    monkeypatch.setattr(cache_entries, "CACHE_VERSION", cache_entries.CACHE_VERSION + 1)
    new = made(0)
    assert not new.hit and present(old, new.folder) == [True, True]
    make_room(root, new.size + 10)
    assert present(old, new.folder) == [False, True]


def test_a_full_disk_is_emptied_of_what_nobody_reads_and_tried_again(monkeypatch, caplog):
    old, calls = made(0).folder, []

    def build(folder: Path) -> None:
        calls.append(folder)
        if len(calls) == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        filled()(folder)

    assert entry({"n": 1}, build).size > 1000
    assert present(old) == [False] and "disk of the cache folder" in caplog.text


def test_disks_that_stay_full_are_an_error_with_a_remedy_and_leave_nothing(root):
    def build(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(MedgraftError, match=r"the cache folder .* is full .* and so is .*MEDGRAFT_CACHE"):
        entry({"n": 1}, build)
    assert not list(root.rglob("half"))


def test_a_cache_that_cannot_be_written_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "file"))
    with pytest.raises(MedgraftError, match=r"cannot be written.*set MEDGRAFT_CACHE to a folder that can be written"):
        made(0)


def test_a_read_only_cache_serves_what_it_has(root, monkeypatch):
    folder = made(0).folder
    real = Path.open

    def refuse(path: Path, mode: str = "r", *rest, **more):
        if path.is_relative_to(root) and set(mode) & set("wax+"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, mode, *rest, **more)

    monkeypatch.setattr(Path, "open", refuse)  # permissions do not stop the super-user
    found = made(0)
    assert found.hit and found.folder == folder
    assert not made(1).folder.is_relative_to(root)


def test_an_error_in_reading_the_data_stays_what_it_is():
    def build(folder: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "/data/scan.nii")

    with pytest.raises(FileNotFoundError, match=r"scan\.nii"):
        entry({"n": 0}, build)


def test_waiting_for_another_builder_is_a_hit():
    fork = multiprocessing.get_context("fork")
    ready, leave = fork.Event(), fork.Event()

    def slowly(folder: Path) -> None:
        ready.set()
        time.sleep(0.3)
        filled()(folder)

    process = fork.Process(target=lambda: entry({"n": 0}, slowly))
    process.start()
    assert ready.wait(20)
    leave.set()
    assert entry({"n": 0}, lambda folder: pytest.fail("built twice")).hit
    process.join()
