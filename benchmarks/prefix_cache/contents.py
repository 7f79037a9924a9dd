"""What is in a cache of this machine, whether it is whole, and how it travels to shared storage and back."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgraft.benchmarks.prefix_cache.shared import SUMS, SharedEntries, SharedEntry, checksums, sha256_of
from medgraft.benchmarks.prefix_cache.store import (
    CACHE_VERSION,
    damage_of,
    digest,
    entry,
    entry_folders,
    last_use,
    remove_entry,
    size_of,
)
from medgraft.errors import MedgraftError

logger = logging.getLogger(__name__)

UNCHECKED = "no checksum was kept; it was made by an earlier version"


@dataclass(frozen=True)
class Listed:
    """An entry.

    Attributes:
        key: Its key.
        facts: What defines it.
        size: Bytes.
        used: When it was last used here, or put into shared storage; seconds since 1970.
    """

    key: str
    facts: dict[str, Any]
    size: int
    used: float

    @property
    def what(self) -> str:
        """Its kind, and of which modality and encoder where it says so."""
        names = ("kind", "modality", "encoder", "stage")
        return " ".join(str(self.facts[name]) for name in names if self.facts.get(name) not in (None, ""))


def local_entries(root: Path) -> list[Listed]:
    """The entries of a cache of this machine, the longest unused first."""
    found = []
    for folder in entry_folders(root):
        try:
            facts = json.loads((folder / "facts.json").read_text())
        except (OSError, ValueError):
            facts = {}
        facts = facts if isinstance(facts, dict) else {}
        found.append(Listed(folder.name, facts, size_of(folder), last_use(folder)))
    return sorted(found, key=lambda each: each.used)


def shared_listed(entries: SharedEntries) -> list[Listed]:
    """The entries in shared storage, the oldest first."""
    return [
        Listed(each.key, each.manifest.facts if each.manifest else {}, each.size, each.made)
        for each in entries.listed()
    ]


def folder_of(root: Path, key: str) -> Path:
    """Where a local entry lies."""
    return root / "prefix" / key[:2] / key


def local_problem(folder: Path) -> str:
    """What is wrong with an entry of this machine, all its files being read; empty if nothing is."""
    if problem := damage_of(folder, ()):
        return problem
    if not (folder / SUMS).is_file():
        return UNCHECKED
    for name, sha256 in checksums(folder).items():
        try:
            if sha256_of(folder / name) != sha256:
                return f"{name} has another checksum"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return ""


def unused(listed: list[Listed], days: float, now: float | None = None) -> list[Listed]:
    """Entries that nobody has used for so many days.

    Args:
        listed: Entries.
        days: At least 0.
        now: What the clock shows that ``used`` is by; this machine's by default.
    """
    now = time.time() if now is None else now
    return [each for each in listed if now - each.used >= days * 86_400]


def beyond(listed: list[Listed], budget: int) -> list[Listed]:
    """Entries that must go so that the others fit into a budget of bytes, from the front."""
    total, gone = sum(each.size for each in listed), []
    for each in listed:
        if total <= budget:
            break
        gone.append(each)
        total -= each.size
    return gone


def remove_local(root: Path, listed: list[Listed]) -> tuple[int, int]:
    """Removes entries that nobody reads; how many went, and their bytes."""
    gone = [each for each in listed if remove_entry(folder_of(root, each.key))]
    return len(gone), sum(each.size for each in gone)


class DamagedEntryError(MedgraftError):
    """An entry of shared storage is not whole."""


def send(root: Path, entries: SharedEntries) -> Iterator[tuple[Listed, bool]]:
    """Sends what shared storage lacks; each entry with whether it was sent.

    Raises:
        SharedStorageError: The storage does not answer or is full.
    """
    for each in local_entries(root):
        folder = folder_of(root, each.key)
        if problem := local_problem(folder):
            logger.warning("cache entry %s is not sent: %s", each.key, problem)
            continue
        yield each, not entries.has(each.key) and entries.publish(each.key, each.facts, folder)


def fetch(root: Path, entries: SharedEntries) -> Iterator[tuple[SharedEntry, bool]]:
    """Fetches what this machine lacks; each entry with whether it was fetched.

    Raises:
        SharedStorageError: The storage does not answer.
        MedgraftError: The cache of this machine cannot be written.
    """
    for each in entries.listed():
        if each.manifest is None:
            continue
        facts = each.manifest.facts
        if digest({**facts, "cache_version": CACHE_VERSION}) != each.key:
            logger.warning("entry %s of %s is left out: its key is not that of what defines it, or it is of another "
                           "version of the cache", each.key, entries.storage.url)  # fmt: skip
            continue

        def build(folder: Path, key: str = each.key) -> None:
            if not entries.fetch(key, folder):
                raise DamagedEntryError(f"entry {key} of {entries.storage.url} is damaged or was removed; try again")

        try:
            found = entry(facts, build, root)
        except DamagedEntryError as error:
            logger.warning("%s", error)
            yield each, False
            continue
        if found.folder != folder_of(root, each.key):
            raise MedgraftError(
                f"the cache {root} takes nothing more; free some space, or set MEDGRAFT_CACHE elsewhere"
            )
        yield each, not found.hit
