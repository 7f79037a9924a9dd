"""Which results have been found true on this machine, so that none is computed twice.

Computing the metrics of a stored result again takes some milliseconds, which is much for ten thousand. A file in the
cache folder keeps one digest for each pair of result and predictions that agreed, and a stamp of the two files for each
that a sweep has found finished.
"""

from __future__ import annotations

import hashlib
import os
import stat
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from medgraft.benchmarks.prefix_cache.store import cache_root
from medgraft.benchmarks.results.result_files import opened
from medgraft.benchmarks.results.spec import NUMBERS_VERSION
from medgraft.benchmarks.texts.table import SUFFIX as TEXTS

LARGEST = 32 << 20
"""Bytes of the file, a quarter of a million results with a digest and a stamp each; a larger one is begun anew."""


def digest(path: Path) -> str:
    """Of a result, its predictions and the version of the metrics.

    Args:
        path: File of the result.

    Raises:
        UnreadableError: One of the files cannot be read.
    """
    whole = hashlib.sha256(f"numbers {NUMBERS_VERSION}\n".encode())
    bounds = ("MEDGRAFT_MAX_DOCUMENT_BYTES", "MEDGRAFT_MAX_UNPACKED_BYTES")
    for file, bound in zip((path, path.with_suffix(".npz")), bounds, strict=True):
        with opened(file, bound) as handle:
            whole.update(hashlib.file_digest(handle, "sha256").digest())
    return whole.hexdigest()


def stamp(path: Path) -> str:
    """Digest of what the file system says of a result, its predictions and texts, which changes when one does.

    Reading neither, it is what a sweep of many thousand finished cells goes by; sizes, both times and the number of
    the file, as in :mod:`medgraft.files.content`.

    Args:
        path: File of the result.

    Raises:
        OSError: It is not there.
    """
    facts = [f"stamp {NUMBERS_VERSION} {path.absolute()}"]
    for file in (path, path.with_suffix(".npz"), path.with_name(f"{path.stem}{TEXTS}")):
        try:
            found = file.stat()
        except FileNotFoundError:
            if file is path:
                raise
            facts.append("none")
            continue
        facts.append(f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns} {found.st_ino} {found.st_dev}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()


@dataclass
class _Known:
    """The file as far as this process has read it: others append meanwhile, and it may have many lines."""

    place: Path | None = None
    number: tuple[int, int] = (0, 0)
    size: int = 0
    digests: set[str] = field(default_factory=set)

    def refresh(self, place: Path) -> None:
        """Reads what was added since, all of it where it is another file or was begun anew."""
        try:
            facts = place.stat()
        except FileNotFoundError:
            self.place, self.size, self.digests = None, 0, set()
            return
        number = facts.st_dev, facts.st_ino
        if (place, number) != (self.place, self.number) or facts.st_size < self.size:
            self.place, self.number, self.size, self.digests = place, number, 0, set()
        if facts.st_size > self.size and stat.S_ISREG(facts.st_mode):
            with place.open("rb") as handle:
                handle.seek(self.size)
                added = handle.read()
            lines = added[: added.rfind(b"\n") + 1]  # the last one may be half written
            self.size += len(lines)
            self.digests.update(lines.decode("ascii", "replace").split())


_known = _Known()


def is_known(sha256: str) -> bool:
    """Whether a result of that digest was found true."""
    with suppress(OSError):
        _known.refresh(_place())
        return sha256 in _known.digests
    return False


def remember(sha256: str) -> None:
    """Notes that a result was found true; nothing where the cache cannot be written."""
    place, line = _place(), f"{sha256}\n".encode()
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists() and place.stat().st_size > LARGEST:
            place.unlink()
        # One write of a whole line: several processes may append.
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o644)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)


def _place() -> Path:
    return cache_root() / "verified.txt"
