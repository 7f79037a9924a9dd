"""A folder of results: where each lies, and how it gets there. Predictions stay beside it, on this machine."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from medgraft.benchmarks.results.reading import read_result
from medgraft.benchmarks.results.result import CellResult
from medgraft.benchmarks.results.result_files import KEPT, UnreadableError
from medgraft.benchmarks.results.spec import CellSpec
from medgraft.benchmarks.results.writing import write_arrays, write_atomically
from medgraft.benchmarks.texts import table as texts
from medgraft.errors import MedgraftError
from medgraft.task.names import name_in_keys

logger = logging.getLogger(__name__)


def safe_name(name: str) -> str:
    """A name as a folder: what file systems dislike becomes ``_``.

    Example:
        >>> safe_name("open_clip:hf-hub:org/Model@random")
        'open_clip_hf-hub_org_Model@random'
    """
    safe = re.sub(r"[^\w.@+-]", "_", name)
    if len(safe) <= 120:
        return safe
    return f"{safe[:100]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"  # a long path; file systems stop at 255


class ResultStore:
    """A folder of results, ``<encoder>/<adapter>/<task>/<key>.json``.

    Args:
        root: The folder; made when the first result is stored.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)

    def check_writable(self) -> None:
        """Fails early where results cannot be stored.

        Raises:
            MedgraftError: The folder cannot be made or written to.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root) as handle:
                handle.write(b"x")
        except OSError as error:
            raise MedgraftError(
                f"results folder {self.root} cannot be written: {error}; choose another --results"
            ) from error

    def path(self, spec: CellSpec) -> Path:
        """Where the result of ``spec`` lies or will lie; one in the folder of the task's former name stays there."""
        folder, name = self.root / safe_name(spec.encoder) / safe_name(spec.adapter), f"{spec.key()}.json"
        path, former = folder / safe_name(spec.task) / name, folder / safe_name(name_in_keys(spec.task)) / name
        return former if former.is_file() and not path.is_file() else path

    def get(self, spec: CellSpec) -> CellResult | None:
        """The stored result, or ``None`` where there is none or it cannot be read."""
        path = self.path(spec)
        return _read(path) if path.is_file() else None

    def cite(self, spec: CellSpec, suites: Iterable[str]) -> None:
        """Has a stored result cite suites that it is of; nothing else in it changes.

        Raises:
            StorageError: It cannot be written.
        """
        result = self.get(spec)
        if result is None or set(suites) <= set(result.suites):
            return
        changed = result.model_copy(update={"suites": list(dict.fromkeys([*result.suites, *suites]))})
        text = changed.model_dump_json(indent=1) + "\n"
        try:
            write_atomically(self.path(spec), lambda handle: handle.write(text.encode()))
        except OSError as error:
            raise StorageError(self.root, error) from error

    def log_path(self, spec: CellSpec) -> Path:
        """Where what the cell of ``spec`` wrote to its terminal lies or will lie."""
        return self.path(spec).with_suffix(".log")

    def graft_path(self, spec: CellSpec) -> Path:
        """Where the trained graft of the cell of ``spec`` lies, or will lie if it is kept."""
        return self.path(spec).with_suffix(KEPT)

    def put_graft(self, spec: CellSpec, folder: Path) -> None:
        """Moves a trained graft to its place, in place of an earlier one.

        Raises:
            StorageError: It cannot be written.
        """
        place = self.graft_path(spec)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(place, ignore_errors=True)
            os.replace(folder, place)
        except OSError as error:
            raise StorageError(self.root, error) from error

    def put(
        self, result: CellResult, predictions: Mapping[str, np.ndarray] | None = None, log: str | None = None
    ) -> Path:
        """Stores a result; predictions ``[n, ...]`` first, so that a result that can be seen is complete.

        Args:
            result: Of a cell; names the log where there is one.
            predictions: Arrays to be kept beside it.
            log: What the cell wrote to its terminal, to be kept beside it; an older log goes.

        Raises:
            StorageError: It cannot be written; an earlier result of the cell is still there.
        """
        path = self.path(result.spec)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_file() and _read(path) is None:
                os.replace(path, path.with_suffix(".json.old"))  # of another schema, or damaged: kept, not overwritten
            if log is None:
                self.log_path(result.spec).unlink(missing_ok=True)
            else:
                write_atomically(self.log_path(result.spec), lambda handle: handle.write(log.encode()))
            if predictions is not None:
                write_arrays(path.with_suffix(".npz"), predictions)
                result = _with_texts(path, result, predictions)
            text = result.model_dump_json(indent=1) + "\n"
            write_atomically(path, lambda handle: handle.write(text.encode()))
        except OSError as error:
            raise StorageError(self.root, error) from error
        return path


def _with_texts(path: Path, result: CellResult, predictions: Mapping[str, np.ndarray]) -> CellResult:
    """A result that lists the table of its generated texts, which is written beside it where it has any."""
    if not texts.has_texts(predictions):
        return result
    table, place = texts.table_of(predictions), path.with_name(f"{path.stem}{texts.SUFFIX}")
    if texts.can_write():
        write_atomically(place, lambda handle: handle.write(texts.as_parquet(table)))
    else:
        logger.warning("the texts of %s are in its predictions alone: %s", path.name, texts.MISSING)
    facts = texts.listed(place.name if texts.can_write() else "", table)
    return result.model_copy(update={"data": {**result.data, "texts": facts}})


class StorageError(MedgraftError):
    """A result cannot be stored: the disk is full, read-only or over its quota."""

    def __init__(self, folder: Path, error: OSError) -> None:
        """Builds the sentence from the folder and what the system said."""
        where = f" ({error.filename})" if error.filename else ""
        reason = f"{error.strerror or error}{where}"
        super().__init__(
            f"results folder {folder} cannot be written: {reason}; make room, or give another --results; "
            "what was finished is stored, and the same command goes on from there"
        )


def _read(path: Path) -> CellResult | None:
    try:
        return read_result(path)
    except UnreadableError as error:
        logger.warning("%s is left out: %s", path, error)
        return None
