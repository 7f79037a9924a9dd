"""What every cohort reader reports: how much it used, what it left out, and why."""

from __future__ import annotations

import codecs
import gzip
import json
import logging
import re
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


class UnreadableTableError(DataError):
    """A file is no table at all: empty, cut off or binary; one of many may be left out and counted."""


def read_table(path: Path, required: tuple[str, ...], sep: str = ",", rows: int | None = None) -> pd.DataFrame:
    """Reads a CSV or TSV as strings-where-needed and checks its columns.

    Spreadsheets save the same table in many ways. Read are UTF-8 and UTF-16 with or without a mark, else Windows' own
    letters; a comma, semicolon or tab between fields whatever the file's name says, with decimal commas where it is a
    semicolon; and a first line ``sep=;``.

    Args:
        path: The file, compressed or not.
        required: Column names that must be there; column order never matters.
        sep: Field separator, where the header does not show another.
        rows: Read these many only.

    Returns:
        The table, column names stripped of blanks.

    Raises:
        UnreadableTableError: The file is empty or unreadable.
        DataError: The file is missing, or lacks a required column.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; the reader needs this table")
    try:
        encoding, sep, skipped = _dialect(path, sep)
        decimal = "," if sep == ";" else "."
        how: dict[str, Any] = {"sep": sep, "low_memory": False, "decimal": decimal, "skiprows": skipped, "nrows": rows}
        try:
            table = pd.read_csv(path, encoding=encoding, **how)
        except UnicodeDecodeError:
            table = pd.read_csv(path, encoding="cp1252", **how)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, OSError, EOFError, zlib.error) as error:
        raise UnreadableTableError(
            f"{path} is not a readable table ({error}); export it again as text with a header"
        ) from error
    table.columns = [str(column).strip() for column in table.columns]
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(table.columns[:30])}")
    return table


def _dialect(path: Path, sep: str) -> tuple[str, str, int]:
    """Encoding, separator and number of lines before the header, from the beginning of the file."""
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rb") as handle:
        content = handle.read(1 << 16)
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b"\0" in content and not utf16:
        raise pd.errors.ParserError("it is binary")
    encoding = "utf-16" if utf16 else "utf-8-sig"
    lines = content.decode(encoding, errors="replace").splitlines()
    skipped = int(bool(lines) and re.fullmatch(r'"?sep=.?"?', lines[0], re.IGNORECASE) is not None)
    header = lines[skipped] if len(lines) > skipped else ""
    counts = {each: header.count(each) for each in (sep, ",", ";", "\t")}
    return encoding, max(counts, key=lambda each: counts[each]), skipped


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
