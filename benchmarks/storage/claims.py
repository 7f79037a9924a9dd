"""Claims on work that several machines could do: who has one does it, and a claim ends with the process that has it.

A process says that it is alive by writing a file ``holders/ID`` every few seconds. A claim on a name is a file
``claims/NAME/NUMBER``, new by its number, that names its holder; the highest number counts. A holder that has been
silent for long is dead, and whoever then creates the next number has taken over. Silence is measured by the storage's
own clock alone: how much older the other's sign of life is than one's own of just now. What the clocks of the machines
show does not matter.

A claim saves work, and nothing rests on it: a machine that was suspended may come back and finish what another has
taken over, and what both then write must be new, or is refused.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from medgraft.benchmarks.storage.base import SharedStorageError, Storage

logger = logging.getLogger(__name__)

HOLDERS, CLAIMS = "holders", "claims"
BEAT = 10.0
"""Seconds between two signs of life."""
PATIENCE = 60.0
"""Seconds of silence, by the storage's clock, after which a holder is taken for dead."""


class Claims:
    """The claims of this process on work in a shared storage; a context that gives all of them up.

    Args:
        storage: Where claims lie.
        beat: Seconds between two signs of life.
        patience: Seconds of silence after which another holder is dead; several beats.
    """

    def __init__(self, storage: Storage, beat: float = BEAT, patience: float = PATIENCE) -> None:
        self.storage, self.beat, self.patience = storage, beat, patience
        self.id = f"{uuid.uuid4().hex}"
        self.held: dict[str, str] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def take(self, name: str) -> bool:
        """Claims a name; false where another living process has it.

        Raises:
            SharedStorageError: The storage does not answer.
        """
        if name in self.held:
            return True
        self._live()
        latest = self._latest(name)
        number = 0
        if latest is not None:
            number, holder = latest
            if holder != self.id and self._is_alive(holder):
                return False
        file = f"{CLAIMS}/{name}/{number + 1:08d}"
        if not self.storage.create(file, json.dumps({"holder": self.id}).encode()):
            return False
        now = self._latest(name)
        if now is not None and now[1] != self.id:
            self.storage.remove([file])  # a listing was old, and a number was made again that had been given up
            return False
        self.held[name] = file
        if number:
            self.storage.remove(
                [each for each in self.storage.listed(f"{CLAIMS}/{name}") if each != file and each < file]
            )
        return True

    def give_up(self, name: str) -> None:
        """Gives a claim back; one that cannot be removed ends with this process."""
        if (file := self.held.pop(name, None)) is not None:
            with suppress(SharedStorageError):
                self.storage.remove([file])

    def wait(self, name: str, until: Callable[[], bool], look: float = 1.0, most: float = 10.0) -> bool:
        """Waits while another has a claim; true once ``until`` is, false once the claim is this process's.

        Args:
            name: What is claimed.
            until: Whether that is done which the other has claimed it for.
            look: Seconds before the second look; each next wait is longer by half.
            most: Longest wait.
        """
        while True:
            if until():
                return True
            if self.take(name):
                if until():  # it was done between the two looks
                    self.give_up(name)
                    return True
                return False
            time.sleep(look)
            look = min(look * 1.5, most)

    def close(self) -> None:
        """Gives up all claims, and says that this holder has gone."""
        if os.getpid() != self._process:
            return  # a fork has no thread, and the claims are its parent's
        self._stop.set()
        if self._thread is not None:
            self._thread.join(self.beat)
        for name in list(self.held):
            self.give_up(name)
        if self._thread is not None:
            with suppress(SharedStorageError):
                self.storage.remove([f"{HOLDERS}/{self.id}"])

    def _live(self) -> None:
        """Begins to give signs of life."""
        if self._thread is None:
            self._sign()
            self._thread = threading.Thread(target=self._beat_on, name="medgraft-claims", daemon=True)
            self._thread.start()

    def _sign(self) -> None:
        self.storage.write(f"{HOLDERS}/{self.id}", os.urandom(8).hex().encode())

    def _beat_on(self) -> None:
        while not self._stop.wait(self.beat):
            with suppress(SharedStorageError):  # whoever asks for the storage next will be told
                self._sign()

    def _latest(self, name: str) -> tuple[int, str] | None:
        """The number and the holder of the claim that counts."""
        for file in sorted(self.storage.listed(f"{CLAIMS}/{name}"), reverse=True):
            number = file.rpartition("/")[2]
            if number.isdigit() and (content := self.storage.read(file)) is not None:
                try:
                    return int(number), str(json.loads(content)["holder"])
                except (ValueError, KeyError, TypeError):
                    return int(number), ""
        return None

    def _is_alive(self, holder: str) -> bool:
        other = self.storage.facts(f"{HOLDERS}/{holder}") if holder.isalnum() else None
        if other is None:
            return False
        self._sign()
        own = self.storage.facts(f"{HOLDERS}/{self.id}")
        return own is None or own.modified - other.modified <= self.patience


def clear_holders(storage: Storage, age: float) -> int:
    """Removes what holders that were killed have left; returns how many files.

    Args:
        storage: Where claims lie.
        age: Seconds of silence, by the storage's clock.
    """
    files, now = {**storage.listed(HOLDERS), **storage.listed(CLAIMS)}, storage.now()
    old = {name for name, facts in files.items() if now - facts.modified > age}
    living = {name.rpartition("/")[2] for name in files if name.startswith(f"{HOLDERS}/") and name not in old}
    gone = [name for name in old if name.startswith(f"{HOLDERS}/") or _holder(storage, name) not in living]
    storage.remove(gone)
    return len(gone)


def _holder(storage: Storage, claim: str) -> str:
    try:
        return str(json.loads(storage.read(claim) or b"{}").get("holder", ""))
    except (ValueError, AttributeError):
        return ""
