"""Which content files have: a digest of each, kept beside the cache, so that a file is read again only when it changed.

A kept digest counts for as long as size, times of modification and of change, and number of the file (``st_size``,
``st_mtime_ns``, ``st_ctime_ns``, ``st_ino``) are what they were. ``cp -p`` and ``touch`` set the first time and nobody
sets the second, so pixels that were replaced under an old date are noticed. Not noticed is what leaves all four alone:
a flaw of the disk, or a file system without a time of change. Inside :func:`verifying` nothing that is kept counts, and
every file is read.

Files up to 32 MB are read whole, which is every film and nearly every volume; of larger ones 32 blocks of 1 MB, evenly
spread, first and last included. :func:`verifying` reads those whole as well and keeps that digest too, so a change
between the blocks is noticed by the second verification of a file and not by the first.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import sqlite3
import stat
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from pathlib import Path
from typing import NamedTuple

from medgraft.files.cache_folder import cache_root

logger = logging.getLogger(__name__)

STORE = "content-1.sqlite3"
WHOLE, BLOCKS, BLOCK = 32 << 20, 32, 1 << 20
SETTLED_NS = 2_000_000_000
"""A file that changed this shortly before it was read may change again within one tick of the file system's clock, so
its digest is not kept yet."""

ANNOUNCED = 1 << 30
"""Bytes to read that are worth a line."""

MISSING, UNREADABLE = "missing", "unreadable"
_THREADED = 64 << 20
_TABLE = "CREATE TABLE IF NOT EXISTS files (path TEXT PRIMARY KEY, stamp TEXT, digest TEXT, whole TEXT)"

_verified: ContextVar[set[str] | None] = ContextVar("_verified", default=None)
_announce: ContextVar[Callable[[str], None] | None] = ContextVar("_announce", default=None)


@contextlib.contextmanager
def verifying(verify: bool = True) -> Generator[None]:
    """Inside it, every file is read again, once, whatever size and times say; ``verify=False`` changes nothing."""
    token = _verified.set(set() if verify else _verified.get())
    try:
        yield
    finally:
        _verified.reset(token)


@contextlib.contextmanager
def announcing(say: Callable[[str], None]) -> Generator[None]:
    """Inside it, ``say`` is called with one line before more than a gigabyte is read."""
    token = _announce.set(say)
    try:
        yield
    finally:
        _announce.reset(token)


def file_facts(paths: Sequence[str], root: Path) -> str:
    """Digest of files: of their names below ``root``, their sizes and their content.

    What :attr:`medgraft.task.RawInputs.fingerprint` is for a task that reads files. Times do not enter, so a copy
    elsewhere has the same digest, and a copy with other pixels has another one, whatever its dates.

    Args:
        paths: Files, in the order of the samples; a missing one counts as missing.
        root: Folder of the cohort.
    """
    digests = content_of(dict.fromkeys(str(path) for path in paths))
    whole, home = hashlib.sha256(), f"{os.path.abspath(root)}{os.sep}"
    for path in map(str, paths):
        name = os.path.abspath(path)
        whole.update(f"{name.removeprefix(home)}|{digests[path]}\n".encode())
    return whole.hexdigest()


def content_of(paths: Iterable[str]) -> dict[str, str]:
    """Size and digest of each file; :data:`MISSING` or :data:`UNREADABLE` in place of what cannot be read."""
    verified, now = _verified.get(), time.time_ns()
    digests: dict[str, str] = {}
    stamps: dict[str, _Stamp] = {}
    for path in paths:
        try:
            facts = os.stat(path)
        except OSError:
            digests[path] = MISSING
            continue
        if stat.S_ISREG(facts.st_mode):
            stamps[path] = _Stamp(facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns, facts.st_ino)
        else:
            digests[path] = UNREADABLE
    kept = _kept(list(stamps))
    for path, stamp in stamps.items():
        if path in kept and kept[path][0] == str(stamp) and (verified is None or path in verified):
            digests[path] = kept[path][1]
    left = {path: stamp for path, stamp in stamps.items() if path not in digests}
    rows: list[tuple[str, str, str, str]] = []
    for path, (digest, whole) in zip(left, _read(left, verified is not None), strict=True):
        _, old_digest, known_whole = kept.get(path, ("", "", ""))
        if whole and known_whole not in ("", whole):
            digest = f"{digest}+{whole}"  # another content, maybe between the same blocks
        elif digest and old_digest.partition("+")[0] == digest:
            digest = old_digest
        digests[path] = digest or UNREADABLE
        if digest and left[path].settled(now):
            rows.append((os.path.abspath(path), str(left[path]), digest, whole or known_whole))
    _keep(rows)
    if verified is not None:
        verified.update(left)
    return digests


class _Stamp(NamedTuple):
    """What a file must still be for its digest to count."""

    size: int
    modified: int
    changed: int
    number: int

    def __str__(self) -> str:
        return "|".join(map(str, self))

    def settled(self, now: int) -> bool:
        """Whether the file has been left alone for so long that another change would show in its times."""
        return max(self.modified, self.changed) < now - SETTLED_NS


def _read(files: Mapping[str, _Stamp], verify: bool) -> list[tuple[str, str]]:
    """Digest by blocks, and of the whole where it is asked for, of each file; empty for one that cannot be read."""
    total = sum(each.size if verify else min(each.size, WHOLE) for each in files.values())
    if total > ANNOUNCED and (say := _announce.get()) is not None:
        why = "as --verify asks" if verify else "once, to know them again; their digests are kept beside the cache"
        say(f"reading {total / 1e9:.1f} GB in {len(files)} files, {why}")

    def one(path: str) -> tuple[str, str]:
        return _digests(path, files[path].size, verify)

    if total < _THREADED or len(files) < 2:
        return [one(path) for path in files]
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:  # hashing and reading leave the interpreter
        return list(pool.map(one, files))


def _digests(path: str, size: int, verify: bool) -> tuple[str, str]:
    whole = ""
    try:
        with open(path, "rb", buffering=0) as handle:
            if size <= WHOLE:
                digest = hashlib.file_digest(handle, "sha256").hexdigest()
                return f"{size}:{digest}", ""
            if verify:
                whole = hashlib.file_digest(handle, "sha256").hexdigest()
            parts = hashlib.sha256()
            for k in range(BLOCKS):
                handle.seek(k * (size - BLOCK) // (BLOCKS - 1))
                parts.update(handle.read(BLOCK) or b"")
            return f"{size}:{parts.hexdigest()}", whole
    except OSError as error:
        logger.debug("%s cannot be read: %s", path, error)
        return "", ""


def _kept(paths: list[str]) -> dict[str, tuple[str, str, str]]:
    """Path -> stamp, digest and digest of the whole, of those that are kept."""
    digests: dict[str, tuple[str, str, str]] = {}
    names = {os.path.abspath(path): path for path in paths}
    requested = list(names)

    def ask(store: sqlite3.Connection) -> None:
        for start in range(0, len(requested), 500):
            some = requested[start : start + 500]
            marks = ",".join("?" * len(some))
            for path, *facts in store.execute(f"SELECT * FROM files WHERE path IN ({marks})", some):
                digests[names[path]] = (facts[0], facts[1], facts[2])

    _with_store(ask, create=False)
    return digests


def _keep(rows: list[tuple[str, str, str, str]]) -> None:
    if rows:
        _with_store(lambda store: store.executemany("INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?)", rows))


def _with_store(act: Callable[[sqlite3.Connection], object], *, create: bool = True) -> None:
    """Calls ``act`` with the open store; one that cannot be used costs time only, and a damaged one is made anew."""
    path = cache_root() / STORE
    if not create and not path.is_file():
        return
    for last in (False, True):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(sqlite3.connect(path, timeout=60)) as store, store:
                store.execute(_TABLE)
                act(store)
            return
        except sqlite3.OperationalError as error:  # read-only, full or locked
            logger.info("digests of files are not kept in %s: %s", path, error)
            return
        except sqlite3.DatabaseError as error:
            logger.warning("%s is damaged and made anew: %s", path, error)
            with contextlib.suppress(OSError):
                path.unlink()
            if last:
                return
        except OSError as error:
            logger.info("digests of files are not kept in %s: %s", path, error)
            return
