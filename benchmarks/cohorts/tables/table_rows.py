"""Rows of text tables, and what to make of those that have more fields than the header has names.

A surplus field that is empty in every row is what a comma at the end of each row leaves, and means nothing. A header
that is one name shorter than every row, the first fields of which all differ, is R's: ``write.table`` names the rows
and has no name for that column (R Core Team, "R Data Import/Export", 1.2). Any other surplus field is a comma in a text
without quotes, behind which every column would be another one, so such a table is refused with the line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from medgraft.errors import DataError
from medgraft.files.limits import within_unpacked

Rows = list[list[str]]
LONGEST_FIELD = 1 << 24


class UnreadableTableError(DataError):
    """A file is no table at all: empty, cut off or binary; one of many may be left out and counted."""

    @classmethod
    def of(cls, path: Path, why: object) -> UnreadableTableError:
        """The error for one file."""
        return cls(f"{path} is not a readable table ({why}); export it again as text with a header")


class Dialect(NamedTuple):
    """How a table is written.

    Attributes:
        encoding: Of its letters.
        sep: Between two fields.
        skipped: Lines before the header.
        packed: Whether the file is gzip, whatever its name says.
    """

    encoding: str
    sep: str
    skipped: int
    packed: bool

    @property
    def decimal(self) -> str:
        """What stands before decimals: a comma where fields are separated by semicolons."""
        return "," if self.sep == ";" else "."


def dialect_of(path: Path, sep: str) -> Dialect:
    """The dialect, from the beginning of a file; ``sep`` where its header does not show another.

    Raises:
        UnreadableTableError: It is binary.
        DataError: It is packed and unpacks to more than ``MEDGRAFT_MAX_UNPACKED_BYTES`` allows.
        OSError: It cannot be read.
    """
    with path.open("rb") as handle:
        packed = handle.read(2) == b"\x1f\x8b"
    if packed:
        _check_unpacked(path)
    with gzip.open(path, "rb") if packed else path.open("rb") as handle:
        return dialect_in(handle.read(1 << 16), sep, path)._replace(packed=packed)


def _check_unpacked(path: Path) -> None:
    """Unpacks a file to its end and keeps nothing, so that nobody unpacks it into memory who should not."""
    size, total = path.stat().st_size, 0
    with gzip.open(path, "rb") as handle:
        while piece := handle.read(1 << 20):
            total += len(piece)
            within_unpacked(size, total, str(path), DataError)


def dialect_in(content: bytes, sep: str, path: Path) -> Dialect:
    """The same from the first bytes of the unpacked content."""
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if b"\0" in content and not utf16:
        raise UnreadableTableError.of(path, "it is binary")
    encoding = "utf-16" if utf16 else "utf-8-sig"
    lines = content.decode(encoding, errors="replace").splitlines()
    skipped = int(bool(lines) and re.fullmatch(r'"?sep=.?"?', lines[0], re.IGNORECASE) is not None)
    header = lines[skipped] if len(lines) > skipped else ""
    counts = {each: header.count(each) for each in (sep, ",", ";", "\t")}
    return Dialect(encoding, max(counts, key=lambda each: counts[each]), skipped, packed=False)


def small_table(path: Path, sep: str) -> tuple[list[str], Rows, Dialect]:
    """Names of the columns, rows, and how a small table is written; for tables of which there are thousands.

    Raises:
        UnreadableTableError: The file is no table, or a row does not fit the header.
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            _check_unpacked(path)
            content = gzip.decompress(content)
        dialect = dialect_in(content[: 1 << 16], sep, path)
        text = decoded(content, dialect.encoding)
    except (UnicodeError, OSError, EOFError, zlib.error) as error:
        raise UnreadableTableError.of(path, error) from error
    lines = io.StringIO(text, newline="")
    for _ in range(dialect.skipped):
        lines.readline()
    names, rows = shaped(lines, dialect.sep, path)
    return names, rows, dialect


def decoded(content: bytes, encoding: str) -> str:
    """Text in the encoding that the file shows, else in Windows' letters, else one letter for each byte."""
    for each in (encoding, "cp1252"):
        try:
            return content.decode(each)
        except UnicodeError:
            continue
    return content.decode("latin-1")


def shaped(lines: Iterable[str], sep: str, path: Path) -> tuple[list[str], Rows]:
    """Names and rows, each row as long as there are names or shorter.

    Raises:
        UnreadableTableError: There is no header, or a row has a field that no column is named for; names the line.
    """
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(lines, delimiter=sep)
    try:
        table = [(reader.line_num, row) for row in reader if row]
    except csv.Error as error:
        raise UnreadableTableError.of(path, error) from error
    if not table:
        raise UnreadableTableError.of(path, "it is empty")
    names, rows = [name.strip() for name in table[0][1]], [row for _, row in table[1:]]
    width = len(names)
    surplus = [k for k, row in enumerate(rows) if any(field.strip() for field in row[width:])]
    if not surplus:
        return names, [row[:width] for row in rows]
    if _names_rows(rows, width, len(surplus)):
        return names, [row[1:] for row in rows]
    line, row = table[1 + surplus[0]]
    problem = f"line {line} has {len(row)} fields, the header names {width}"
    raise UnreadableTableError(
        f"{path}: {problem}, and what is beyond is not empty; put quotes around a text that holds {sep!r}, or name "
        "every column"
    )


def _names_rows(rows: Sequence[Sequence[str]], width: int, filled: int) -> bool:
    """Whether the first field of each row is R's name of the row, by what tells it from a text without quotes.

    R writes ``NA`` for what is missing, so the last field is there in every row; in tables of other programs that write
    numbers of rows as R does it may be empty in some.
    """
    firsts = [row[0].strip() for row in rows]
    if any(len(row) != width + 1 for row in rows) or "" in firsts or len(set(firsts)) < len(firsts):
        return False
    if all(name.isdecimal() for name in firsts):
        return 2 * filled >= len(rows)
    return filled == len(rows) > 1  # one row differs from no other
