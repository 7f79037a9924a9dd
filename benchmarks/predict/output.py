"""The table of predictions: written batch by batch, gone on with after an interruption."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from medgraft.commands.plain_text import FORMULA
from medgraft.errors import DataError

GRAFT = "graft"
"""Column that says which weights made a row, so that rows of two grafts never stand in one table."""

QUOTED = (*FORMULA, "'")
"""Beginnings of a cell that get an apostrophe in front: a spreadsheet would run a formula."""


class PredictionTable:
    """A CSV file of predictions.

    Args:
        path: The file; one of the same graft and columns is gone on with.
        columns: Names of its columns.
        graft: Digest of the weights.

    Attributes:
        done: Inputs -> how often they stand there already.

    Raises:
        DataError: The file is there and is of another graft or no such table.
    """

    def __init__(self, path: Path, columns: Sequence[str], graft: str) -> None:
        self.path, self.columns, self.graft = path, [*columns, GRAFT], graft
        self.done: Counter[str] = Counter()
        if path.exists() and path.stat().st_size:
            self._take_up()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append([dict(zip(self.columns, self.columns, strict=True))])

    def _take_up(self) -> None:
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]  # a killed process may have left half a line
        rows = list(csv.reader(whole.decode("utf-8", "replace").splitlines()))
        if not rows or rows[0] != self.columns:
            raise DataError(f"{self.path} is there and is no table of these predictions; name another --out")
        if strange := next((row for row in rows[1:] if len(row) == len(self.columns) and row[-1] != self.graft), None):
            raise DataError(
                f"{self.path} holds predictions of graft {strange[-1]}, not {self.graft}; name another --out"
            )
        if len(whole) != len(content):
            with self.path.open("r+b") as handle:
                handle.truncate(len(whole))
        self.done.update(_as_written(row[0]) for row in rows[1:])

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Appends rows, all or (where the disk is full) an error."""
        self._append([{**row, GRAFT: self.graft} for row in rows])

    def _append(self, rows: Iterable[dict[str, Any]]) -> None:
        try:
            with self.path.open("a", newline="", encoding="utf-8") as handle:
                writer = csv.writer(handle, lineterminator="\n")
                writer.writerows([_cell(row.get(name, "")) for name in self.columns] for row in rows)
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            raise DataError(
                f"{self.path} cannot be written: {error.strerror or error}; what stands there counts"
            ) from error


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = " ".join(str(value).splitlines())
    return f"'{text}" if text.startswith(QUOTED) else text


def _as_written(cell: str) -> str:
    return cell[1:] if cell[:1] == "'" and cell[1:].startswith(QUOTED) else cell
