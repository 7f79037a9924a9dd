"""Sweeps whose results and cache are in object storage: run, resumed, side by side, watched, and made a board of."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from s3_server import S3
from sweeping import Toy, command
from test_leaderboard import store
from test_resume import wait_for
from typer.testing import Result

from medgraft.benchmarks.mirror import live
from medgraft.benchmarks.mirror.live import SharedResults
from medgraft.benchmarks.mirror.place import copy_of
from medgraft.benchmarks.mirror.sync import Sync
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.results.verification import verified_results
from medgraft.benchmarks.storage.base import SharedStorageError
from medgraft.benchmarks.storage.claims import Claims
from medgraft.benchmarks.storage.folder import FolderStorage
from medgraft.benchmarks.storage.opening import open_storage

Runner = Callable[..., Result]


@pytest.fixture
def url(s3: S3) -> str:
    return f"{s3.bucket(f'b{uuid.uuid4().hex}')}/sweep"


@pytest.fixture
def run(toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """``medgraft run`` of the toy, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def runner(url: str, *more: str) -> Result:
        return command("run", *toy.options("--adapters", "toy_gain", "--results", url, *more))

    return runner


def archives(url: str) -> set[str]:
    return set(open_storage(url).listed("cells"))


def test_a_sweep_into_a_bucket_is_run_resumed_watched_and_made_a_board_of(toy, run, url, tmp_path, monkeypatch):
    more = ("--adapters", "toy_gain", "--seeds", "0", "--results", url, "--shared-cache", f"{url}/cache")
    toy.environment["MEDGRAFT_CACHE"] = str(tmp_path / "one")
    first = toy.run(*toy.options(*more), cwd=tmp_path)  # workers of this process may have other caches already
    assert first.returncode == 0 and f"written: {url}" in first.stdout, first
    assert len(archives(url)) == 1 and open_storage(f"{url}/cache").listed("prefix")
    with monkeypatch.context() as patch:  # another machine: it has nothing of this one
        patch.setenv("MEDGRAFT_CACHE", str(tmp_path / "other"))
        planned = run(url, "--seeds", "0,1", "--dry-run")
        assert planned.exit_code == 0 and "1 have no result yet; 1 at a time they take about" in planned.output
        assert len(archives(url)) == 1
        again = run(url, "--seeds", "0,1")
        assert again.exit_code == 0 and "1 of 2 cells are done already" in again.stdout, again.output
        assert len(archives(url)) == 2
        watched = command("watch", url, "--once")
        assert watched.exit_code == 0 and watched.stdout.count("finished") >= 2, watched.output
    board = command("leaderboard", url, "--out", str(tmp_path / "board"))
    assert board.exit_code == 0, board.output
    text = (tmp_path / "board" / "leaderboard.md").read_text()
    assert "`medgraft leaderboard s3:sweep`" in text and url not in text  # a bucket may name a project, as a path may
    left = [name for name in open_storage(url).listed("") if name.startswith(("claims/", "holders/"))]
    assert left == []
    synced = command("results", "sync", str(tmp_path / "mine"), url)
    assert synced.exit_code == 0 and "0 sent" in synced.stdout and "2 fetched" in synced.stdout
    assert [each.unverified for each in verified_results([tmp_path / "mine"])] == ["", ""]


def test_two_sweeps_with_one_url_share_the_cells_and_do_none_twice(toy, url, tmp_path):
    def start(name: str) -> subprocess.Popen[str]:
        toy.environment["MEDGRAFT_CACHE"] = str(tmp_path / name)
        (tmp_path / name).mkdir()
        more = ("--adapters", "toy_gain", "--results", url, "--seeds", "0-5")
        return toy.start(*toy.options(*more), cwd=tmp_path / name)

    sweeps = [start("a"), start("b")]
    said = [sweep.communicate(timeout=240) for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], said
    Sync(tmp_path / "all", open_storage(url)).run()
    found = verified_results([tmp_path / "all"])
    assert sorted(each.cell.spec.seed for each in found) == list(range(6))
    for name in ("a", "b"):  # each has all rows at its end, those of the other too
        (copy,) = (tmp_path / name / "shared-results").iterdir()
        assert len(verified_results([copy])) == 6
    runs = {each.cell.key: each.cell.timing for each in found}
    for name in ("a", "b"):
        (copy,) = (tmp_path / name / "shared-results").iterdir()
        assert {each.cell.key: each.cell.timing for each in verified_results([copy])} == runs


