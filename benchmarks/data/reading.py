"""What every cohort reader reports: how much it used, what it left out, and why."""

from __future__ import annotations

import json
import logging
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from medgraft.errors import DataError

logger = logging.getLogger(__name__)

PHANTOM_MARKER = "PHANTOM"


@dataclass
class ReadReport:
    """Counts of what a reader met. Holds no identifier, so it may be stored in a result.

    Attributes:
        used: Rows that ended in the table.
        skipped: Reason -> number of rows left out for it.
        notes: Reason -> number of rows that were kept but repaired (a converted label, a value read from ``>1700``).
    """

    used: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)

    def skip(self, reason: str, detail: object = None, count: int = 1) -> None:
        """Counts ``count`` rows as left out; ``detail`` goes to the debug log only, since it may identify a person."""
        self.skipped[reason] += count
        if detail is not None:
            logger.debug("skipped (%s): %s", reason, detail)

    def note(self, reason: str, count: int = 1) -> None:
        """Counts ``count`` rows as kept but repaired."""
        self.notes[reason] += count


def read_table(path: Path, required: tuple[str, ...], sep: str = ",") -> pd.DataFrame:
    """Reads a CSV or TSV as strings-where-needed and checks its columns.

    Args:
        path: The file.
        required: Column names that must be there; column order never matters.
        sep: Field separator.

    Returns:
        The table, column names stripped of blanks.

    Raises:
        DataError: The file is missing, empty or unreadable, or lacks a required column.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; the reader needs this table")
    try:
        table = pd.read_csv(path, sep=sep, low_memory=False, encoding="utf-8-sig")
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
        OSError,
        EOFError,
        zlib.error,
    ) as error:
        raise DataError(f"{path} is not a readable table ({error}); export it again as text with a header") from error
    table.columns = [str(column).strip() for column in table.columns]
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(table.columns[:30])}")
    return table


def is_phantom(root: Path) -> bool:
    """True where ``root`` or one of its two parents carries the marker file that every generated cohort has."""
    return any((folder / PHANTOM_MARKER).is_file() for folder in (root, *list(root.parents)[:2]))


def generator_of(root: Path) -> str | None:
    """Version of the generator that the marker of a phantom names; ``None`` for a real cohort."""
    for folder in (root, *list(root.parents)[:2]):
        marker = folder / PHANTOM_MARKER
        if marker.is_file():
            try:
                return str(json.loads(marker.read_text(encoding="utf-8"))["generator"])
            except (ValueError, KeyError, TypeError):
                return "unknown"
    return None
