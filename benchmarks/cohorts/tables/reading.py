"""What every cohort reader reports: how much it used, what it left out, and why."""

from __future__ import annotations

import csv
import gzip
import io
import json
import logging
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.tables.table_rows import (
    Dialect,
    Rows,
    UnreadableTableError,
    dialect_of,
    shaped,
    small_table,
)
from medgraft.cohort import PHANTOM_MARKER, is_phantom
from medgraft.errors import DataError

__all__ = [
    "PHANTOM_MARKER",
    "SOURCE",
    "ReadReport",
    "UnreadableTableError",
    "check_columns",
    "folded",
    "generator_of",
    "is_phantom",
    "read_many",
    "read_table",
    "renamed",
    "years_of",
]

logger = logging.getLogger(__name__)

SOURCE = "source file"
"""Column of :func:`read_many`."""


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


def read_table(path: Path, required: tuple[str, ...], sep: str = ",", rows: int | None = None) -> pd.DataFrame:
    """Reads a CSV or TSV as strings-where-needed and checks its columns.

    Spreadsheets save the same table in many ways. Read are UTF-8 and UTF-16 with or without a mark, else Windows' own
    letters; a comma, semicolon or tab between fields whatever the file's name says, with decimal commas where it is a
    semicolon; a first line ``sep=;``; rows that end in a separator where the header does not; and R's names of rows.

    Args:
        path: The file, compressed or not.
        required: Column names that must be there; column order never matters.
        sep: Field separator, where the header does not show another.
        rows: Read these many only.

    Returns:
        The table, column names stripped of blanks.

    Raises:
        UnreadableTableError: The file is empty or unreadable, or a row has more fields than the header has names; see
            :mod:`medgraft.benchmarks.cohorts.tables.table_rows`.
        DataError: The file is missing, lacks a required column, or unpacks to more than the limits allow.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; the reader needs this table")
    try:
        dialect = dialect_of(path, sep)
        table = None
        for encoding in (dialect.encoding, "cp1252", "latin-1"):
            try:
                table = _parsed(path, dialect._replace(encoding=encoding), rows)
                break
            except UnicodeDecodeError:
                continue
        assert table is not None  # latin-1 has a letter for every byte
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeError, OSError, EOFError, zlib.error) as error:
        raise UnreadableTableError.of(path, error) from error
    table.columns = [str(column).strip() for column in table.columns]
    check_columns(path, table, required)
    return table


def check_columns(path: Path, table: pd.DataFrame, required: Iterable[str]) -> None:
    """Refuses a table that lacks a column.

    Raises:
        DataError: It does; names the file, the column and those that it has.
    """
    missing = [column for column in required if column not in table.columns]
    if missing:
        raise DataError(f"{path} has no column {', '.join(missing)}; it has: {', '.join(table.columns[:30])}")


def _parsed(path: Path, dialect: Dialect, rows: int | None) -> pd.DataFrame:
    """The table; pandas alone would take the first column for row names wherever a row is longer than the header."""
    how: dict[str, Any] = {"sep": dialect.sep, "decimal": dialect.decimal, "index_col": False, "low_memory": False}
    how["compression"] = "gzip" if dialect.packed else None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            return pd.read_csv(path, encoding=dialect.encoding, skiprows=dialect.skipped, nrows=rows, **how)
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        if isinstance(error, pd.errors.ParserError) and "fields in line" not in str(error):
            raise
    opened: Any = gzip.open if dialect.packed else open
    with opened(path, "rt", encoding=dialect.encoding, newline="") as lines:
        for _ in range(dialect.skipped):
            lines.readline()
        names, fields = shaped(lines, dialect.sep, path)
    return typed(names, fields[:rows], dialect)


def typed(names: list[str], rows: Rows, dialect: Dialect) -> pd.DataFrame:
    """Rows of text as a table, with the types that :func:`read_table` gives them."""
    text = io.StringIO()
    csv.writer(text, delimiter=dialect.sep, lineterminator="\n").writerows([names, *rows])
    text.seek(0)
    return pd.read_csv(text, sep=dialect.sep, decimal=dialect.decimal, index_col=False, low_memory=False)


def folded(name: object) -> str:
    """The letters and digits of a name, in lower case.

    Example:
        >>> folded(" DX.bl "), folded("Image Data ID")
        ('dxbl', 'imagedataid')
    """
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def renamed(table: pd.DataFrame, names: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """The table with its columns under the given names, whichever of their spellings it uses.

    The name itself comes before another spelling of it, and that before its aliases in their order; a column that is
    there under its own name is never replaced.
    """
    there = {folded(column): column for column in reversed(list(table.columns))}
    chosen: dict[str, str] = {}
    for name, aliases in names.items():
        if name in table.columns:
            continue
        header = next((there[folded(each)] for each in (name, *aliases) if folded(each) in there), None)
        if header is not None and header not in chosen:
            chosen[header] = name
    return table.rename(columns=chosen)


_AGE = re.compile(
    r"0*(\d+(?:\.\d+)?)\s*-?\s*(y|yr|yrs|years?|a|m|mo|mos|months?|w|wks?|weeks?|d|days?)\.?", re.IGNORECASE
)


def years_of(text: str) -> float | None:
    """Years of an age with a unit, as DICOM (part 5, 6.2, AS) and people write it; ``None`` without one.

    Example:
        >>> years_of("084Y"), years_of("84 years"), years_of("6M"), years_of("84")
        (84.0, 84.0, 0.5, None)
    """
    match = _AGE.fullmatch(str(text).strip())
    if match is None:
        return None
    return float(match[1]) / {"y": 1, "a": 1, "m": 12, "w": 52.1775, "d": 365.2425}[match[2][0].lower()]


def read_many(
    paths: Sequence[Path], names: Mapping[str, tuple[str, ...]], failed: Callable[[Path, DataError], None], sep: str
) -> pd.DataFrame:
    """Small tables of one kind, one below the other; as fast for twenty thousand as for one.

    Args:
        paths: The files.
        names: Name of a column -> further spellings of it; other columns are left out.
        failed: Told of each file that is no table.
        sep: Field separator, where a header does not show another.

    Returns:
        The named columns, missing values where a file lacks one, and :data:`SOURCE`, the position of the row's file in
        ``paths``. A column that no file has is not there.
    """
    alike: dict[tuple[tuple[str, ...], str], Rows] = {}
    dialects: dict[tuple[tuple[str, ...], str], Dialect] = {}
    for k, path in enumerate(paths):
        try:
            header, rows, dialect = small_table(path, sep)
        except DataError as error:
            failed(path, error)
            continue
        kind = (*header,), dialect.sep
        dialects.setdefault(kind, dialect)
        alike.setdefault(kind, []).extend([str(k), *row] for row in rows)
    parts = []
    for kind, rows in alike.items():
        part = renamed(typed([SOURCE, *kind[0]], rows, dialects[kind]), names)
        parts.append(part[[SOURCE, *(name for name in names if name in part)]])
    if not parts:
        return pd.DataFrame({SOURCE: pd.Series(dtype=int)})
    whole = pd.concat(parts, ignore_index=True)
    return whole.sort_values(SOURCE, kind="stable").reset_index(drop=True)


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
