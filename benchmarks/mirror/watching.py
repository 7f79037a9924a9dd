"""Watches sweeps whose results go to shared storage."""

from __future__ import annotations

import time

from medgraft.benchmarks.mirror.place import copy_of
from medgraft.benchmarks.mirror.sync import Sync
from medgraft.benchmarks.storage.opening import open_storage
from medgraft.benchmarks.watch.following import Folder, Status

BETWEEN = 5.0
"""Seconds between two looks at the storage, in which sweeps send their journals as often."""


class SharedFolder(Folder):
    """The sweeps into results at a URL, by their journals; which cells are at work at this moment is not in them.

    Args:
        url: Of the results.

    Raises:
        ConfigError: It names no storage that is known.
    """

    def __init__(self, url: str) -> None:
        super().__init__(copy_of(url))
        self.root.mkdir(parents=True, exist_ok=True)
        self.sync = Sync(self.root, open_storage(url), copy=True, send=False)
        self.looked = float("-inf")

    def look(self, now: float | None = None) -> list[Status]:
        """The sweeps, after the journals have been fetched.

        Raises:
            SharedStorageError: The storage does not answer.
        """
        if time.monotonic() - self.looked >= BETWEEN:
            self.sync.pull_journals()
            self.looked = time.monotonic()
        return super().look(now)
