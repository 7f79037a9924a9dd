"""A results folder that cannot be written costs a sentence, and what killed launchers left in it is cleared."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from test_leaderboard import store
from test_results import result, spec
from test_resume import run_toy, stored

from medgraft.benchmarks.cell import worker
from medgraft.benchmarks.cell.job import UNWRITABLE, Job
from medgraft.benchmarks.cell.progress import ProgressReader
from medgraft.benchmarks.cell.worker import execute
from medgraft.benchmarks.launch import leftovers, memory_kills
from medgraft.benchmarks.launch.leftovers import clear_leftovers
from medgraft.benchmarks.launch.memory_kills import MemoryKills
from medgraft.benchmarks.launch.supervisor import LOG_HEAD, LOG_TAIL, BoundedLog
from medgraft.benchmarks.results import store as result_store
from medgraft.benchmarks.results.reading import read_results
from medgraft.benchmarks.results.store import ResultStore, StorageError
from medgraft.benchmarks.results.writing import machine_mark, write_atomically

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.EFBIG)


@pytest.mark.parametrize("number", FULL)
def test_what_the_system_says_is_one_sentence_with_the_folder_and_a_remedy(tmp_path, monkeypatch, number):
    def refuse(path: Path, write: object) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(result_store, "write_atomically", refuse)
    with pytest.raises(StorageError) as caught:
        ResultStore(tmp_path).put(result())
    text = str(caught.value)
    assert text.startswith(f"results folder {tmp_path} cannot be written: {os.strerror(number)}")
    assert "the same command goes on from there" in text and "\n" not in text


def test_a_full_disk_ends_a_sweep_with_what_is_stored(toy, medgraft, tmp_path, monkeypatch):
    """The second result meets a full disk; the same command goes on when there is room."""
    written = []

    def fills_up(path: Path, write: object) -> None:
        if path.suffix == ".json" and written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        written.extend([path] if path.suffix == ".json" else [])
        write_atomically(path, write)

    with monkeypatch.context() as patch:
        patch.setattr(result_store, "write_atomically", fills_up)
        done = run_toy(toy, tmp_path, "--seeds", "0-3", "--jobs", "2")
    assert done.exit_code == 1 and len(stored(tmp_path)) == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith(f"error: results folder {tmp_path} cannot be written: No space left on device")
    assert "toy_gain" in done.stdout and "internal error" not in done.output
    assert list(tmp_path.rglob(".*")) == []
    again = run_toy(toy, tmp_path, "--seeds", "0-3")
    assert again.exit_code == 0 and "1 of 4 cells are done already" in again.output


def test_a_worker_that_cannot_write_its_outcome_says_so(tmp_path, monkeypatch):
    def full(job: Job, folder: Path, progress: object) -> None:
        raise StorageError(folder, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(worker, "execute", full)
    assert worker.run_job(Job(spec=spec(), root=tmp_path), tmp_path) == UNWRITABLE
    assert "No space left" in ProgressReader(tmp_path).read()[-1]["unwritable"]


def test_an_outcome_that_cannot_be_written_is_no_error_of_the_cell(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"):
        execute(Job(spec=spec(), root=tmp_path), tmp_path / "work" / "gone", lambda doing, share: None)


def test_a_leaderboard_that_cannot_be_written_ends_no_command_with_an_internal_error(tmp_path, medgraft):
    store(tmp_path / "r")
    (tmp_path / "out" / "leaderboard.md").mkdir(parents=True)
    done = medgraft("leaderboard", str(tmp_path / "r"), "--out", str(tmp_path / "out"))
    assert done.exit_code == 2 and "cannot be written" in done.stderr and len(done.stderr.splitlines()) == 1


# --- logs -------------------------------------------------------------------------------------------------------------


def test_a_log_lies_beside_its_result_and_goes_when_a_later_run_has_none(tmp_path):
    home = ResultStore(tmp_path)
    path = home.put(result(), log="loud\n")
    assert path.with_suffix(".log").read_text() == "loud\n"
    home.put(result())
    assert not path.with_suffix(".log").exists()


def test_a_log_keeps_its_beginning_and_its_end():
    log = BoundedLog()
    for number in range(100_000):
        log.write(f"line {number}\n".encode())
    text = log.text()
    assert text.startswith("line 0\n") and text.endswith("line 99999\n") and "bytes left out" in text
    assert len(text) < LOG_HEAD + LOG_TAIL + 100


def test_a_short_log_is_whole():
    log = BoundedLog()
    log.write(b"a\n")
    log.write("é\n".encode())
    assert log.text() == "a\né\n"


# --- what killed launchers leave --------------------------------------------------------------------------------------

DEAD = 4194305  # above the largest process number


def old(path: Path) -> Path:
    os.utime(path, (time.time() - 2 * leftovers.OLD,) * 2)
    return path


def test_a_file_that_is_being_written_carries_its_process(tmp_path):
    seen = []
    write_atomically(tmp_path / "0123.json", lambda handle: seen.extend(path.name for path in tmp_path.iterdir()))
    match = leftovers.TEMPORARY.fullmatch(seen[0])
    assert match is not None and (match["machine"], match["process"]) == (machine_mark(), str(os.getpid()))


def test_files_and_folders_of_dead_processes_are_cleared_and_no_others(tmp_path):
    deep = tmp_path / "encoder" / "adapter" / "task"
    deep.mkdir(parents=True)
    mine = machine_mark()
    gone = [deep / f".0123.json-{mine}-{DEAD}-abc", deep / f".0123.npz-{mine}-{DEAD}-abc"]
    aged = [deep / ".0123.json-abc", deep / f".0123.log-00000000-{os.getpid()}-abc"]
    kept = [deep / f".0123.json-{mine}-{os.getpid()}-abc", deep / f".0123.json-00000000-{DEAD}-abc"]
    kept += [deep / ".0123.json-abd", deep / "0123.json", deep / ".hidden", deep / ".notes.json"]
    for path in (*gone, *aged, *kept):
        path.touch()
    gone += [old(path) for path in aged]
    folders = {name: tmp_path / f".work-{DEAD + number}" for number, name in enumerate(("dead", "other", "old"))}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / leftovers.OWNER).write_text(mine if name == "dead" else "00000000")
    old(folders["old"])
    clear_leftovers(tmp_path)
    assert [path for path in gone if path.exists()] == [] and [path for path in kept if not path.exists()] == []
    assert [name for name, folder in folders.items() if folder.exists()] == ["other"]


def test_a_result_that_was_killed_while_it_was_written_is_none(tmp_path):
    path = ResultStore(tmp_path).put(result())
    path.rename(path.parent / f".{path.name}-{machine_mark()}-{DEAD}-abc")
    assert list(read_results([tmp_path])) == []


# --- kills for lack of memory -----------------------------------------------------------------------------------------

GROUPS = {
    "version 2": ("0::/slice/mine\n", "slice/mine/memory.events", "oom 5\noom_kill {}\n"),
    "version 2 in a container": ("0::/slice/outside\n", "memory.events", "oom_kill {}\n"),
    "version 1": ("5:cpu:/\n4:memory:/mine\n", "memory/mine/memory.oom_control", "under_oom 0\noom_kill {}\n"),
}


@pytest.mark.parametrize("kind", GROUPS)
def test_the_kernels_count_tells_a_kill_for_lack_of_memory_once(tmp_path, monkeypatch, kind):
    own, name, text = GROUPS[kind]
    (tmp_path / "own").write_text(own)
    path = tmp_path / "groups" / name
    path.parent.mkdir(parents=True)
    path.write_text(text.format(3))
    monkeypatch.setattr(memory_kills, "OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(memory_kills, "CGROUPS", tmp_path / "groups")
    monkeypatch.setattr(memory_kills, "MACHINE", tmp_path / "none")
    kills = MemoryKills()
    assert kills.source == path and not kills.took_one()
    path.write_text(text.format(5))
    assert [kills.took_one() for _ in range(3)] == [True, True, False]


def test_without_control_groups_the_machines_count_is_read(tmp_path, monkeypatch):
    (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 1\n")
    monkeypatch.setattr(memory_kills, "OWN_CGROUP", tmp_path / "none")
    monkeypatch.setattr(memory_kills, "CGROUPS", tmp_path / "none")
    monkeypatch.setattr(memory_kills, "MACHINE", tmp_path / "vmstat")
    kills = MemoryKills()
    (tmp_path / "vmstat").write_text("pgfault 9\noom_kill 2\n")
    assert kills.took_one() and not kills.took_one()


def test_a_system_that_counts_nothing_took_nothing(tmp_path, monkeypatch):
    for name in ("OWN_CGROUP", "CGROUPS", "MACHINE"):
        monkeypatch.setattr(memory_kills, name, tmp_path / "none")
    assert not MemoryKills().took_one()
