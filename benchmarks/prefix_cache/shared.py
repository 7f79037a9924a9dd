"""Cache entries in storage that machines share: fetched into the local cache before one is built, sent there after.

Readers map the files of the local cache, as ever. In shared storage an entry is its files, each under a name that
nobody else writes, and a manifest ``prefix/KE/KEY.json`` with their sizes and checksums. The manifest comes last and is
created and never changed: of two machines that built the same entry one is told that it was the first, and what the
other has sent is taken away again. Each file is held against its checksum when it is fetched.

``MEDGRAFT_SHARED_CACHE`` names the storage, see :func:`medgraft.benchmarks.storage.opening.open_storage`. Storage that
fails on the way costs a warning, and the entry is built here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from medgraft.benchmarks.storage.base import SharedStorageError, Storage, Stored
from medgraft.benchmarks.storage.claims import CLAIMS, Claims
from medgraft.benchmarks.storage.opening import open_storage
from medgraft.errors import MedgraftError

logger = logging.getLogger(__name__)

VARIABLE = "MEDGRAFT_SHARED_CACHE"
FOLDER = "prefix"
SUMS = "sums.json"
"""File of an entry with the checksum of each other."""
OWN_FILES = (SUMS, "files.json", "facts.json")
"""Files of a local entry that are made anew on each machine."""

AT_ONCE = 8
"""Manifests that are read at a time."""

MANIFEST = re.compile(rf"{FOLDER}/[0-9a-f]{{2}}/([0-9a-f]{{64}})\.json")
NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,100}")


class SharedFile(BaseModel):
    """A file of an entry.

    Attributes:
        size: Bytes.
        sha256: Of its content.
        object: Its name beside the manifest.
    """

    model_config = ConfigDict(extra="forbid")

    size: int = Field(ge=0)
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    object: str = Field(pattern=r"^[0-9a-f]{32}-[\w.-]{1,101}$")


class Manifest(BaseModel):
    """What an entry is.

    Attributes:
        facts: Everything that defines it.
        files: Name -> file.
    """

    model_config = ConfigDict(extra="forbid")

    facts: dict[str, Any]
    files: dict[str, SharedFile]


@dataclass(frozen=True)
class SharedEntry:
    """An entry in shared storage, as it is listed.

    Attributes:
        key: Its key.
        manifest: What it is; ``None`` where that cannot be read.
        made: When it was put there, in seconds since 1970 by the storage's clock.
    """

    key: str
    manifest: Manifest | None
    made: float

    @property
    def size(self) -> int:
        """Bytes of its files."""
        return sum(file.size for file in self.manifest.files.values()) if self.manifest else 0


class SharedEntries:
    """The entries in a shared storage.

    Args:
        storage: Where they are.
        patience: Seconds after which a machine that builds an entry and says nothing is taken for dead.

    Attributes:
        writable: Entries are sent there; false once one could not be.
    """

    def __init__(self, storage: Storage, patience: float = 60.0) -> None:
        self.storage, self.patience, self.writable, self.reachable = storage, patience, True, True

    def filled(self, key: str, facts: Mapping[str, Any], folder: Path, build: Callable[[Path], None]) -> bool:
        """Fills the folder of a local entry: with what is in shared storage, or by building, for others too.

        Args:
            key: Of the entry.
            facts: Everything that defines it.
            folder: To be filled.
            build: Fills it.

        Returns:
            Whether it was fetched.

        Raises:
            OSError: The folder cannot be written.
        """
        if self._attempt(lambda: self.fetch(key, folder)):
            return True
        if not (self.writable and self.reachable):
            build(folder)
            return False
        with Claims(self.storage, self.patience / 6, self.patience) as claims:
            name = f"{FOLDER}-{key}"
            if self._attempt(lambda: claims.wait(name, lambda: self.has(key))) and self._attempt(
                lambda: self.fetch(key, folder)
            ):
                return True
            build(folder)
            keep_checksums(folder)
            self._attempt(lambda: self.publish(key, facts, folder))
        return False

    def has(self, key: str) -> bool:
        """Whether an entry is there."""
        return self.storage.facts(_manifest(key)) is not None

    def fetch(self, key: str, folder: Path) -> bool:
        """Copies an entry into a local folder; false where there is none or it is damaged, and then it goes.

        Raises:
            SharedStorageError: The storage does not answer.
            OSError: The folder cannot be written.
        """
        manifest = self.manifest(key)
        if manifest is None:
            return False
        for name, file in manifest.files.items():
            problem = self._fetched(key, file, folder / name) and self._fetched(key, file, folder / name)
            if problem:
                logger.warning("entry %s of shared cache %s is made again: %s %s", key, self.storage.url, name, problem)
                for each in manifest.files:
                    (folder / each).unlink(missing_ok=True)
                self.remove(key)
                return False
        sums = {name: file.sha256 for name, file in manifest.files.items()}
        (folder / SUMS).write_text(json.dumps(sums))
        return True

    def publish(self, key: str, facts: Mapping[str, Any], folder: Path) -> bool:
        """Sends a whole local entry; false where another machine was first, and nothing of ours is left then.

        Raises:
            SharedStorageError: The storage does not answer or is full; nothing of the entry is left where it can be
                removed.
        """
        sent: dict[str, SharedFile] = {}
        mark = uuid.uuid4().hex
        sums = checksums(folder)
        done = False
        try:
            for name, sha256 in sums.items():
                path = folder / name
                file = SharedFile(size=path.stat().st_size, sha256=sha256, object=f"{mark}-{name}")
                sent[name] = file
                self.storage.write(_object(key, file), path)
            content = Manifest(facts=json.loads(json.dumps(facts, default=str)), files=sent).model_dump_json(indent=1)
            done = self.storage.create(_manifest(key), content.encode())
            return done
        finally:
            if not done:
                self._drop([_object(key, file) for file in sent.values()])

    def manifest(self, key: str) -> Manifest | None:
        """What an entry is; ``None`` where there is none, or its manifest is damaged, which then goes."""
        content = self.storage.read(_manifest(key))
        if content is None:
            return None
        try:
            manifest = Manifest.model_validate_json(content)
            if all(NAME.fullmatch(name) for name in manifest.files):
                return manifest
        except ValidationError:
            pass
        logger.warning("entry %s of shared cache %s is made again: its manifest is damaged", key, self.storage.url)
        self._drop([_manifest(key)])
        return None

    def listed(self) -> list[SharedEntry]:
        """All entries, the oldest first."""
        files = self.storage.listed(FOLDER)
        made = {match[1]: files[name].modified for name in files if (match := MANIFEST.fullmatch(name))}
        with ThreadPoolExecutor(AT_ONCE) as pool:
            manifests = dict(zip(made, pool.map(self.manifest, made), strict=True))
        return [SharedEntry(key, manifests[key], made[key]) for key in sorted(made, key=made.__getitem__)]

    def problem(self, entry: SharedEntry, place: Path) -> str:
        """What is wrong with an entry in shared storage, each of its files being fetched; empty if nothing is.

        Args:
            entry: The entry.
            place: Folder for the files, one after the other.
        """
        if entry.manifest is None:
            return "its manifest is damaged"
        for name, file in entry.manifest.files.items():
            problem = self._fetched(entry.key, file, place / name)
            (place / name).unlink(missing_ok=True)
            if problem:
                return f"{name} {problem}"
        return ""

    def remove(self, key: str) -> None:
        """Removes an entry, its manifest first, so that nobody meets half of it."""
        self.storage.remove([_manifest(key)])
        self.storage.remove(list(self.storage.listed(_folder(key))))

    def leftovers(self, age: float) -> dict[str, Stored]:
        """Files that no manifest names and that nobody sends any more, by name.

        Args:
            age: Seconds since the last change, by the storage's clock.
        """
        files = self.storage.listed(FOLDER)
        named = {
            _object(entry.key, file)
            for entry in self.listed()
            if entry.manifest is not None
            for file in entry.manifest.files.values()
        }
        now = self.storage.now()
        return {
            name: stored
            for name, stored in files.items()
            if name not in named and not MANIFEST.fullmatch(name) and now - stored.modified > age
        }

    def _fetched(self, key: str, file: SharedFile, path: Path) -> str:
        """Copies one file; what is wrong with it, in words."""
        if not self.storage.download(_object(key, file), path):
            return "is missing"
        size = path.stat().st_size
        if size != file.size:
            return f"has {size} bytes of {file.size}"
        return "" if sha256_of(path) == file.sha256 else "has another checksum"

    def _attempt(self, action: Callable[[], bool]) -> bool:
        """The action's answer; false, with one warning, where the storage fails."""
        if not self.reachable:
            return False
        try:
            return action()
        except SharedStorageError as error:
            if error.kind in ("full", "read-only"):
                if self.writable:
                    logger.warning("%s; entries are read from there, and none are added", error)
                self.writable = False
            else:
                logger.warning("%s; this cell goes on without the shared cache", error)
                self.reachable = False
            return False

    def _drop(self, names: list[str]) -> None:
        try:
            self.storage.remove(names)
        except SharedStorageError as error:
            logger.debug("left in %s: %s", self.storage.url, error)


