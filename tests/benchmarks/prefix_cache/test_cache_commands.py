"""``medgraft cache``: what is there, what goes, what is damaged, and how it travels."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from s3_server import S3
from sweeping import command

from medgraft.benchmarks.prefix_cache.shared import SUMS, SharedEntries
from medgraft.benchmarks.prefix_cache.store import Entry, entry
from medgraft.benchmarks.storage.folder import FolderStorage
from medgraft.benchmarks.storage.opening import open_storage


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def made(number: int, days: float = 0.0) -> Entry:
    """An entry of about 1 kB that was last used some days ago."""
    facts = {"kind": "prefix", "modality": "image", "encoder": f"encoder_{number}", "stage": 2}
    found = entry(facts, lambda folder: np.save(folder / "x.npy", np.full(1000, number, np.uint8)))
    used = time.time() - days * 86_400
    os.utime(found.folder.with_suffix(".use"), (used, used))
    return found


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def test_entries_are_listed_with_what_they_are():
    assert "0 entries, 0 B" in command("cache", "ls").stdout
    first = made(1)
    del first
    done = command("cache", "ls")
    assert "prefix image encoder_1 2" in done.stdout and "1 entries, 1." in done.stdout


@pytest.mark.parametrize(
    ("options", "left"),
    [((), {1, 2, 3}), (("--unused", "5"), {1, 2}), (("--max-size", "3kB"), {1, 2}), (("--all",), set())],
)
def test_pruning_removes_what_was_asked_for_and_what_nobody_reads(options, left):
    folders = {number: made(number, days=4.0 * (number - 1)).folder for number in (1, 2, 3)}
    done = command("cache", "prune", *options)
    assert {number for number, folder in folders.items() if folder.exists()} == left
    assert f"removed {3 - len(left)} of 3 entries" in done.stdout


def test_what_is_being_read_stays():
    held = made(1)
    done = command("cache", "prune", "--all")
    assert held.folder.exists() and "1 are being read and stay" in done.stdout


def test_damage_is_found_by_checksums_and_goes_if_asked():
    whole, damaged, earlier = made(1).folder, made(2).folder, made(3).folder
    flip(damaged / "x.npy")
    (earlier / SUMS).unlink()
    files = json.loads((earlier / "files.json").read_text())
    (earlier / "files.json").write_text(json.dumps({name: size for name, size in files.items() if name != SUMS}))
    done = command("cache", "verify")
    assert done.exit_code == 1 and f"{damaged.name}: x.npy has another checksum" in done.stdout
    assert "1 entries are whole, 1 damaged, 1 without a checksum" in done.stdout
    command("cache", "verify", "--delete")
    assert not damaged.exists() and whole.exists() and command("cache", "verify").exit_code == 0


def test_a_cache_travels_by_object_storage_to_another_machine(tmp_path, monkeypatch, s3: S3):
    url = f"{s3.bucket('travels')}/cache"
    keys = {made(number).folder.name for number in (1, 2)}
    assert "sent 2 entries" in command("cache", "export", url).stdout
    assert "sent 0 entries" in command("cache", "export", url).stdout
    assert "2 entries" in command("cache", "ls", url).stdout and command("cache", "verify", url).exit_code == 0
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "other"))
    assert "fetched 2 of 2 entries" in command("cache", "import", url).stdout
    assert "fetched 0 of 2 entries" in command("cache", "import", url).stdout
    assert {path.parent.name for path in (tmp_path / "other").glob("prefix/*/*/facts.json")} == keys
    assert made(1).hit and command("cache", "verify").exit_code == 0
    assert "removed 2 of 2" in command("cache", "prune", url, "--all").stdout
    assert open_storage(url).listed("") == {}


def test_a_shared_cache_is_verified_pruned_by_its_own_clock_and_cleared_of_leftovers(tmp_path, monkeypatch):
    share = tmp_path / "share"
    for number in (1, 2):
        made(number)
    command("cache", "export", str(share))
    entries = SharedEntries(FolderStorage(share))
    first, second = entries.listed()
    flip(next((share / "prefix").rglob(f"*{first.key}/*x.npy")))
    done = command("cache", "verify", str(share), "--delete")
    assert done.exit_code == 1 and f"{first.key}: x.npy has another checksum; removed" in done.stdout
    left = share / "prefix" / "ab" / ("ab" + "0" * 62) / f"{'0' * 32}-x.npy"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"of a killed process")
    os.utime(left, (time.time() - 2 * 86_400,) * 2)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 10 * 86_400)  # this machine's clock is ten days ahead
    done = command("cache", "prune", str(share), "--unused", "5")
    assert "removed 0 of 1 entries" in done.stdout and "19 B that killed processes had left" in done.stdout
    assert [each.key for each in entries.listed()] == [second.key] and not left.exists()


def test_what_is_not_what_its_key_says_is_not_imported(tmp_path, monkeypatch):
    share = FolderStorage(tmp_path / "share")
    made(1)
    command("cache", "export", str(share.root))
    (manifest,) = share.root.rglob("*.json")
    manifest.write_text(manifest.read_text().replace("encoder_1", "encoder_2"))
    monkeypatch.setenv("MEDGRAFT_CACHE", str(tmp_path / "other"))
    done = command("cache", "import", str(share.root))
    assert "fetched 0 of 0 entries" in done.stdout and "its key is not that of what defines it" in done.stderr


def test_bad_input_is_one_sentence(s3):
    for arguments, words in (
        (("ls", "s3://nowhere-at-all/x"), "there is no bucket nowhere-at-all"),
        (("prune", "--max-size", "much"), "write a number with KB, MB, GB or TB, or none"),
        (("export", "ftp://x/y"), "ftp:// is no storage that is known"),
    ):
        done = command("cache", *arguments)
        assert done.exit_code == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.output
