"""A results folder may hold anything: what is no result is named and left out, at once and in little memory."""

from __future__ import annotations

import io
import json
import logging
import os
import socket
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from test_leaderboard import store

from medgraft.benchmarks.board.rows import board_rows
from medgraft.benchmarks.kernels.results import read_operations
from medgraft.benchmarks.results.result_files import UnreadableError, files_below, read_arrays, read_json


def sparse(path: Path) -> None:
    with path.open("wb") as handle:
        handle.truncate(40 << 30)


def bound(path: Path) -> None:
    place = os.getcwd()
    os.chdir(path.parent)  # an address is at most 108 characters long
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path.name)
    os.chdir(place)


def header(shape: str, descr: str = "<f8") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npz(path: Path, content: bytes, method: int = zipfile.ZIP_DEFLATED, count: int = 1) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for number in range(count):
            archive.writestr(f"scores{number or ''}.npy", content)


def npy(path: Path, array: np.ndarray) -> None:
    out = io.BytesIO()
    np.save(out, array)
    path.write_bytes(out.getvalue())


ANYWHERE: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "socket": bound,
    "folder": Path.mkdir,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to itself": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "empty": Path.touch,
    "huge": sparse,
    "binary": lambda path: path.write_bytes(bytes(range(256)) * 8),
}
JSON: dict[str, Callable[[Path], object]] = {
    "deep": lambda path: path.write_text("[" * 200_000),
    "deep object": lambda path: path.write_text('{"a":' * 200_000),
    "not a number": lambda path: path.write_text('{"schema_version": NaN}'),
    "infinity": lambda path: path.write_text('{"schema_version": -Infinity}'),
    "beyond floats": lambda path: path.write_text('{"schema_version": 1e999}'),
    "long number": lambda path: path.write_text('{"schema_version": ' + "9" * 5000 + "}"),
    "latin": lambda path: path.write_bytes('{"é": 1}'.encode("latin-1")),
    "list": lambda path: path.write_text("[1]"),
}
ARRAYS: dict[str, Callable[[Path], object]] = {
    "npy": lambda path: npy(path, np.eye(3)),
    "20 GB in a header": lambda path: npz(path, header("(2684354560,)") + bytes(64)),
    "overflow": lambda path: npz(path, header(f"({2**62}, {2**62}, 4)")),
    "negative": lambda path: npz(path, header("(-1,)")),
    "cut off": lambda path: npz(path, header("(9,)") + bytes(8)),
    "objects": lambda path: npz(path, header("(1,)", "|O") + bytes(8)),
    "code in a header": lambda path: npz(path, header("(__import__('os').abort(),)")),
    "bomb": lambda path: npz(path, header(f"({1 << 28},)") + bytes(1 << 26), count=1),
    "another method": lambda path: npz(path, header("(1,)") + bytes(8), zipfile.ZIP_LZMA),
    "many": lambda path: npz(path, header("(1,)") + bytes(8), count=99),
    "no array": lambda path: npz(path, b"hello"),
}


@pytest.mark.parametrize("what", [*ANYWHERE, *JSON])
def test_what_is_no_json_is_refused_with_a_reason(tmp_path, what):
    path = tmp_path / "x.json"
    (ANYWHERE | JSON)[what](path)
    with pytest.raises(UnreadableError, match=r"^\S.{3,}"):
        read_json(path)


@pytest.mark.parametrize("what", [*ANYWHERE, *ARRAYS])
def test_what_is_no_archive_of_numbers_is_refused_with_a_reason(tmp_path, what):
    path = tmp_path / "x.npz"
    (ANYWHERE | ARRAYS)[what](path)
    with pytest.raises(UnreadableError, match=r"^\S.{3,}"):
        read_arrays(path)


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64, np.uint8, bool])
@pytest.mark.parametrize("order", "CF")
def test_arrays_come_back_as_they_were(tmp_path, dtype, order):
    wanted = np.asarray(np.arange(24).reshape(2, 3, 4) % 2, dtype, order=order)
    np.savez_compressed(tmp_path / "x.npz", a=wanted, b=wanted[:0], c=wanted[0, 0, 0])
    found = read_arrays(tmp_path / "x.npz")
    assert list(found) == ["a", "b", "c"] and all(each.dtype == dtype for each in found.values())
    assert np.array_equal(found["a"], wanted) and found["b"].shape == (0, 3, 4) and found["c"].shape == ()


def test_limits_can_be_raised(tmp_path, monkeypatch):
    (tmp_path / "x.json").write_text(json.dumps({"a": "x" * 5000}))
    monkeypatch.setenv("MEDGRAFT_MAX_DOCUMENT_BYTES", "1K")
    with pytest.raises(UnreadableError, match=r"5,009 bytes, more than MEDGRAFT_MAX_DOCUMENT_BYTES allows"):
        read_json(tmp_path / "x.json")
    monkeypatch.setenv("MEDGRAFT_MAX_DOCUMENT_BYTES", "10K")
    assert read_json(tmp_path / "x.json")["a"] == "x" * 5000


def test_links_lead_round_in_no_circle(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "x.json").touch()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert list(files_below(tmp_path, ".json")) == [tmp_path / "a" / "x.json"]


def test_a_board_stands_among_rubbish_and_names_it(tmp_path, caplog):
    store(tmp_path)
    for number, make in enumerate((ANYWHERE | JSON).values()):
        make(tmp_path / f"bad{number}.json")
        make(tmp_path / f"bad{number}.ops.json")
    with caplog.at_level(logging.WARNING):
        (row,) = board_rows([tmp_path])
        assert read_operations([tmp_path]) == []
    assert row.status == "success"
    for number in range(len(ANYWHERE | JSON)):
        assert f"bad{number}.json" in caplog.text and f"bad{number}.ops.json" in caplog.text


@pytest.mark.parametrize("what", [*ANYWHERE, *ARRAYS])
def test_unreadable_predictions_leave_the_row_unverified(tmp_path, what):
    store(tmp_path, 0)
    store(tmp_path, 1)
    path = sorted(tmp_path.rglob("*.npz"))[0]
    path.unlink()
    (ANYWHERE | ARRAYS)[what](path)
    (row,) = board_rows([tmp_path])
    assert row.metrics["f1_macro"][0] is not None and "1 unverified" in row.status


def test_the_command_says_what_it_left_out_and_ends_well(tmp_path, medgraft, caplog):
    store(tmp_path / "r")
    os.mkfifo(tmp_path / "r" / "pipe.json")
    done = medgraft("leaderboard", str(tmp_path / "r"), "--out", str(tmp_path))
    assert done.exit_code == 0 and "pipe.json is left out: it is a pipe" in done.stderr
