"""A folder of cache entries that processes share: each is built once, is whole or absent, and makes room when asked to.

An entry is a folder under a name that hashes everything that defines it. It is written under a temporary name and
renamed when it is whole, with a lock beside it: one process builds, the others wait, and what a killed builder leaves
is read by nobody and removed by the next process that opens the cache. Whoever reads an entry holds a second lock,
shared, for as long as it keeps the :class:`Entry`. When the entries together exceed the budget, those that nobody holds
go, the longest unused first. A checksum of each file lies in the entry.

A cache folder that is full or cannot be written costs a warning: entries are then built in a temporary folder of the
process that needs them, and go with it. Where machines share a second cache an entry is fetched from there before it is
built, see :mod:`medgraft.benchmarks.prefix_cache.shared`.

``MEDGRAFT_CACHE`` names the folder and ``MEDGRAFT_CACHE_SIZE`` the budget (``20GB`` by default, ``none`` for no limit).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.util import Finalize
from pathlib import Path
from typing import IO, Any

from medgraft.benchmarks.prefix_cache.shared import keep_checksums, shared_entries
from medgraft.errors import ConfigError, MedgraftError
from medgraft.files.cache_folder import cache_root

logger = logging.getLogger(__name__)

CACHE_VERSION = 2
"""Entries of version 1 may hold an infinity where a value was beyond half precision."""

UNFINISHED, REMOVED = ".building", ".gone"
"""Endings of a folder while it is built, and while it is removed."""

DEFAULT_SIZE = "20GB"
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
LITTLE = 1 << 20
"""Bytes; a disk with fewer is full."""
UNCACHED = "medgraft-uncached-"
"""Beginning of the name of a temporary folder for one entry."""

_uncached: dict[Path, Entry] = {}
"""Entries of this process that are in no cache, by the folder that they would have had."""


def parse_size(text: str) -> int | None:
    """Bytes of a size such as ``500MB``; ``None`` for ``none``, no limit.

    Raises:
        ConfigError: It is no size.

    Example:
        >>> parse_size("1.5 GB"), parse_size("none")
        (1500000000, None)
    """
    if text.strip().lower() == "none":
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", text.strip().upper())
    if match is None:
        raise ConfigError(f"the size of the cache is {text!r}; write a number with KB, MB, GB or TB, or none")
    return int(float(match[1]) * UNITS[match[2] if match[2] in UNITS else ""])


def size_budget() -> int | None:
    """Bytes that the cache may hold, of ``$MEDGRAFT_CACHE_SIZE``; ``None`` for no limit."""
    return parse_size(os.environ.get("MEDGRAFT_CACHE_SIZE") or DEFAULT_SIZE)


def digest(facts: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON-able mapping, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Entry:
    """An entry that stays where it is for as long as this object lives.

    Attributes:
        folder: Its files.
        hit: It was there; otherwise this process has built it.
        size: Bytes of its files.
    """

    folder: Path
    hit: bool
    size: int
    _held: IO[str] | None = field(repr=False, compare=False)  # open and locked; closed with the object


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; a killed holder releases it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def _unless_held(path: Path) -> Iterator[bool]:
    """Holds an exclusive lock if nobody else holds any; says whether it does."""
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def entry(
    facts: Mapping[str, Any], build: Callable[[Path], None], root: Path | None = None, needs: tuple[str, ...] = ()
) -> Entry:
    """An entry, built first where it is missing or damaged.

    Args:
        facts: Everything that defines the content.
        build: Fills the folder that it is given.
        root: Cache folder; :func:`cache_root` by default.
        needs: Files without which it is damaged.

    Raises:
        MedgraftError: The cache folder is none, or it and the folder of temporary files are full.
    """
    root = root or cache_root()
    key = digest({**facts, "cache_version": CACHE_VERSION})
    folder = root / "prefix" / key[:2] / key
    if folder in _uncached:
        return _uncached[folder]
    _remove_leftovers(root)
    if (existing := _open(folder, needs, hit=True)) is not None:
        return existing
    try:
        with locked(folder.with_suffix(".lock")):
            if (existing := _open(folder, needs, hit=True)) is not None:
                return existing
            fetched = _fill(folder, dict(facts), build, root)
            built = _open(folder, needs, hit=fetched)
    except OSError as error:
        of_cache = error.filename is not None and str(error.filename).startswith(str(root))
        if error.errno in FULL or (error.errno in READ_ONLY and of_cache):
            return _without_cache(folder, dict(facts), build, root, error)
        if not of_cache:
            raise
        remedy = "set MEDGRAFT_CACHE to a folder that can be written"
        raise MedgraftError(f"the cache folder {root} cannot be written: {error}; {remedy}") from error
    if built is None:
        raise MedgraftError(f"the cache entry {folder} was damaged while it was written; set MEDGRAFT_CACHE elsewhere")
    make_room(root, size_budget())
    return built


def _without_cache(
    folder: Path, facts: dict[str, Any], build: Callable[[Path], None], root: Path, reason: OSError
) -> Entry:
    """An entry in a temporary folder that goes with this process, since its cache takes none."""
    what = "is full" if reason.errno in FULL else "cannot be written"
    remedy = "make room there, or set MEDGRAFT_CACHE to another folder"
    text = f"the cache folder {root} {what} ({reason.strerror})"
    if not _uncached:
        logger.warning("%s; what it lacks is computed again in each cell: %s", text, remedy)
    _remove_uncached()
    try:
        place = Path(tempfile.mkdtemp(prefix=UNCACHED))
        held = (place / "held").open("w")
        fcntl.flock(held, fcntl.LOCK_SH)
        Finalize(None, shutil.rmtree, args=(place, True), exitpriority=1)  # in workers too, which end without atexit
        unfinished = place / UNFINISHED
        unfinished.mkdir()
        fetched = _filled(folder, facts, build, unfinished)
    except OSError as error:
        if not _is_full(error, Path(tempfile.gettempdir())):
            raise
        temporary = tempfile.gettempdir()
        raise MedgraftError(f"{text}, and so is {temporary}; {remedy}, or TMPDIR") from error
    _uncached[folder] = Entry(unfinished, fetched, size_of(unfinished), held)
    return _uncached[folder]


def _remove_uncached() -> None:
    """Removes temporary folders of processes that were killed; the others hold a lock in theirs."""
    for place in Path(tempfile.gettempdir()).glob(f"{UNCACHED}*"):
        with suppress(OSError), _unless_held(place / "held") as ours:
            if ours:
                shutil.rmtree(place, ignore_errors=True)


def _open(folder: Path, needs: tuple[str, ...], *, hit: bool) -> Entry | None:
    """The entry, held; ``None`` where it is missing or damaged."""
    if not (folder / "facts.json").is_file():
        return None
    held: IO[str] | None = None
    with suppress(OSError):  # a read-only cache can be read all the same, and nobody makes room there
        held = folder.with_suffix(".use").open("a")
        fcntl.flock(held, fcntl.LOCK_SH)
        os.utime(folder.with_suffix(".use"))
    if not (folder / "facts.json").is_file():
        return None  # it went while we waited for the lock
    if damage := damage_of(folder, needs):
        logger.warning("cache entry %s is made again: %s", folder, damage)
        return None
    return Entry(folder, hit, size_of(folder), held)


def damage_of(folder: Path, needs: tuple[str, ...]) -> str:
    """What is wrong with an entry, which someone may have deleted in part; empty if nothing is."""
    try:
        sizes = json.loads((folder / "files.json").read_text())
        for name in (*needs, *sizes):
            size = (folder / name).stat().st_size
            if size != sizes.get(name, size):
                return f"{name} has {size} bytes of {sizes[name]}"
    except (OSError, ValueError) as error:
        return str(error)
    return ""


def size_of(folder: Path) -> int:
    """Bytes of an entry's files."""
    total = 0
    for path in folder.glob("*"):
        with suppress(OSError):
            total += path.stat().st_size
    return total


