"""Digests of files: what changes them, when a file is read again, and a store that cannot be used."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from medgraft.files import content
from medgraft.files.content import content_of, file_facts, verifying


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(content, "SETTLED_NS", 0)
    return tmp_path / "cache"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def spy(path, *args, **kwargs):
        names.append(str(path))
        return open(path, *args, **kwargs)

    monkeypatch.setattr(content, "open", spy, raising=False)
    return names


def film(folder: Path, pixels: bytes = b"0123456789", name: str = "a.png") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(pixels)
    os.utime(folder / name, ns=(5, 5))
    return str(folder / name)


def facts(folder: Path) -> str:
    return file_facts([str(folder / "a.png")], folder)


def test_a_copy_has_the_same_digest_and_other_pixels_under_an_old_date_another(cache, tmp_path):
    film(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert facts(tmp_path / "one") == facts(tmp_path / "two")
    film(tmp_path / "three", b"0123456780")
    assert facts(tmp_path / "three") != facts(tmp_path / "one")


def test_pixels_replaced_in_place_with_size_and_date_kept_are_noticed(cache, tmp_path):
    path = film(tmp_path / "one")
    before = facts(tmp_path / "one")
    stamp = os.stat(path)
    Path(path).write_bytes(b"0123456780")
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert os.stat(path).st_mtime_ns == stamp.st_mtime_ns and facts(tmp_path / "one") != before


def test_a_file_that_is_what_it_was_is_read_once(cache, tmp_path, opened):
    path = film(tmp_path)
    assert content_of([path]) == content_of([path]) and opened == [path]
    os.utime(path, ns=(7, 7))
    assert content_of([path]) == content_of([path]) and opened == [path] * 2
    with verifying():
        assert content_of([path]) == content_of([path]) and opened == [path] * 3


def test_a_file_of_this_moment_is_not_believed_yet(cache, tmp_path, opened, monkeypatch):
    monkeypatch.setattr(content, "SETTLED_NS", 10**12)
    path = film(tmp_path)
    content_of([path])
    content_of([path])
    assert opened == [path] * 2


def test_what_a_store_says_is_checked_by_verifying_alone(cache, tmp_path):
    """The store is told a lie, as a file system without a time of change would tell it."""
    path = film(tmp_path)
    truth = content_of([path])[path]
    content._with_store(lambda store: store.execute("UPDATE files SET digest = '10:old'"))
    assert content_of([path])[path] == "10:old"
    with verifying(False):
        assert content_of([path])[path] == "10:old"
    with verifying():
        assert content_of([path])[path] == truth
    assert content_of([path])[path] == truth


def test_of_a_large_file_any_byte_counts_from_the_second_verification_on(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "WHOLE", 64)
    monkeypatch.setattr(content, "BLOCKS", 4)
    monkeypatch.setattr(content, "BLOCK", 8)
    pixels = bytearray(range(200))
    path = film(tmp_path, bytes(pixels))
    found = [content_of([path])[path]]
    pixels[20] = 0  # between the first and the second block
    with verifying():
        found.append(content_of([path])[path])
    film(tmp_path, bytes(pixels))
    found.append(content_of([path])[path])
    assert len(set(found)) == 1
    with verifying():
        found.append(content_of([path])[path])
    pixels[21] = 0
    film(tmp_path, bytes(pixels))
    with verifying():
        found.append(content_of([path])[path])
    pixels[199] = 0
    film(tmp_path, bytes(pixels))
    found.append(content_of([path])[path])
    found.append(content_of([path])[path])
    assert found[2] != found[3] == content.content_of([]).get("", found[3]) and len(set(found)) >= 3
    assert found[-1] == found[-2] and found[-1].split(":")[0] == "200"


def test_missing_and_unreadable_files_are_named_as_such(cache, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    found = content_of([str(tmp_path / "no"), str(tmp_path / "pipe"), str(tmp_path)])
    assert list(found.values()) == [content.MISSING, content.UNREADABLE, content.UNREADABLE]


@pytest.mark.parametrize("damage", [b"no database at all, and long enough to be looked at" * 100, b""])
def test_a_damaged_store_is_made_anew(cache, tmp_path, damage, opened):
    cache.mkdir()
    (cache / content.STORE).write_bytes(damage)
    path = film(tmp_path)
    assert content_of([path]) == content_of([path]) and opened == [path]


def test_a_store_that_cannot_be_written_costs_time_only(cache, tmp_path, opened):
    (cache / content.STORE).mkdir(parents=True)
    path = film(tmp_path)
    assert content_of([path]) == content_of([path]) and opened == [path] * 2


def test_order_and_repetition_of_samples_count(cache, tmp_path):
    a, b = film(tmp_path, name="a.png"), film(tmp_path, b"other", "b.png")
    assert len({file_facts(each, tmp_path) for each in ([a, b], [b, a], [a, a, b])}) == 3


def test_reading_much_is_announced(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(content, "ANNOUNCED", 5)
    said: list[str] = []
    with content.announcing(said.append):
        content_of([film(tmp_path)])
        content_of([str(tmp_path / "a.png")])
    assert len(said) == 1 and "in 1 files, once" in said[0]
