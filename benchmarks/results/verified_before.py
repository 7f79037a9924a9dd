"""Which results have been found true on this machine, so that none is computed twice.

Computing the metrics of a stored result again takes some milliseconds, which is much for ten thousand. A file in the
cache folder keeps one digest for each pair of result and predictions that agreed, and a stamp of the two files for each
that a sweep has found finished.
"""

from __future__ import annotations

import hashlib
import os
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
    """The file as this process last saw it."""

    place: Path | None = None
    size: int = -1
    digests: set[str] = field(default_factory=set)

    def refresh(self, place: Path) -> None:
        """Reads the file where others have changed it."""
        size = place.stat().st_size if place.is_file() else 0
        if (place, size) != (self.place, self.size):
            self.digests = set(place.read_text("ascii", "replace").split("\n")) if size else set()
            self.place, self.size = place, size


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
        _known.refresh(place)
        # One write of a whole line: several processes may append.
        descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o644)
        try:
            _known.size += os.write(descriptor, line)
        finally:
            os.close(descriptor)
        _known.digests.add(sha256)


def _place() -> Path:
    return cache_root() / "verified.txt"