def _fill(folder: Path, facts: dict[str, Any], build: Callable[[Path], None], root: Path) -> bool:
    """Fetches or builds, under the entry's lock; on a full disk once more, after all that nobody reads has gone.

    Returns:
        Whether it was fetched.
    """
    unfinished = folder.with_suffix(UNFINISHED)
    for last in (False, True):
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            fetched = _filled(folder, facts, build, unfinished)
            unfinished.rename(folder)
            return fetched
        except OSError as error:
            full = _is_full(error, root)
            shutil.rmtree(unfinished, ignore_errors=True)
            if full and (last or not make_room(root, 0)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(root)) from error
            if not full:
                raise
            logger.warning("the disk of the cache folder %s is full; what nobody reads has been removed", root)
    raise AssertionError("the second attempt returns or raises")


def _is_full(error: OSError, folder: Path) -> bool:
    """Whether an error says that the disk of a folder is full; NumPy's, of an array cut short, has no number."""
    return error.errno in FULL or (error.errno is None and shutil.disk_usage(folder).free < LITTLE)


def _filled(folder: Path, facts: dict[str, Any], build: Callable[[Path], None], unfinished: Path) -> bool:
    """Fills a folder with an entry and with what its readers need to know of it; whether it was fetched."""
    shared = shared_entries()
    fetched = False
    if shared is None:
        build(unfinished)
    else:
        fetched = shared.filled(folder.name, facts, unfinished, build)
    keep_checksums(unfinished)
    sizes = {path.name: path.stat().st_size for path in sorted(unfinished.iterdir())}
    (unfinished / "files.json").write_text(json.dumps(sizes))
    (unfinished / "facts.json").write_text(json.dumps(facts, indent=1, default=str))
    return fetched


