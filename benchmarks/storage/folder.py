"""A folder of a file system that machines share, NFS among them: no locks, only links and renames."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from medgraft.benchmarks.storage.base import SharedStorageError, Storage, Stored
from medgraft.errors import ConfigError

FULL = (errno.ENOSPC, errno.EDQUOT)
READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)
HALF = ".half-"
"""Beginning of the name of a file that is being written."""
TRIES = 20
"""To make a file in a folder that another process removes at the same time, since it is empty."""
OLD = 24 * 3600.0
"""Seconds, by the file system's clock, after which such a file is one that a killed process left."""


class FolderStorage(Storage):
    """A folder of a shared file system.

    A file is written beside its place under a name of its own. It is renamed to replace another, and linked where it
    must be new: a link fails if the name exists, on network file systems too.

    Args:
        root: The folder; made when the first file is put there.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.url = str(root)
        self.remedy = "mount it, or name another folder"

    def read(self, name: str) -> bytes | None:
        """The content of a file; ``None`` where there is none."""
        with self._asked():
            try:
                return (self.root / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def write(self, name: str, data: bytes | Path) -> None:
        """Puts a file there, in place of an earlier one."""
        with self._asked():
            self._put(name, data, os.replace)

    def create(self, name: str, data: bytes | Path) -> bool:
        """Puts a file there unless there is one."""
        with self._asked():
            try:
                self._put(name, data, _link)
            except FileExistsError:
                # A link that a network file system has made and whose answer was lost is tried again by the system.
                return isinstance(data, bytes) and self.read(name) == data
            return True

    def download(self, name: str, path: Path) -> bool:
        """Copies a file to this machine; false where there is none."""
        try:
            source = (self.root / name).open("rb")
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            raise self._error(error) from error
        with source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        return True

    def listed(self, folder: str) -> dict[str, Stored]:
        """All files below a folder, but those that are being written."""
        found: dict[str, Stored] = {}
        with self._asked():
            for path in self._walk(self.root / folder):
                with suppress(FileNotFoundError):
                    if not path.name.startswith(HALF):
                        found[path.relative_to(self.root).as_posix()] = _facts(path)
        return found

    def facts(self, name: str) -> Stored | None:
        """Of one file; ``None`` where there is none."""
        with self._asked():
            try:
                return _facts(self.root / name)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def remove(self, names: Iterable[str]) -> None:
        """Removes files and the folders that are empty then."""
        with self._asked():
            for name in names:
                path = self.root / name
                path.unlink(missing_ok=True)
                for parent in path.parents[: len(Path(name).parts) - 1]:
                    try:
                        parent.rmdir()
                    except OSError:
                        break

    def check(self) -> None:
        """Tries to write, and removes what killed processes were writing."""
        with self._asked():
            self.root.mkdir(parents=True, exist_ok=True)
        super().check()
        self._clear()

    def _clear(self) -> None:
        """Removes half files that are a day older than one that was written just now."""
        with self._asked():
            probe = self.root / f"{HALF}{uuid.uuid4().hex}"
            probe.touch()
            now = probe.stat().st_mtime
            probe.unlink()
            for path in self._walk(self.root):
                with suppress(OSError):  # gone meanwhile, or of somebody else
                    if path.name.startswith(HALF) and now - path.stat().st_mtime > OLD:
                        path.unlink()

    def _walk(self, folder: Path) -> Iterator[Path]:
        for parent, _, names in os.walk(folder):
            yield from (Path(parent) / name for name in names)

    def _put(self, name: str, data: bytes | Path, finish: Callable[[Path, Path], object]) -> None:
        path = self.root / name
        half = path.with_name(f"{HALF}{uuid.uuid4().hex}")
        for left in reversed(range(TRIES)):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with half.open("wb") as handle:
                    if isinstance(data, bytes):
                        handle.write(data)
                    else:
                        with data.open("rb") as source:
                            shutil.copyfileobj(source, handle, 1 << 20)
                    handle.flush()
                    os.fsync(handle.fileno())
                finish(half, path)
                return
            except FileNotFoundError:
                if not left:  # another process removed the folder, which was empty, the moment before
                    raise
            finally:
                half.unlink(missing_ok=True)

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """Turns what the system says into one sentence."""
        try:
            yield
        except OSError as error:
            raise self._error(error) from error

    def _error(self, error: OSError) -> SharedStorageError:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            return SharedStorageError(f"shared folder {self.url} is full ({reason}); make room on it", "full")
        if error.errno in READ_ONLY:
            text = f"shared folder {self.url} cannot be written ({reason}); get the right to write, or {self.remedy}"
            return SharedStorageError(text, "read-only")
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return SharedStorageError(f"shared folder {self.url} is not there ({reason}); {self.remedy}", "missing")
        return SharedStorageError(
            f"shared folder {self.url} cannot be reached ({reason}); {self.remedy}", "unreachable"
        )


def _link(half: Path, path: Path) -> None:
    try:
        os.link(half, path)
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        raise ConfigError(
            f"the file system of {path.parent} has no hard links, by which one of several writers is told that it was "
            "the first; name a folder of another file system, or object storage"
        ) from error


def _facts(path: Path) -> Stored:
    facts = path.stat()
    return Stored(facts.st_size, facts.st_mtime, f"{facts.st_mtime_ns}-{facts.st_size}-{facts.st_ino}")
