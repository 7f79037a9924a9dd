"""A cache that machines share, behind the cache of each: built once, whole, and never in the way."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from s3_server import S3

from medgraft.benchmarks.prefix_cache import shared
from medgraft.benchmarks.prefix_cache import store as local
from medgraft.benchmarks.prefix_cache.shared import SharedEntries, check_shared_cache
from medgraft.benchmarks.prefix_cache.store import Entry, digest, entry
from medgraft.benchmarks.storage.base import SharedStorageError, Storage
from medgraft.benchmarks.storage.claims import clear_holders
from medgraft.benchmarks.storage.folder import FolderStorage
from medgraft.benchmarks.storage.opening import open_storage
from medgraft.errors import ConfigError, MedgraftError


class Machine:
    """A machine with a cache of its own, and a shared one."""

    def __init__(self, patch: pytest.MonkeyPatch, own: Path, place: str) -> None:
        self.patch, self.own, self.place = patch, own, place
        self.builds: list[int] = []

    def entry(self, number: int) -> Entry:
        """An entry, as a cell on this machine asks for it."""
        self.patch.setenv("MEDGRAFT_CACHE", str(self.own))
        self.patch.setenv(shared.VARIABLE, self.place)
        shared._opened.cache_clear()

        def build(folder: Path) -> None:
            self.builds.append(number)
            np.save(folder / "x.npy", np.full(1000, number))

        return entry({"n": number}, build, needs=("x.npy",))

    def value(self, number: int) -> int:
        return int(np.load(self.entry(number).folder / "x.npy", mmap_mode="r")[-1])


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: S3) -> str:
    return str(tmp_path / "share") if request.param == "folder" else f"{s3.bucket(f'b{uuid.uuid4().hex}')}/cache"


@pytest.fixture
def machines(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Machine, Machine]:
    return Machine(monkeypatch, tmp_path / "a", place), Machine(monkeypatch, tmp_path / "b", place)


def files(storage: Storage, ending: str = "") -> list[str]:
    return sorted(name for name in storage.listed("") if name.endswith(ending))


def test_what_one_machine_built_another_fetches_and_maps(machines, place):
    first, second = machines
    assert not first.entry(3).hit and first.builds == [3]
    found = second.entry(3)
    assert found.hit and second.builds == [] and found.folder.is_relative_to(second.own) and second.value(3) == 3
    storage = open_storage(place)
    assert len(files(storage)) == 2  # the manifest and x.npy: no claim, no holder, no half file
    second.entry(3)
    assert first.entry(3).hit and len(files(storage)) == 2


@pytest.mark.parametrize("damage", ["flipped", "short", "gone", "manifest"])
def test_what_is_damaged_is_noticed_and_made_again(tmp_path, monkeypatch, damage, caplog):
    place = str(tmp_path / "share")
    first, second = (Machine(monkeypatch, tmp_path / name, place) for name in "ab")
    first.entry(3)
    storage = open_storage(place)
    data, manifest = files(storage, "x.npy")[0], files(storage, ".json")[0]
    content = storage.read(data) or b""
    if damage == "manifest":
        storage.write(manifest, (storage.read(manifest) or b"").replace(b"sha256", b"../../x"))
    elif damage == "gone":
        storage.remove([data])
    else:
        storage.write(data, content[:-1] if damage == "short" else content[:-1] + bytes([content[-1] ^ 1]))
    assert second.value(3) == 3 and second.builds == [3] and "is made again" in caplog.text
    third = Machine(second.patch, second.own.with_name("c"), place)
    assert third.value(3) == 3 and third.builds == []


def test_a_second_builder_of_one_entry_leaves_nothing(tmp_path):
    storage = FolderStorage(tmp_path / "share")
    entries, key = SharedEntries(storage), "0" * 64
    (tmp_path / "x").mkdir()
    np.save(tmp_path / "x" / "x.npy", np.zeros(10))
    assert entries.publish(key, {}, tmp_path / "x")
    before = files(storage)
    np.save(tmp_path / "x" / "x.npy", np.ones(10))
    assert not entries.publish(key, {}, tmp_path / "x") and files(storage) == before


@pytest.mark.parametrize("name", ["../x.npy", "/etc/passwd", ".hidden", "a/b"])
def test_no_manifest_writes_outside_of_its_folder(tmp_path, name, caplog):
    storage, key = FolderStorage(tmp_path / "share"), "0" * 64
    file = {"size": 1, "sha256": "0" * 64, "object": f"{'0' * 32}-x"}
    storage.write(f"prefix/00/{key}.json", json.dumps({"facts": {}, "files": {name: file}}).encode())
    (tmp_path / "own").mkdir()
    assert not SharedEntries(storage).fetch(key, tmp_path / "own") and "its manifest is damaged" in caplog.text
    assert list((tmp_path / "own").iterdir()) == []


# --- storage that fails -----------------------------------------------------------------------------------------------


def failing(monkeypatch: pytest.MonkeyPatch, kind: str, *methods: str) -> None:
    """Makes a shared folder fail as a full one, a read-only one or one that has gone."""

    def fail(self: Storage, *rest: object) -> None:
        raise SharedStorageError("shared folder /share does not do it; mend it", kind)  # pyright: ignore

    for method in methods:
        monkeypatch.setattr(FolderStorage, method, fail)


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_share_that_takes_nothing_costs_one_warning_and_is_read_on(tmp_path, monkeypatch, kind, caplog):
    first = Machine(monkeypatch, tmp_path / "a", str(tmp_path / "share"))
    first.entry(1)
    failing(monkeypatch, kind, "write", "create")
    second = Machine(monkeypatch, tmp_path / "b", first.place)
    second.patch.setenv("MEDGRAFT_CACHE", str(second.own))
    opened = SharedEntries(FolderStorage(tmp_path / "share"))
    monkeypatch.setattr(shared, "_opened", lambda place, process: opened)
    monkeypatch.setattr(local, "shared_entries", lambda: opened)
    for number in (1, 2, 3):
        assert entry({"n": number}, lambda folder, n=number: np.save(folder / "x.npy", n)).hit == (number == 1)
    assert caplog.text.count("does not do it") == 1 and "none are added" in caplog.text
    assert len(files(FolderStorage(tmp_path / "share"), ".json")) == 1


def test_a_share_that_fills_up_in_the_middle_keeps_no_half_entry(tmp_path, monkeypatch, caplog):
    share = FolderStorage(tmp_path / "share")
    real = os.fsync
    written: list[int] = []

    def fills_up(descriptor: int) -> None:
        written.append(os.fstat(descriptor).st_size)
        if written[-1] > 5000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fills_up)
    machine = Machine(monkeypatch, tmp_path / "a", str(tmp_path / "share"))
    assert machine.value(1) == 1 and "is full (No space left on device)" in caplog.text
    assert files(share) == [] and not [path for path in (tmp_path / "share").rglob("*") if path.is_file()]
    assert machine.entry(1).hit


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB, really full after that."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"this user may mount nothing: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("which", ["own", "shared"])
def test_a_disk_that_is_really_full_costs_the_cache_and_nothing_else(small_disk, tmp_path, monkeypatch, which, caplog):
    own, share = (small_disk, tmp_path / "other") if which == "own" else (tmp_path / "other", small_disk)
    monkeypatch.setattr(local, "_uncached", {})
    machine = Machine(monkeypatch, own, str(share))
    value = np.full(100_000, 7)
    monkeypatch.setenv("MEDGRAFT_CACHE", str(own))
    monkeypatch.setenv(shared.VARIABLE, str(share))
    found = entry({"n": 7}, lambda folder: np.save(folder / "x.npy", value), needs=("x.npy",))
    assert (np.load(found.folder / "x.npy") == value).all() and caplog.text.count(" is full (") == 1
    assert not list(small_disk.rglob("*.npy"))
    assert machine.value(1) == 1 and len(list(small_disk.rglob("*.npy"))) == 1  # what fits is cached


def test_a_share_that_goes_costs_one_warning_and_the_cell_goes_on(tmp_path, monkeypatch, caplog):
    opened = SharedEntries(FolderStorage(tmp_path / "share"))
    monkeypatch.setattr(local, "shared_entries", lambda: opened)
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "a"))
    failing(monkeypatch, "unreachable", "read", "write", "create", "facts", "listed")
    for number in (1, 2):
        assert not entry({"n": number}, lambda folder: np.save(folder / "x.npy", 1)).hit
    assert caplog.text.count("goes on without the shared cache") == 1


def test_a_shared_cache_is_tried_before_anything_runs(tmp_path, monkeypatch, caplog, s3):
    check_shared_cache(str(tmp_path / "share"))
    with pytest.raises(MedgraftError, match="shared cache: s3://none-there/x: there is no bucket none-there"):
        check_shared_cache("s3://none-there/x")
    with pytest.raises(ConfigError, match="ftp:// is no storage"):
        check_shared_cache("ftp://x/y")
    failing(monkeypatch, "read-only", "create")
    check_shared_cache(str(tmp_path / "share"))
    assert "none are added" in caplog.text


def test_a_url_in_the_place_of_the_own_cache_is_refused(monkeypatch):
    monkeypatch.setenv("MEDGRAFT_CACHE", "s3://bucket/x")
    with pytest.raises(ConfigError, match="MEDGRAFT_CACHE is s3://bucket/x, and must be a folder of this machine"):
        entry({"n": 0}, lambda folder: None)


# --- eight machines, two mount points, and kill -9 --------------------------------------------------------------------

KEYS = 24


def _node(number: int, root: Path, mount: Path, builds: Path) -> None:
    """A machine that asks for all entries, in an order of its own, with a short patience."""
    os.environ["MEDGRAFT_CACHE"] = str(root / f"own-{number}")
    opened = SharedEntries(FolderStorage(mount), patience=1.0)
    local.shared_entries = lambda: opened  # pyright: ignore
    order = list(range(KEYS))
    random.Random(number).shuffle(order)
    for n in order:

        def build(folder: Path, n: int = n) -> None:
            (builds / f"{n}-{uuid.uuid4().hex}").touch()
            time.sleep(0.01)
            np.save(folder / "x.npy", np.full(20_000, n))

        found = entry({"n": n}, build, needs=("x.npy",))
        if not (np.load(found.folder / "x.npy") == n).all():
            os._exit(3)


def test_eight_machines_on_two_mount_points_killed_at_random_lose_and_double_nothing(tmp_path):
    """Each is killed up to three times, at any moment, and started again with what its own disk then holds."""
    (tmp_path / "share").mkdir()
    (tmp_path / "mount").symlink_to(tmp_path / "share")
    (tmp_path / "builds").mkdir()
    fork, chance = multiprocessing.get_context("fork"), random.Random(0)
    kills = dict.fromkeys(range(8), 0)

    def start(number: int) -> BaseProcess:
        mount = tmp_path / ("share" if number % 2 else "mount")
        process = fork.Process(target=_node, args=(number, tmp_path, mount, tmp_path / "builds"))
        process.start()
        return process

    nodes = {number: start(number) for number in range(8)}
    end = time.monotonic() + 100
    while any(node.exitcode != 0 for node in nodes.values()):
        assert time.monotonic() < end, {n: node.exitcode for n, node in nodes.items()}
        time.sleep(0.02)
        if alive := [each for each, node in nodes.items() if kills[each] < 3 and node.is_alive()]:
            number = chance.choice(alive)
            os.kill(nodes[number].pid or 0, signal.SIGKILL)
            nodes[number].join()
            kills[number] += 1
        for each, node in nodes.items():
            assert node.exitcode in (None, 0, -signal.SIGKILL)
            if node.exitcode == -signal.SIGKILL:
                nodes[each] = start(each)
    assert sum(kills.values()) > 2
    entries = SharedEntries(FolderStorage(tmp_path / "share"))
    found = entries.listed()
    assert {each.key for each in found} == {
        digest({"n": n, "cache_version": local.CACHE_VERSION}) for n in range(KEYS)
    } and len(found) == KEYS
    (tmp_path / "check").mkdir()
    assert [entries.problem(each, tmp_path / "check") for each in found] == [""] * KEYS
    # Work is done twice only where its builder was killed, or looked dead.
    assert len(list((tmp_path / "builds").iterdir())) <= KEYS + 2 * sum(kills.values())
    entries.storage.remove(entries.leftovers(age=-1.0))
    clear_holders(entries.storage, age=-1.0)
    assert len([name for name in entries.storage.listed("") if not name.startswith("holders/")]) == 2 * KEYS


# --- a cache of one's own that is full or read-only -------------------------------------------------------------------


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int], Path]:
    """Makes the own cache refuse new files with an error of the system."""
    root = tmp_path / "own"
    monkeypatch.setenv("MEDGRAFT_CACHE", str(root))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(local.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(local, "_uncached", {})

    def refuse(number: int) -> Path:
        real = Path.mkdir

        def mkdir(path: Path, *rest: object, **more: object) -> None:
            if path.is_relative_to(root):
                raise OSError(number, os.strerror(number), str(path))
            real(path, *rest, **more)  # pyright: ignore

        monkeypatch.setattr(Path, "mkdir", mkdir)
        return root

    return refuse


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_without_a_cache_a_cell_goes_on_with_one_warning(refusing, number, caplog, tmp_path):
    root = refusing(number)
    builds: list[int] = []

    def build(folder: Path, n: int) -> None:
        builds.append(n)
        np.save(folder / "x.npy", np.full(10, n))

    for n in (1, 2, 1):
        found = entry({"n": n}, lambda folder, n=n: build(folder, n), needs=("x.npy",))
        assert not found.folder.is_relative_to(root) and np.load(found.folder / "x.npy")[0] == n
    assert builds == [1, 2]
    assert caplog.text.count("computed again in each cell") == 1 and str(root) in caplog.text
    assert not list(root.rglob("x.npy"))


def _build_without_cache(die: bool) -> None:
    local._uncached.clear()
    entry({"n": 9}, lambda folder: np.save(folder / "x.npy", 1))
    if die:
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_is_in_no_cache_goes_with_its_process_however_it_ends(refusing, tmp_path):
    refusing(errno.ENOSPC)
    fork = multiprocessing.get_context("fork")
    for die in (False, True, False):
        process = fork.Process(target=_build_without_cache, args=(die,))
        process.start()
        process.join()
        assert len(list(tmp_path.glob(f"{local.UNCACHED}*"))) == (1 if die else 0)
