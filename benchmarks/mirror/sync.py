"""Keeps a folder of results in step with shared storage: both ways, what is missing or newer, and nothing overwritten.

In storage a unit is ``cells/NAME.zip``, and the journals of sweeps are ``sweeps/*.sweep.jsonl`` as in a folder. What
both had when they were last in step stands in ``.shared.json`` of the folder, which only saves reading: without it
every unit is fetched and compared.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from medgraft.benchmarks.mirror.comparing import compared
from medgraft.benchmarks.mirror.units import DamagedUnitError, Unit, is_tidy, pack, units_below, unpack
from medgraft.benchmarks.results.result_files import TRIAL_SUFFIX
from medgraft.benchmarks.results.store import StorageError
from medgraft.benchmarks.results.writing import write_atomically
from medgraft.benchmarks.storage.base import SharedStorageError, Storage, Stored
from medgraft.benchmarks.watch.journal import ENDING
from medgraft.benchmarks.watch.journal import FOLDER as SWEEPS

logger = logging.getLogger(__name__)

CELLS, ARCHIVE = "cells", ".zip"
STATE = ".shared.json"
AT_ONCE = 8
"""Units that are sent or fetched at a time."""

Side = Literal["local", "shared"]


@dataclass
class Report:
    """What was done with which units.

    Attributes:
        sent: They went to shared storage.
        fetched: They came from there.
        removed: They went here, since they were removed there.
        kept: The two sides have them with the same numbers, and both stay.
        refused: Unit -> what the two sides do not agree on.
        damaged: Unit -> what is wrong with what shared storage has.
    """

    sent: list[str] = field(default_factory=list[str])
    fetched: list[str] = field(default_factory=list[str])
    removed: list[str] = field(default_factory=list[str])
    kept: list[str] = field(default_factory=list[str])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    damaged: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Base:
    """What both sides had: the tag of the archive, and the mark of the files."""

    tag: str
    mark: str


class Sync:
    """A folder and the storage that it is kept in step with. Several threads may use it.

    Args:
        folder: Of results, of this machine.
        storage: That machines share.
        copy: The folder is nothing but a copy: what was removed in the storage goes from it as well.
        send: Send what the storage lacks; a reader may not.
        prefer: Whose result stays where the two sides have other numbers; ``None`` refuses to overwrite either.
        trials: Trials of ``--tune`` too; those of two sweeps that search at the same time are not the same.
    """

    def __init__(
        self,
        folder: Path,
        storage: Storage,
        *,
        copy: bool = False,
        send: bool = True,
        prefer: Side | None = None,
        trials: bool = True,
    ) -> None:
        self.folder, self.storage, self.copy, self.send, self.prefer = folder, storage, copy, send, prefer
        self.trials = trials
        self.report = Report()
        self._lock = threading.Lock()
        self._bases = self._read_bases()

    def run(self) -> Report:
        """Brings the two into step.

        Raises:
            SharedStorageError: The storage does not answer, or takes nothing.
            StorageError: The folder cannot be written.
        """
        self.report = Report()
        files = self.storage.listed(CELLS)
        there = {name[len(CELLS) + 1 : -len(ARCHIVE)]: facts for name, facts in files.items() if name.endswith(ARCHIVE)}
        here = units_below(self.folder) if self.folder.is_dir() else {}
        names = sorted({name for name in there if is_tidy(name)} | here.keys())
        if not self.trials:
            names = [name for name in names if not f"{name}.json".endswith(TRIAL_SUFFIX)]
        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for _ in pool.map(lambda name: self._settle(name, here.get(name), there.get(name)), names):
                    pass
            self._journals()
        except OSError as error:
            raise StorageError(self.folder, error) from error
        finally:
            self._write_bases()
        return self.report

    def push(self, unit: Unit) -> None:
        """Sends one unit that has just been stored here.

        Raises:
            SharedStorageError: The storage does not take it.
        """
        self._settle(unit.name, unit, self.storage.facts(_archive(unit.name)))

    def pull(self, name: str) -> bool:
        """Fetches one unit if shared storage has another one than when the two were last in step.

        Returns:
            Whether it had, and the two are in step now.

        Raises:
            SharedStorageError: The storage does not answer.
        """
        facts, base = self.storage.facts(_archive(name)), self._bases.get(name)
        if facts is None or (base is not None and base.tag == facts.tag):
            return False
        here = units_below(self.folder / Path(name).parent).get(Path(name).name)
        unit = None if here is None else Unit(name, [str(Path(name).parent / file) for file in here.files])
        self._settle(name, unit, facts)
        now = self._bases.get(name)
        return now is not None and now.tag == facts.tag

    def push_journal(self, path: Path) -> None:
        """Sends the journal of a sweep that runs here.

        Raises:
            SharedStorageError: The storage does not take it.
        """
        with suppress(OSError):
            self.storage.write(f"{SWEEPS}/{path.name}", path.read_bytes())

    def pull_journals(self) -> None:
        """Fetches journals that are longer, or gave a later sign of life, than the copies here.

        Raises:
            SharedStorageError: The storage does not answer.
            OSError: The folder cannot be written.
        """
        files = {name: facts for name, facts in self.storage.listed(SWEEPS).items() if _is_journal(name)}
        if not files:
            return
        try:
            now = self.storage.now()
        except SharedStorageError:  # it may only be read
            now = time.time()
        (self.folder / SWEEPS).mkdir(parents=True, exist_ok=True)
        for name, facts in files.items():
            path = self.folder / name
            longer = not path.is_file() or path.stat().st_size < facts.size
            if longer and (content := self.storage.read(name)) is not None:
                write_atomically(path, lambda handle, content=content: handle.write(content))
            # A sign of life is as old as the storage's clock says, whatever the clock here shows.
            life = time.time() - max(0.0, now - facts.modified)
            with suppress(FileNotFoundError):
                if longer or life > path.stat().st_mtime:
                    os.utime(path, (life, life))

    def _journals(self) -> None:
        if self.send:
            files = self.storage.listed(SWEEPS)
            for path in (self.folder / SWEEPS).glob(f"*{ENDING}"):
                known = files.get(f"{SWEEPS}/{path.name}")
                if known is None or known.size < path.stat().st_size:
                    self.push_journal(path)
        self.pull_journals()

    def _settle(self, name: str, here: Unit | None, there: Stored | None) -> None:
        """Does with one unit what is to be done."""
        base = self._bases.get(name)
        if here is None:
            if there is not None:
                self._fetch(name, there)
        elif there is None:
            if self.copy and base is not None and base.mark == here.mark(self.folder):
                for file in here.files:
                    (self.folder / file).unlink(missing_ok=True)
                self._note(self.report.removed, name, None)
            elif self.send:
                self._send(here, new=True)
        elif base is None or base.tag != there.tag or base.mark != here.mark(self.folder):
            self._compare(here, there, base)

    def _compare(self, here: Unit, there: Stored, base: Base | None) -> None:
        with tempfile.TemporaryDirectory(prefix="medgraft-sync-") as temporary:
            place, other = Path(temporary) / "archive", Path(temporary) / "files"
            other.mkdir()
            try:
                if not self.storage.download(_archive(here.name), place):
                    return  # it was removed just now; the next time says
                unit = unpack(place, here.name, other)
            except DamagedUnitError as error:
                self.report.damaged[here.name] = str(error)
                if self.send:
                    self._send(here, new=False)
                return
            mark = here.mark(self.folder)
            verdict = compared(
                self.folder,
                here,
                other,
                unit,
                changed_here=base is None or base.mark != mark,
                changed_there=base is None or base.tag != there.tag,
            )
            way = verdict.way
            if way == "refuse" and self.prefer is not None:
                way = "push" if self.prefer == "local" else "pull"
            if way == "refuse":
                self.report.refused[here.name] = verdict.why
            elif way == "push":
                if self.send:
                    self._send(here, new=False)
            elif way == "pull":
                self._note(self.report.fetched, here.name, Base(there.tag, self._unpacked(place, here.name)))
            else:
                kept = self.report.kept if way == "keep" else []
                self._note(kept, here.name, Base(there.tag, mark))

    def _fetch(self, name: str, there: Stored) -> None:
        with tempfile.TemporaryDirectory(prefix="medgraft-sync-") as temporary:
            place = Path(temporary) / "archive"
            for last in (False, True):
                if not self.storage.download(_archive(name), place):
                    return
                try:
                    mark = self._unpacked(place, name)
                except DamagedUnitError as error:
                    if last:
                        self.report.damaged[name] = str(error)
                    continue
                self._note(self.report.fetched, name, Base(there.tag, mark))
                return

    def _unpacked(self, place: Path, name: str) -> str:
        return unpack(place, name, self.folder).mark(self.folder)

    def _send(self, unit: Unit, *, new: bool) -> None:
        """Sends a unit.

        Args:
            unit: Of this folder.
            new: There is none yet; where another machine is first, the two are compared.
        """
        name = _archive(unit.name)
        with tempfile.TemporaryDirectory(prefix="medgraft-sync-") as temporary:
            place, mark = Path(temporary) / "archive", unit.mark(self.folder)
            pack(self.folder, unit, place)
            if not new:
                self.storage.write(name, place)
            elif not self.storage.create(name, place):
                there = self.storage.facts(name)
                if there is not None:
                    self._compare(unit, there, None)
                return
            facts = self.storage.facts(name)
            self._note(self.report.sent, unit.name, None if facts is None else Base(facts.tag, mark))

    def _note(self, units: list[str], name: str, base: Base | None) -> None:
        with self._lock:
            units.append(name)
            if base is None:
                self._bases.pop(name, None)
            else:
                self._bases[name] = base

    def _read_bases(self) -> dict[str, Base]:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            state = json.loads((self.folder / STATE).read_text())
            if state["url"] == self.storage.url:
                return {name: Base(str(tag), str(mark)) for name, (tag, mark) in state["units"].items()}
        return {}

    def _write_bases(self) -> None:
        with self._lock:
            state = {"url": self.storage.url, "units": {k: [base.tag, base.mark] for k, base in self._bases.items()}}
        text = json.dumps(state)
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / STATE, lambda handle: handle.write(text.encode()))


def _archive(name: str) -> str:
    return f"{CELLS}/{name}{ARCHIVE}"


def _is_journal(name: str) -> bool:
    return name.endswith(ENDING) and is_tidy(name) and name.count("/") == 1
