"""Claims: one holder at a time, gone with their process, judged by the storage's clock alone."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
import uuid
from pathlib import Path

import pytest
from s3_server import S3

from medgraft.benchmarks.storage.base import Storage
from medgraft.benchmarks.storage.claims import HOLDERS, Claims, clear_holders
from medgraft.benchmarks.storage.folder import FolderStorage
from medgraft.benchmarks.storage.opening import open_storage


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, s3: S3) -> Storage:
    return open_storage(tmp_path / "share" if request.param == "folder" else s3.bucket(f"b{uuid.uuid4().hex}"))


def test_a_claim_is_had_by_one_and_can_be_given_up(storage):
    with Claims(storage) as one, Claims(storage) as other:
        assert one.take("x") and one.take("x") and not other.take("x") and other.take("y")
        one.give_up("x")
        assert other.take("x") and not one.take("x")
    assert storage.listed("") == {}


def test_what_a_holder_leaves_that_has_ended_is_free_at_once(storage):
    with Claims(storage) as one:
        assert one.take("x")
        one.held.clear()  # as if it could not be removed
    with Claims(storage) as other:
        assert other.take("x")


def _take_and_die(root: Path) -> None:
    Claims(FolderStorage(root)).take("x")
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_claim_of_a_killed_process_is_taken_over_after_its_silence(tmp_path):
    process = multiprocessing.get_context("fork").Process(target=_take_and_die, args=(tmp_path,))
    process.start()
    process.join()
    storage = FolderStorage(tmp_path)
    with Claims(storage, beat=0.1, patience=30.0) as patient:
        assert not patient.take("x")
    with Claims(storage, beat=0.1, patience=0.5) as claims, Claims(storage, beat=0.1, patience=0.5) as late:
        assert not claims.wait("x", lambda: False, look=0.05, most=0.05)
        assert "x" in claims.held and not late.take("x")
    assert clear_holders(storage, 0.0) == 1 and storage.listed("") == {}


def test_a_living_holder_keeps_its_claim_beyond_the_patience(tmp_path):
    storage = FolderStorage(tmp_path)
    with Claims(storage, beat=0.05, patience=0.5) as one, Claims(storage, beat=0.05, patience=0.5) as other:
        assert one.take("x")
        time.sleep(0.8)
        assert not other.take("x")


@pytest.mark.parametrize("wrong", [-7200.0, 7200.0])
def test_clocks_that_differ_do_not_matter(tmp_path, monkeypatch, wrong):
    """A machine whose clock is two hours off neither robs the living nor waits for the dead."""
    storage = FolderStorage(tmp_path)
    with Claims(storage, beat=0.05, patience=5.0) as one:
        assert one.take("x")
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + wrong)
        with Claims(storage, patience=5.0) as other:
            assert not other.take("x")
            one._stop.set()
            dead = tmp_path / HOLDERS / one.id
            os.utime(dead, (real() - 6.0,) * 2)  # by the storage's clock
            assert other.take("x")


def test_a_wait_ends_when_the_work_is_done(tmp_path):
    storage = FolderStorage(tmp_path)
    with Claims(storage) as one, Claims(storage) as other:
        assert one.take("x")
        looks = iter([False, False, True])
        assert other.wait("x", lambda: next(looks), look=0.01) and not other.held


def test_damaged_claims_are_free(tmp_path):
    storage = FolderStorage(tmp_path)
    storage.write("claims/x/00000001", b"\xff no json")
    storage.write("claims/x/not a number", b"{}")
    with Claims(storage) as claims:
        assert claims.take("x")
