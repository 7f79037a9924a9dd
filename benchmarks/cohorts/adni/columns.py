"""Columns, dates and subject numbers of ADNI tables in the spellings of their many exports.

A column is found by its letters and digits alone: ``DX_bl``, ``DX.bl`` (exported from R) and ``dx bl`` are one name.
What no spelling settles is never guessed: a date that could be two days, or a subject number in no known form, stays
missing and is counted by the reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.tables.reading import ReadReport, check_columns, read_table, renamed

SEARCH_ALIASES = {
    "Image Data ID": ("Image ID", "Image UID", "LONI UID"),
    "Subject": ("Subject ID", "PTID"),
    "Group": ("Research Group", "Subject Group", "DX Group"),
    "Visit": ("Visit Code", "Image Visit", "MRI Visit", "VISCODE2", "VISCODE"),
    "Description": ("Image Description", "MRI Description", "Series Description"),
    "Acq Date": ("Acquisition Date", "Study Date", "Scan Date", "Image Date", "MRI Date"),
    "Sex": ("Gender", "Subject Sex", "PTGENDER"),
    "Age": ("Subject Age", "Age at Scan"),
    "Modality": ("Image Modality",),
    "Imaging Protocol": (),
}
"""Names of the simple and the advanced search of the image archive, and of its ``All_Images_<date>.csv`` of 2025."""

MERGE_ALIASES = {
    "PTGENDER": ("Gender", "Sex"),
    "PTEDUCAT": ("Education",),
    "APOE4": ("APOE e4",),
    "ADAS13": ("TOTAL13",),
}

MISSING_WORDS = frozenset(("", "-4", "-1", "-", ".", "?", "n/a", "na", "nan", "none", "null", "unknown", "missing"))
"""How tables say that they do not know, in lower case."""

_ROSTER = re.compile(r"^(?:RID\s*)?0*(\d{1,5})(?:\.0)?$", re.IGNORECASE)
_PTID = re.compile(r"^(?:sub-)?(?:ADNI)?[_-]?(\d{1,3})[_-]?S[_-]?(\d{1,5})$", re.IGNORECASE)
_ISO = re.compile(r"^(\d{4})[-/](\d{1,2})[-/](\d{1,2})(?!\d)")
_COMPACT = re.compile(r"^(\d{4})(\d{2})(\d{2})(?:\.0)?$")
_NUMERIC = re.compile(r"^(\d{1,2})([/.-])(\d{1,2})\2(\d{4}|\d{2})(?!\d)")
_NAMED_MONTH = re.compile(r"[A-Za-z]{3}")


def read_spelled(
    path: Path, required: tuple[str, ...], names: Mapping[str, tuple[str, ...]], sep: str = ","
) -> pd.DataFrame:
    """Reads a table and gives its columns their usual names.

    Args:
        path: The file.
        required: Names that must be there in one spelling or another.
        names: Name -> further names that mean the same.
        sep: Field separator.

    Raises:
        DataError: The file cannot be read, or lacks a required column; the message lists those that it has.
    """
    table = renamed(read_table(path, (), sep=sep), {**dict.fromkeys(required, ()), **names})
    check_columns(path, table, required)
    return table


def subject_id(value: Any) -> str:
    """A PTID in ADNI's own form, ``site_S_RID``; any other text as it is.

    Example:
        >>> subject_id("sub-ADNI002S0295"), subject_id("2-s-295"), subject_id(" 002_S_10123 ")
        ('002_S_0295', '002_S_0295', '002_S_10123')
    """
    text = str(value).strip()
    match = _PTID.match(text)
    return f"{int(match.group(1)):03d}_S_{int(match.group(2)):04d}" if match else text


def roster_key(subject: str) -> str:
    """How a table that knows people by roster number (RID) alone names this subject: the end of a PTID is the RID.

    Example:
        >>> roster_key("002_S_0295")
        'RID 295'
    """
    match = _PTID.match(subject)
    return f"RID {int(match.group(2))}" if match else subject


def site_of(subject: str) -> str | None:
    """The site in a PTID, three digits; None for another name of a person."""
    match = _PTID.match(subject)
    return None if match is None else f"{int(match.group(1)):03d}"


def roster_name(value: Any) -> str | None:
    """The name of :func:`roster_key` for a number alone; None for any other text.

    Example:
        >>> roster_name("0295"), roster_name(295.0), roster_name("002_S_0295")
        ('RID 295', 'RID 295', None)
    """
    match = _ROSTER.match(str(value).strip())
    return f"RID {match.group(1)}" if match else None


def to_dates(column: pd.Series, report: ReadReport) -> pd.Series:
    """Dates of a column in any of the forms that the archive and spreadsheets write; NaT for everything else.

    Numbers such as ``3/02/2007`` are month first, as the archive writes them, unless the column itself shows otherwise:
    some first number is above 12 and no second one is. Numbers with points are day first. Two digits are a year of
    this century, since ADNI began in 2004.
    """
    text = column.astype("string").str.strip()
    parts = text.str.extract(_NUMERIC)
    slashed = pd.DataFrame(parts[parts[1].isin(["/", "-"])])
    first, second = (slashed[k].astype(int).to_numpy() for k in (0, 2))
    day_first = bool((first > 12).any() and not (second > 12).any())
    if day_first:
        report.note("date with the day before the month, as other dates of its column show", len(slashed))
    dates = [_one_date(value, day_first) for value in text]
    return pd.Series(pd.to_datetime(pd.Series(dates, index=column.index, dtype=object), errors="coerce"))


def exam_dates(column: pd.Series, report: ReadReport) -> pd.Series:
    """:func:`to_dates`, with a note for words that are no date."""
    dates = to_dates(column, report)
    text: Any = column.astype("string").str.strip().fillna("").str.lower()
    if odd := int((dates.isna() & ~text.isin(MISSING_WORDS)).sum()):
        report.note("date not understood; treated as missing", odd)
    return dates


def _one_date(value: Any, day_first: bool) -> pd.Timestamp | None:
    """A date from one text, or None."""
    if not isinstance(value, str):
        return None
    if match := _ISO.match(value) or _COMPACT.match(value):
        year, month, day = map(int, match.groups())
    elif match := _NUMERIC.match(value):
        a, sign, b, text = match.groups()
        year = int(text) + (2000 if len(text) == 2 else 0)
        day, month = (int(a), int(b)) if day_first or sign == "." else (int(b), int(a))
    elif _NAMED_MONTH.search(value):
        date: Any = pd.to_datetime(value, errors="coerce", format="mixed")
        return None if pd.isna(date) else date.tz_localize(None).normalize()
    else:
        return None
    try:
        stamp: Any = pd.Timestamp(year=year, month=month, day=day)
        return stamp
    except ValueError:
        return None