def test_a_killed_sweep_loses_nothing_and_another_takes_over_its_cells(toy, url, tmp_path, run, monkeypatch):
    toy.environment["MEDGRAFT_CACHE"] = str(tmp_path / "a")
    (tmp_path / "a").mkdir()
    more = ("--adapters", "toy_gain", "--seeds", "0-3", "--jobs", "1", "--results", url)
    sweep = toy.start(*toy.options(*more), cwd=tmp_path / "a")
    wait_for(lambda: len(archives(url)) >= 1, "the first result")
    sweep.kill()
    sweep.communicate()
    monkeypatch.setattr(live, "Claims", lambda storage: Claims(storage, beat=0.5, patience=3.0))
    done = run(url, "--seeds", "0-3")
    assert done.exit_code == 0 and len(archives(url)) == 4, done.output


@pytest.mark.parametrize("option", ["--results", "--shared-cache"])
def test_storage_that_cannot_be_had_ends_the_command_before_anything_runs(toy, option, tmp_path, monkeypatch, s3):
    monkeypatch.chdir(tmp_path)
    options = toy.options("--adapters", "toy_gain", "--seeds", "0", option)
    where = [] if option == "--results" else ["--results", str(tmp_path / "r")]
    for url, words in (
        ("s3://not-there-at-all/x", "there is no bucket not-there-at-all; create it"),
        ("ftp://host/x", "ftp:// is no storage that is known; write s3://, gs:// or a folder"),
        ("s3://", "names no bucket"),
    ):
        done = command("run", *options, url, *where)
        assert done.exit_code == 2 and words in done.stderr, done.output
        assert len(done.stderr.splitlines()) == 1 and not list(tmp_path.rglob("*.json"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    done = command("run", *options, "s3://bucket/x", *where)
    assert done.exit_code == 2 and "no credentials were found" in done.stderr and "AWS_PROFILE" in done.stderr


def test_commands_that_read_say_what_is_wrong_with_a_url(tmp_path, s3):
    for arguments in (("leaderboard", "s3://nowhere-here/x"), ("watch", "s3://nowhere-here/x", "--once")):
        done = command(*arguments)
        assert done.exit_code == 2 and "there is no bucket nowhere-here" in done.stderr
    done = command("results", "sync", "s3://a/b", str(tmp_path))
    assert done.exit_code == 2 and "is no folder of this machine; write" in done.stderr


def test_a_different_result_of_one_cell_is_refused_with_a_sentence(tmp_path):
    store(tmp_path / "a", skill=0.5), store(tmp_path / "b", skill=0.1)
    assert command("results", "sync", str(tmp_path / "a"), str(tmp_path / "share")).exit_code == 0
    done = command("results", "sync", str(tmp_path / "b"), str(tmp_path / "share"))
    assert done.exit_code == 1 and "neither is overwritten" in done.stdout and "--prefer local" in done.stdout
    assert command("results", "sync", str(tmp_path / "b"), str(tmp_path / "share"), "--prefer", "local").exit_code == 0


# --- storage that fails in the middle ---------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    def fail(self: FolderStorage, *rest: object) -> None:
        raise SharedStorageError("shared folder /share does not do it; mend it", kind)  # pyright: ignore

    for method in ("write", "create", "listed", "facts", "read"):
        monkeypatch.setattr(FolderStorage, method, fail)


@pytest.mark.parametrize("kind", ["full", "read-only", "unreachable"])
def test_results_stay_here_while_the_storage_fails_and_the_end_says_how_to_send_them(
    tmp_path, monkeypatch, kind, caplog
):
    share = tmp_path / "share"
    with SharedResults(str(share), tmp_path / "copy") as shared:
        result: CellResult = store(tmp_path / "copy")
        with monkeypatch.context() as patch:
            failing(patch, kind)
            assert shared.next_of([result.spec]) == (result.spec, None)
            shared.stored(result)
            said = shared.settle()
        assert f"`medgraft results sync {tmp_path / 'copy'} {share}` sends it" in said
        assert caplog.text.count("does not do it") == 1 and "the sweep goes on" in caplog.text
        assert shared.settle() == ""
    assert len(archives(str(share))) == 1 and ResultStore(tmp_path / "copy").get(result.spec) == result


def test_predictions_travel_with_their_result(tmp_path):
    store(tmp_path / "a")
    Sync(tmp_path / "a", FolderStorage(tmp_path / "share")).run()
    Sync(tmp_path / "b", FolderStorage(tmp_path / "share")).run()
    (one,), (other,) = (list((tmp_path / name).rglob("*.npz")) for name in "ab")
    with np.load(one) as first, np.load(other) as second:
        assert all((first[name] == second[name]).all() for name in first.files)
    assert copy_of("s3://a/b") != copy_of("s3://a/c")
