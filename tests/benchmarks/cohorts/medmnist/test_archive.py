"""Rows of arrays in npz files: the right ones in any order, within bounds of memory, and none of a damaged file."""

from __future__ import annotations

import io
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.benchmarks.cohorts.medmnist import archive
from medgraft.benchmarks.cohorts.medmnist.archive import DAMAGED, Rows, members_of
from medgraft.errors import DataError

SAVE = {"stored": np.savez, "deflated": np.savez_compressed}
IMAGES = (np.random.default_rng(0).integers(0, 256, (300, 20, 21, 3)) // 64 * 64).astype(np.uint8)


@pytest.fixture(scope="module", params=SAVE)
def file(request, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("npz") / "a.npz"
    SAVE[request.param](path, images=IMAGES, labels=np.arange(300)[:, None])
    return path


@pytest.fixture
def short_stretches(monkeypatch):
    """States of the decoder close to one another, as in a file of gigabytes."""
    monkeypatch.setattr(archive, "_LEAST_STRETCH", 10_000)


@settings(max_examples=30, deadline=None)
@given(order=st.lists(st.integers(0, 299), min_size=1, max_size=30))
def test_rows_are_right_in_any_order(file, order):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive, "_LEAST_STRETCH", 10_000)
        rows = Rows(members_of(file)["images"])
    for index in order:
        assert np.array_equal(rows[index], IMAGES[index])


def test_a_file_describes_itself(file, short_stretches):
    members = members_of(file)
    assert members["images"].shape == IMAGES.shape and members["images"].dtype == np.uint8
    assert np.array_equal(members["labels"].array(), np.arange(300)[:, None])
    rows = Rows(members["images"])
    row = rows[7]
    row[:] = 0
    assert len(rows) == 300 and np.array_equal(rows[7], IMAGES[7]), "a row is a copy of one's own"
    for index in (-1, 300):
        with pytest.raises(IndexError):
            rows[index]


def test_threads_share_an_array(file, short_stretches):
    rows, order = Rows(members_of(file)["images"]), np.random.default_rng(0).permutation(300).tolist()
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(rows.__getitem__, order))
    assert all(np.array_equal(image, IMAGES[index]) for index, image in zip(order, read, strict=True))


@pytest.mark.parametrize("save", SAVE)
def test_memory_is_that_of_a_row_and_not_of_the_array(tmp_path, save):
    images = np.zeros((60_000, 28, 28), np.uint8)  # 47 MB
    images[:, 3, 5] = np.arange(60_000) % 251
    SAVE[save](tmp_path / "a.npz", images=images)
    rows = Rows(members_of(tmp_path / "a.npz")["images"])
    tracemalloc.start()
    try:
        assert all(rows[index][3, 5] == index % 251 for index in (0, 59_999, 30_000, 12, 59_998))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20
    assert save == "stored" or len(rows._places) <= archive._MOST_STRETCHES + 1


@pytest.mark.parametrize("save", SAVE)
def test_one_flipped_bit_spoils_the_array_and_no_other(tmp_path, save):
    path = tmp_path / "a.npz"
    SAVE[save](path, images=IMAGES, more=IMAGES[:50])
    content, member = bytearray(path.read_bytes()), members_of(path)["images"]
    content[member.start + member.packed // 2] ^= 16
    path.write_bytes(content)
    rows = Rows(members_of(path)["images"])
    for index in (0, 299):  # before the flaw too, and every time
        with pytest.raises(DataError) as caught:
            rows[index]
        assert caught.value.reason == DAMAGED and str(path) in str(caught.value)
    assert np.array_equal(Rows(members_of(path)["more"])[49], IMAGES[49])


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_cut_file_is_refused(tmp_path, file, share):
    content = file.read_bytes()
    (tmp_path / "a.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match="cannot be read as an npz file") as caught:
        members_of(tmp_path / "a.npz")
    assert caught.value.reason == DAMAGED and "\n" not in str(caught.value)


class Harmful:
    """Says so when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("it was unpickled",)


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.array([Harmful()], object))
    with pytest.raises(DataError, match="pickled, and nothing is unpickled"):
        members_of(tmp_path / "a.npz")


def npy(array: np.ndarray, **changes: str) -> bytes:
    """An npy file, with words of its header replaced by others as long."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    content = buffer.getvalue()
    for old, new in changes.items():
        assert len(old) == len(new) and old.encode() in content
        content = content.replace(old.encode(), new.encode())
    return content


def write(path: Path, content: bytes, how: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", how) as file:
        file.writestr("images.npy", content)
    return path


@pytest.mark.parametrize(
    ("content", "how", "said"),
    [
        (npy(IMAGES, **{"(300,": "(999,"}), zipfile.ZIP_DEFLATED, "claims"),
        (npy(IMAGES, **{"(300,": "(-30,"}), zipfile.ZIP_DEFLATED, "claims|cannot be read"),
        (npy(IMAGES)[:-1], zipfile.ZIP_STORED, "claims"),
        (npy(np.asfortranarray(IMAGES)), zipfile.ZIP_DEFLATED, "by columns"),
        (npy(IMAGES), zipfile.ZIP_BZIP2, "packed otherwise"),
        (b"\x93NUMPY\x09\x00", zipfile.ZIP_DEFLATED, "npy format"),
        (b"no array at all", zipfile.ZIP_DEFLATED, "cannot be read"),
        (npy(IMAGES, **{"'descr'": "'descx'"}), zipfile.ZIP_DEFLATED, "cannot be read"),
    ],
)
def test_what_is_no_array_is_refused_in_a_sentence(tmp_path, content, how, said):
    with pytest.raises(DataError, match=said) as caught:
        members_of(write(tmp_path / "a.npz", content, how))
    assert caught.value.reason == DAMAGED and "\n" not in str(caught.value)


def test_a_small_array_is_held_to_the_limit(tmp_path, monkeypatch, file):
    monkeypatch.setenv("MEDGRAFT_MAX_UNPACKED_BYTES", "1K")
    with pytest.raises(DataError, match="MEDGRAFT_MAX_UNPACKED_BYTES"):
        members_of(file)["labels"].array()
