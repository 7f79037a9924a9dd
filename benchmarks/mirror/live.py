"""A sweep whose results go to shared storage as they come, beside other sweeps that do the same there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

from medgraft.benchmarks.mirror.place import warn_of
from medgraft.benchmarks.mirror.sync import Sync
from medgraft.benchmarks.mirror.units import unit_of, units_below
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.store import ResultStore
from medgraft.benchmarks.storage.base import SharedStorageError
from medgraft.benchmarks.storage.claims import Claims
from medgraft.benchmarks.storage.opening import open_storage
from medgraft.errors import MedgraftError

logger = logging.getLogger(__name__)

BEAT = 5.0
"""Seconds between two copies of the journal."""
LOOK = 5.0
"""Seconds between two looks at a cell that another sweep runs."""
PAUSE = 60.0
"""Seconds for which storage that has failed is not asked whose turn it is."""
SENDING = 4
"""Units that are sent at a time."""


class SharedResults:
    """Results at a URL, and the folder of this machine that a sweep works in; a context that ends its claims.

    Args:
        url: Of the storage.
        folder: A copy of what is there; what the sweep stores goes through it.

    Raises:
        MedgraftError: The storage cannot be reached or written; nothing has run then.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.storage = open_storage(url)
        self.url, self.store = self.storage.url, ResultStore(folder)
        try:
            self.storage.check()
        except SharedStorageError as error:
            raise MedgraftError(f"--results: {error}") from error
        self.store.check_writable()
        self.sync = Sync(folder, self.storage, copy=True, trials=False)
        self.claims = Claims(self.storage)
        self._pool = ThreadPoolExecutor(SENDING)
        self._sending: list[Future[None]] = []
        self._looked: dict[str, float] = {}
        self._beaten = self._asked_again = 0.0
        self._beat: Future[None] | None = None
        self._failing = ""

    def __enter__(self) -> SharedResults:
        warn_of(self.sync.run(), self.url)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)  # what was not sent is sent when the command runs again
        self.claims.close()

    def next_of(self, waiting: Iterable[CellSpec]) -> tuple[CellSpec, CellResult | None] | None:
        """The first cell that no other sweep is at: to be run, or with the result that another sweep has just left.

        Args:
            waiting: Cells that this sweep still has to do.

        Returns:
            ``None`` where others are at all of them, or at those that were looked at lately.
        """
        for spec in waiting:
            key, now = spec.key(), time.monotonic()
            if now < self._asked_again:
                return spec, None  # without the storage nobody knows, and work that is done twice is not lost
            if now - self._looked.get(key, float("-inf")) < LOOK:
                continue
            try:
                mine = self.claims.take(key)
                arrived = self.sync.pull(self._name(spec))  # also where a claim has outlived its cell
            except SharedStorageError as error:
                self._told(error)
                self._asked_again = now + PAUSE
                return spec, None
            if arrived and (result := self.store.get(spec)) is not None:
                if mine:
                    self.claims.give_up(key)
                return spec, result
            if mine:
                return spec, None
            self._looked[key] = now
        return None

    def stored(self, result: CellResult) -> None:
        """Sends a result that has been stored in the folder, in the background, and ends its claim."""
        self._sending = [each for each in self._sending if not each.done()]
        self._sending.append(self._pool.submit(self._send, result))

    def beat(self, journal: Path) -> None:
        """Sends the sweep's journal from time to time."""
        if time.monotonic() - self._beaten >= BEAT:
            self._beaten = time.monotonic()
            if self._beat is None or self._beat.done():
                self._beat = self._pool.submit(self._attempt, lambda: self.sync.push_journal(journal))

    def settle(self) -> str:
        """Brings folder and storage into step at the end; what is wrong, in words, empty if nothing is."""
        for each in self._sending:
            each.result()
        try:
            report = self.sync.run()
        except MedgraftError as error:
            return (
                f"{error}; what was finished is in {self.store.root}, and `medgraft results sync {self.store.root} "
                f"{self.url}` sends it"
            )
        warn_of(report, self.url)
        if report.refused:
            first = next(iter(report.refused))
            return (
                f"{self.url} has other numbers for {len(report.refused)} of these results, such as {first}; compare "
                f"them with `medgraft diff`, and say which stay with `medgraft results sync {self.store.root} "
                f"{self.url} --prefer local` or `shared`"
            )
        return ""

    def _name(self, spec: CellSpec) -> str:
        return self.store.path(spec).relative_to(self.store.root).with_suffix("").as_posix()

    def _send(self, result: CellResult) -> None:
        path, root = self.store.path(result.spec), self.store.root
        self._attempt(lambda: self.sync.push(unit_of(root, path)))
        key = result.spec.key()
        for unit in units_below(path.parent).values():
            if unit.name.startswith(f"{key}."):  # tests of its graft on other cohorts
                head = path.parent / unit.head
                self._attempt(lambda head=head: self.sync.push(unit_of(root, head)))
        self.claims.give_up(key)

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
            self._failing = ""
        except (MedgraftError, OSError, StopIteration) as error:
            self._told(error)

    def _told(self, error: Exception) -> None:
        """Warns once while the storage fails in one way."""
        if str(error) != self._failing:
            self._failing = str(error)
            logger.warning("%s; the sweep goes on, and sends its results when it ends", error)