def checksums(folder: Path) -> dict[str, str]:
    """Name -> SHA-256 of the files of a local entry, as they were when it was made."""
    try:
        sums = json.loads((folder / SUMS).read_text())
        if isinstance(sums, dict):
            return {str(name): str(value) for name, value in sums.items()}
    except (OSError, ValueError):
        pass  # an entry of an earlier version
    paths = sorted(path for path in folder.iterdir() if path.name not in OWN_FILES)
    return {path.name: sha256_of(path) for path in paths}


def keep_checksums(folder: Path) -> None:
    """Writes the checksums of an entry's files beside them, unless they are there."""
    (folder / SUMS).write_text(json.dumps(checksums(folder)))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def shared_entries() -> SharedEntries | None:
    """The entries in the storage that ``$MEDGRAFT_SHARED_CACHE`` names; ``None`` where it names none.

    Raises:
        ConfigError: It names something that is no storage.
    """
    place = os.environ.get(VARIABLE)
    return _opened(place, os.getpid()) if place else None


@functools.cache
def _opened(place: str, process: int) -> SharedEntries:
    """Once in each process, so that storage that fails is not asked again for each entry."""
    return SharedEntries(open_storage(place))


def check_shared_cache(place: str) -> None:
    """Tries a shared cache before anything is run; one that can only be read is a warning.

    Raises:
        MedgraftError: It cannot be reached, or is no storage.
    """
    storage = open_storage(place)
    try:
        storage.check()
    except SharedStorageError as error:
        if error.kind not in ("full", "read-only"):
            raise MedgraftError(f"shared cache: {error}") from error
        storage.listed(CLAIMS)  # says whether it can be read
        logger.warning("%s; entries are read from there, and none are added", error)


def _folder(key: str) -> str:
    return f"{FOLDER}/{key[:2]}/{key}"


def _manifest(key: str) -> str:
    return f"{_folder(key)}.json"


def _object(key: str, file: SharedFile) -> str:
    return f"{_folder(key)}/{file.object}"
