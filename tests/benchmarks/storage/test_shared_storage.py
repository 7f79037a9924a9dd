"""Storage that machines share: whole files, one creator, one clock; and what is wrong with it in one sentence."""

from __future__ import annotations

import errno
import os
import threading
import time
import uuid
from pathlib import Path

import pytest
from s3_server import S3

from medgraft.benchmarks.storage.base import SharedStorageError, Storage
from medgraft.benchmarks.storage.folder import HALF, FolderStorage
from medgraft.benchmarks.storage.objects import ObjectStorage
from medgraft.benchmarks.storage.opening import as_url, open_storage
from medgraft.errors import ConfigError, MedgraftError


@pytest.fixture(params=["folder", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path, s3: S3) -> Storage:
    place = tmp_path / "share" if request.param == "folder" else f"{s3.bucket(f'b{uuid.uuid4().hex}')}/some/folder"
    return open_storage(place)


def test_files_come_back_as_they_were_written(storage, tmp_path):
    storage.check()
    assert storage.read("a/b.txt") is None and storage.facts("a/b.txt") is None and storage.listed("a") == {}
    storage.write("a/b.txt", b"one")
    first = storage.facts("a/b.txt")
    storage.write("a/b.txt", b"other")
    second = storage.facts("a/b.txt")
    assert storage.read("a/b.txt") == b"other"
    assert first is not None and second is not None and first.tag != second.tag and second.size == 5
    assert abs(second.modified - time.time()) < 60  # here the storage's clock is this machine's
    (tmp_path / "large").write_bytes(bytes(range(256)) * 100)
    storage.write("a/large", tmp_path / "large")
    assert not storage.create("a/large", tmp_path / "large") and storage.create("a/new", tmp_path / "large")
    storage.remove(["a/new"])
    assert storage.download("a/large", tmp_path / "back") and not storage.download("a/none", tmp_path / "none")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "large").read_bytes()
    assert set(storage.listed("a")) == {"a/b.txt", "a/large"} == set(storage.listed(""))
    storage.remove(["a/b.txt", "a/large", "a/none"])
    assert storage.listed("") == {}


def test_of_many_who_create_one_file_exactly_one_is_told_so(storage):
    told: list[bool] = []
    contents = [str(i).encode() for i in range(8)]
    threads = [threading.Thread(target=lambda c=c: told.append(storage.create("x/y", c))) for c in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(told) == [False] * 7 + [True] and storage.read("x/y") in contents


def test_a_creator_whose_answer_was_lost_is_told_the_truth_at_its_second_try(storage):
    assert storage.create("x", b"mine") and storage.create("x", b"mine") and not storage.create("x", b"other's")


def test_a_reader_never_meets_half_a_file(tmp_path):
    storage, stop, sizes = FolderStorage(tmp_path), threading.Event(), set[int]()
    storage.write("x", b"a" * 100_000)

    def read() -> None:
        while not stop.is_set():
            sizes.add(len(storage.read("x") or b""))

    reader = threading.Thread(target=read)
    reader.start()
    for turn in range(30):
        storage.write("x", b"b" * (100_000 + turn))
    stop.set()
    reader.join()
    assert min(sizes) >= 100_000


def test_folders_that_are_empty_may_go_while_others_write_there(tmp_path):
    storage, failures = FolderStorage(tmp_path), list[BaseException]()

    def churn(number: int) -> None:
        try:
            for _ in range(40):
                storage.write(f"deep/er/{number}", b"x")
                storage.remove([f"deep/er/{number}"])
        except MedgraftError as error:
            failures.append(error)

    threads = [threading.Thread(target=churn, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_half_files_of_killed_processes_go_after_a_day(tmp_path):
    old, new = tmp_path / "a" / f"{HALF}1", tmp_path / "a" / f"{HALF}2"
    old.parent.mkdir()
    old.touch(), new.touch()
    os.utime(old, (time.time() - 90_000,) * 2)
    storage = FolderStorage(tmp_path)
    storage.check()
    assert not old.exists() and new.exists() and storage.listed("") == {}


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("ftp://host/x", "ftp:// is no storage that is known"),
        ("s3://", "names no bucket"),
        ("gs:///", "names no bucket"),
    ],
)
def test_a_place_that_is_no_storage_is_refused(place, words):
    with pytest.raises(ConfigError, match=words):
        open_storage(place)


def test_a_library_that_is_missing_is_named_with_its_extra():
    with pytest.raises(ConfigError, match=r"gs://b/x needs gcsfs.*pip install 'medgraft\[gcs\]'"):
        open_storage("gs://b/x")


def test_spellings_of_one_place_are_one(tmp_path):
    assert as_url(Path("s3://b/x/")) == as_url("S3://b/x") == as_url("s3a://b/x") == "s3://b/x"
    assert as_url(f"file://{tmp_path}") == as_url(tmp_path) == str(tmp_path)


def test_a_bucket_that_is_missing_is_one_sentence(s3):
    storage = open_storage("s3://no-such-bucket-here/x")
    for ask in (
        storage.check,
        lambda: storage.read("x"),
        lambda: storage.listed("x"),
        lambda: storage.create("x", b""),
    ):
        with pytest.raises(SharedStorageError, match=r"there is no bucket no-such-bucket-here; create it") as caught:
            ask()
        assert caught.value.kind == "missing" and "\n" not in str(caught.value)


def test_credentials_that_are_missing_are_one_sentence(s3, monkeypatch, tmp_path):
    s3.bucket("credentials")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(SharedStorageError, match=r"no credentials were found.*AWS_ACCESS_KEY_ID"):
        open_storage("s3://credentials/x").check()


def test_a_server_that_is_gone_is_one_sentence(monkeypatch, s3):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(SharedStorageError, match=r"s3://b/x cannot be reached \(.*; set AWS_PROFILE") as caught:
        open_storage("s3://b/x").read("y")
    assert caught.value.kind == "unreachable"


def test_storage_without_conditional_writes_is_refused(s3, monkeypatch):
    storage = open_storage(s3.bucket("unconditional"))
    real = ObjectStorage.create
    monkeypatch.setattr(ObjectStorage, "create", lambda self, name, data: self.write(name, data) or True)
    with pytest.raises(ConfigError, match="lets two writers create one file"):
        storage.check()
    monkeypatch.setattr(ObjectStorage, "create", real)
    storage.check()
    assert storage.listed("") == {}


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, "full"), (errno.EDQUOT, "full"), (errno.EROFS, "read-only"), (errno.ESTALE, "unreachable")],
)
def test_what_a_share_says_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, number, kind):
    def fail(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    storage = FolderStorage(tmp_path)
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(SharedStorageError, match=f"shared folder {tmp_path} ") as caught:
        storage.write("a/b", b"x")
    assert caught.value.kind == kind and not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_a_file_system_without_links_is_refused(tmp_path, monkeypatch):
    def refuse(old: Path, new: Path) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ConfigError, match="has no hard links"):
        FolderStorage(tmp_path).check()
