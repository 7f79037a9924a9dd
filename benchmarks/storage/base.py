"""What a folder that machines share can do, wherever it is.

Three things are asked of it and all else is built on them: a file is there whole or not at all, of several writers of
one new name exactly one succeeds, and the time of a file's last change is that of the storage's own clock.
"""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medgraft.errors import ConfigError, MedgraftError

Problem = Literal["full", "read-only", "missing", "unreachable"]


class SharedStorageError(MedgraftError):
    """Shared storage does not do what is asked of it.

    Attributes:
        kind: ``full``, ``read-only`` (or without permission), ``missing`` (no such bucket or folder), or
            ``unreachable``, which credentials that are missing count as.
    """

    def __init__(self, message: str, kind: Problem) -> None:
        super().__init__(message)
        self.kind: Problem = kind


@dataclass(frozen=True)
class Stored:
    """A file in shared storage.

    Attributes:
        size: Bytes.
        modified: Its last change, in seconds since 1970 by the storage's clock.
        tag: Is another one after each change.
    """

    size: int
    modified: float
    tag: str


class Storage(ABC):
    """A folder that machines share. Names are relative, with ``/`` between their parts.

    Attributes:
        url: Where it is, for messages and commands.
        remedy: What to do where it cannot be reached.
    """

    url: str
    remedy: str

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """The content of a file; ``None`` where there is none.

        Raises:
            SharedStorageError: The storage does not answer. So do all other methods.
        """

    @abstractmethod
    def write(self, name: str, data: bytes | Path) -> None:
        """Puts a file there, in place of an earlier one, whole or not at all; ``data`` may be a file of any size."""

    @abstractmethod
    def create(self, name: str, data: bytes | Path) -> bool:
        """Puts a file there unless there is one; of several who try exactly one is told that it did."""

    @abstractmethod
    def download(self, name: str, path: Path) -> bool:
        """Copies a file to ``path`` of this machine; false where there is none.

        Raises:
            SharedStorageError: The storage does not answer.
            OSError: ``path`` cannot be written.
        """

    @abstractmethod
    def listed(self, folder: str) -> dict[str, Stored]:
        """All files below a folder, by name; empty where there is no such folder."""

    @abstractmethod
    def facts(self, name: str) -> Stored | None:
        """Of one file; ``None`` where there is none."""

    @abstractmethod
    def remove(self, names: Iterable[str]) -> None:
        """Removes files, those that are there."""

    def now(self) -> float:
        """What the storage's clock shows, in seconds since 1970; a file is written and removed for it."""
        name = f"claims/probe-{uuid.uuid4().hex}"
        self.write(name, b"")
        facts = self.facts(name)
        self.remove([name])
        if facts is None:
            raise SharedStorageError(f"{self.url} has lost a file that was written just now; try again", "unreachable")
        return facts.modified

    def check(self) -> None:
        """Tries what is asked of a storage, with a small file that is removed again.

        Raises:
            SharedStorageError: It cannot be reached or written.
            ConfigError: It lets two writers make one new file.
        """
        name = f"claims/probe-{uuid.uuid4().hex}"
        try:
            first = self.create(name, b"1")
            if not first or self.create(name, b"2"):
                raise ConfigError(
                    f"{self.url} lets two writers create one file, and results could be lost there; use storage that "
                    "knows conditional writes (If-None-Match), or a folder of a shared file system"
                )
        finally:
            self.remove([name])