def make_room(root: Path, budget: int | None) -> int:
    """Removes what killed processes left, then entries that nobody holds, the longest unused first, until all fits.

    Args:
        root: Cache folder.
        budget: Bytes that may stay; ``None`` for no limit.

    Returns:
        Bytes removed.
    """
    removed = _remove_leftovers(root)
    if budget is None:
        return removed
    sizes = {folder: size_of(folder) for folder in entry_folders(root)}
    total = sum(sizes.values())
    for folder in sorted(sizes, key=last_use):
        if total <= budget:
            break
        if remove_entry(folder):
            total -= sizes[folder]
            removed += sizes[folder]
    if total > budget:
        logger.warning("the cache %s holds %d bytes, %d allowed; the rest is being read", root, total, budget)
    return removed


def _remove_leftovers(root: Path) -> int:
    """Removes folders that a killed process was building or removing; returns their bytes.

    Whoever does either holds the entry's lock, also where it is another entry of this process.
    """
    removed = 0
    for folder in [path for ending in (UNFINISHED, REMOVED) for path in root.glob(f"prefix/*/*{ending}")]:
        with suppress(OSError), _unless_held(folder.with_suffix(".lock")) as ours:  # a read-only cache keeps them
            if ours:
                size = size_of(folder)
                shutil.rmtree(folder)
                removed += size
    return removed


def entry_folders(root: Path) -> list[Path]:
    """The folders of all entries that are whole."""
    return [path.parent for path in root.glob("prefix/*/*/facts.json") if not path.parent.suffix]


def last_use(folder: Path) -> float:
    """When an entry was last opened, in seconds since 1970; 0 if that is not known."""
    for path in (folder.with_suffix(".use"), folder / "facts.json"):
        with suppress(OSError):
            return path.stat().st_mtime
    return 0.0


def remove_entry(folder: Path) -> bool:
    """Removes an entry if nobody builds or holds it; renamed first, so that nobody meets half of it."""
    try:
        with _unless_held(folder.with_suffix(".lock")) as ours, _unless_held(folder.with_suffix(".use")) as unread:
            if not (ours and unread):
                return False
            gone = folder.with_suffix(REMOVED)
            shutil.rmtree(gone, ignore_errors=True)
            folder.rename(gone)
            shutil.rmtree(gone)
    except OSError as error:
        logger.warning("cache entry %s cannot be removed: %s", folder, error)
        return False
    return True
