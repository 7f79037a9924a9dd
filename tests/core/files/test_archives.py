"""Files of weights that lie, repeat themselves or are damaged end in a sentence, soon and in little memory."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from medgraft.checkpoints.weights import read_weights
from medgraft.encoders.parts.loading import origin
from medgraft.errors import CheckpointError
from medgraft.files.archives import check_pickle, check_weights, check_weights_folder

STATE = {"a": torch.arange(5000.0), "b": torch.ones(3, 2, dtype=torch.bfloat16)}


def saved(path: Path, state: object = STATE, **how: bool) -> Path:
    torch.save(state, path, **how)
    return path


def test_files_of_today_and_of_before_are_read_as_they_are(tmp_path):
    old = saved(tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    torch.serialization.set_crc32_options(False)
    try:
        unchecked = saved(tmp_path / "unchecked.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    with pytest.raises(zipfile.BadZipFile), zipfile.ZipFile(unchecked) as archive:
        archive.read(archive.namelist()[0])
    for path in (saved(tmp_path / "new.pt"), old, unchecked):
        found = read_weights(path)
        assert found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.mark.parametrize("member", ["data/0", "data/1", "data.pkl", "byteorder"])
def test_a_flipped_bit_of_any_member_is_noticed(tmp_path, member):
    path = saved(tmp_path / "w.pt")
    with zipfile.ZipFile(path) as archive:
        info = next(each for each in archive.infolist() if each.filename.endswith(f"/{member}"))
    content = bytearray(path.read_bytes())
    at = info.header_offset + 30 + sum(struct.unpack("<HH", content[info.header_offset + 26 : info.header_offset + 30]))
    content[at + info.file_size // 2] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"w\.pt is (damaged|refused)"):
        read_weights(path)


def test_a_bytearray_in_a_checkpoint_is_a_blank(tmp_path):
    assert (
        read_weights(saved(tmp_path / "w.ckpt", {"state_dict": STATE, "rng": bytearray(b"abc")})).keys() == STATE.keys()
    )


def test_the_place_of_a_pickle_s_memory_is_bounded():
    check_pickle(pickle.dumps([1] * 300), "it", 1)
    with pytest.raises(CheckpointError, match="places of memory"):
        check_pickle(b"\x80\x02Nr" + struct.pack("<I", 1 << 31) + b".", "it", 1)
    with pytest.raises(CheckpointError, match="damaged"):
        check_pickle(pickle.dumps([1] * 300)[:-9], "it", 1)


def test_limits_name_their_variable(tmp_path, monkeypatch):
    path = saved(tmp_path / "w.pt")
    for name, value in (("MEDGRAFT_MAX_HEADER_BYTES", "64"), ("MEDGRAFT_MAX_PICKLE_OPERATIONS", "9")):
        monkeypatch.setenv(name, value)
        with pytest.raises(CheckpointError, match=rf"w\.pt.*{name}"):
            read_weights(path)
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEDGRAFT_MAX_HEADER_BYTES", "64")
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", 90) + b"{}".ljust(90))
    with pytest.raises(CheckpointError, match="MEDGRAFT_MAX_HEADER_BYTES"):
        read_weights(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors.index.json", "pytorch_model.bin", "model.safetensors"]
)
def test_a_folder_for_a_library_is_looked_through(tmp_path, name):
    saved(tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    (tmp_path / "tokenizer.txt").write_text("no settings")
    assert origin(str(tmp_path)) == tmp_path
    (tmp_path / name).write_bytes(b"[" * 100_000 if name.endswith("json") else b"\xff" * 100)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")):
        origin(str(tmp_path))
    with pytest.raises(CheckpointError):
        check_weights_folder(tmp_path)


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)


def bombs(folder: Path) -> dict[str, str]:
    """Name -> what its refusal says, of files that would take more than a machine has."""
    plain = zipfile.ZipFile(saved(folder / "plain.pt"))
    members = {each.partition("/")[2]: plain.read(each) for each in plain.namelist()}
    zipped(folder / "ratio.pt", members | {"data/0": bytes(200 << 20)})
    zipped(folder / "pickle.pt", members | {"data.pkl": b"\x80\x02" + b"]" * (40 << 20) + b"."})
    zipped(folder / "operations.pt", members | {"data.pkl": b"\x80\x02" + b"]" * (20 << 20) + b"."})
    memo = b"\x80\x02}r" + struct.pack("<I", (1 << 31) - 1) + b"."
    zipped(folder / "memo.pt", members | {"data.pkl": memo}, zipfile.ZIP_STORED)
    (folder / "memo_old.pt").write_bytes(memo)
    (folder / "operations_old.pt").write_bytes(b"\x80\x02" + b"]" * (20 << 20) + b".")
    array = b"\x80\x02}U\x01acbuiltins\nbytearray\nJ" + struct.pack("<i", 2_000_000_000) + b"\x85Rs."
    zipped(folder / "array.pt", members | {"data.pkl": array}, zipfile.ZIP_STORED)
    (folder / "header.safetensors").write_bytes(struct.pack("<Q", 1 << 62) + b"{}")
    (folder / "long.safetensors").write_bytes(struct.pack("<Q", 40 << 20) + b" " * (40 << 20))
    (folder / "deep.safetensors").write_bytes(struct.pack("<Q", 1 << 20) + b"[" * (1 << 20))
    saved(folder / "repeats.pt", {"a": torch.ones(1).expand(1 << 40)})
    (folder / "tar.pt").write_bytes(b"storages".ljust(100, b"\0") + bytes(10_000))
    content = bytearray((folder / "plain.pt").read_bytes())
    over = bytearray(content)
    begin = over.rindex(b"PK\x01\x02", 0, over.rindex(b"PK\x05\x06"))
    over[begin + 20 : begin + 28] = struct.pack("<II", 0xF0000000, 0xF0000000)
    (folder / "over.pt").write_bytes(over)
    return {
        "ratio.pt": "MEDGRAFT_MAX_RATIO",
        "pickle.pt": "MEDGRAFT_MAX_HEADER_BYTES",
        "operations.pt": "MEDGRAFT_MAX_PICKLE_OPERATIONS",
        "memo.pt": "places of memory",
        "memo_old.pt": "places of memory",
        "operations_old.pt": "MEDGRAFT_MAX_PICKLE_OPERATIONS",
        "array.pt": "not a table of tensors",
        "header.safetensors": "its header would have",
        "long.safetensors": "MEDGRAFT_MAX_HEADER_BYTES",
        "deep.safetensors": "cannot be read",
        "repeats.pt": "repeats a few stored numbers",
        "tar.pt": "neither safetensors",
        "over.pt": "lie over one another",
    }


READER = """
import resource, sys, time
from pathlib import Path
from medgraft.checkpoints.weights import read_weights
from medgraft.errors import CheckpointError
resource.setrlimit(resource.RLIMIT_DATA, (2 << 30, 2 << 30))
for name in sys.argv[2:]:
    begun = time.process_time()
    try: print("read", end=" ")if read_weights(Path(sys.argv[1], name)) else None
    except CheckpointError as error: print(round(time.process_time() - begun, 2), name, error, sep="\\t")
print(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) >> 10)
"""


def test_bombs_end_soon_and_small(tmp_path):
    wanted = bombs(tmp_path)
    command = [sys.executable, "-c", READER, str(tmp_path), *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, peak = done.stdout.splitlines()
    told = {name: (float(seconds), sentence) for seconds, name, sentence in (line.split("\t", 2) for line in lines)}
    assert {name: words for name, words in wanted.items() if words not in told.get(name, (0, ""))[1]} == {}
    assert max(seconds for seconds, _ in told.values()) < 5 and int(peak) < 2048


def test_a_stream_that_is_none_says_so(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "empty.pt").write_bytes(b"")
    for name in ("w.pt", "empty.pt"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read"):
            check_weights(tmp_path / name)
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    (tmp_path / "cut.pt").write_bytes(buffer.getvalue()[:-200])
    with pytest.raises(CheckpointError, match="cut"):
        read_weights(tmp_path / "cut.pt")
