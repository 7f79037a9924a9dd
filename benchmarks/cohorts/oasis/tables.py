"""Reads OASIS's tables, found by their columns wherever they lie in a download.

OASIS-1 and -2 have one table with a row for each MR session. OASIS-3 has clinical visits (``OASIS3_UDSb4_cdr.csv`` of
today's release, ``ADRC Clinical Data`` of older ones), people (``OASIS3_demographics.csv``) and scanners
(``OASIS3_MR_json.csv``), all dated by days since entry.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.adni.merge import (
    column_of,
    drop_rows,
    in_range,
    map_sex,
    only_agreed,
    records,
    to_ages,
    to_floats,
    to_numbers,
)
from medgraft.benchmarks.cohorts.files.walking import not_raw, walk
from medgraft.benchmarks.cohorts.oasis.images import session_of, study_of, subject_of
from medgraft.benchmarks.cohorts.oasis.labels import ratings
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, read_table, renamed
from medgraft.errors import DataError

SESSIONS, VISITS, PEOPLE, SCANNERS = "sessions", "visits", "people", "scanners"
_ENDS = (".csv", ".tsv", ".csv.gz")
_OF_BIDS = ("_sessions.tsv", "_scans.tsv", "participants.tsv")
_BESIDE = re.compile(r"oasis|adrc", re.IGNORECASE)

_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    SESSIONS: {
        "MRI ID": ("ID", "MR ID", "Session ID"),
        "Group": (),
        "MR Delay": ("Delay",),
        "M/F": ("Sex", "Gender"),
        "Age": (),
        "EDUC": ("Educ", "Education"),
        "MMSE": (),
        "CDR": ("CDR global", "Global CDR"),
        "eTIV": (),
        "nWBV": (),
    },
    VISITS: {
        "OASISID": ("Subject", "OASIS ID"),
        "session": ("OASIS_session_label", "ADRC_ADRCCLINICALDATA ID"),
        "days_to_visit": (),
        "age at visit": (),
        "CDRTOT": ("CDR", "CDR global"),
        "CDRSUM": ("sumbox",),
        "MMSE": (),
        "dx1": (),
    },
    PEOPLE: {
        "OASISID": ("Subject", "OASIS ID"),
        "AgeatEntry": ("ageAtEntry", "age at entry"),
        "GENDER": ("M/F", "Sex"),
        "EDUC": ("education", "educ"),
        "APOE": (),
    },
    SCANNERS: {"label": (), "Manufacturer": (), "ManufacturersModelName": (), "MagneticFieldStrength": ()},
}

EDUCATION_LEVELS = {
    1: "less than high school",
    2: "high school",
    3: "some college",
    4: "college",
    5: "beyond college",
}
"""OASIS-1's column ``Educ`` is a level (its fact sheet), not years as in OASIS-2 and -3."""


@dataclass(frozen=True)
class Found:
    """A table of a known kind.

    Attributes:
        path: The file.
        kind: One of :data:`SESSIONS`, :data:`VISITS`, :data:`PEOPLE` and :data:`SCANNERS`.
    """

    path: Path
    kind: str


def find_tables(root: Path) -> list[Found]:
    """Tables of OASIS below a folder; in the folder above it, by their names, where there is none.

    One table may be of two kinds: ADRC Clinical Data has visits and people.
    """
    within = [found for path in _tables_below(root) for found in _kinds(path)]
    if any(found.kind in (SESSIONS, VISITS) for found in within):
        return within
    beside = (path for path in _entries(root.parent) if _BESIDE.search(path.name) and _is_table(path.name))
    return within + [found for path in beside for found in _kinds(path)]


def tables_digest(root: Path) -> str:
    """Digest of the content of every table that the reader of a folder would read; empty where there is none."""
    whole = hashlib.sha256()
    bids = [Path(here.path, name) for here in walk(root, not_raw) for name in here.files if name.endswith(_OF_BIDS)]
    paths = [*dict.fromkeys(found.path for found in find_tables(root)), *bids]
    for path in paths:
        whole.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest() if paths else ""


def _tables_below(root: Path) -> Iterator[Path]:
    for here in walk(root, not_raw):
        yield from (Path(here.path, name) for name in here.files if _is_table(name))


def _is_table(name: str) -> bool:
    return name.lower().endswith(_ENDS) and not name.endswith(_OF_BIDS)


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_file())
    except OSError:
        return []


def _kinds(path: Path) -> list[Found]:
    """What a table is, by the names of its columns."""
    try:
        header = read_table(path, (), rows=0)
    except DataError:
        return []
    has = {kind: set(renamed(header, names).columns) & names.keys() for kind, names in _NAMES.items()}
    out = []
    if {"MRI ID", "CDR"} <= has[SESSIONS]:
        out.append(SESSIONS)
    if {"OASISID", "CDRTOT"} <= has[VISITS] and has[VISITS] & {"session", "days_to_visit"}:
        out.append(VISITS)
    by_visit = has[VISITS] & {"session", "days_to_visit"}  # a form of UDS may state another sex or schooling each time
    if "OASISID" in has[PEOPLE] and len(has[PEOPLE]) > 1 and ("AgeatEntry" in has[PEOPLE] or not by_visit):
        out.append(PEOPLE)
    if {"label", "MagneticFieldStrength"} <= has[SCANNERS]:
        out.append(SCANNERS)
    return [Found(path, kind) for kind in out]


def _read(tables: Iterable[Found], kind: str) -> pd.DataFrame:
    """All tables of a kind, one below the other, with the columns of that kind as far as one has them."""
    parts = []
    for path in (found.path for found in tables if found.kind == kind):
        part = renamed(read_table(path, ()), _NAMES[kind])
        parts.append(part[[name for name in _NAMES[kind] if name in part]])
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def read_sessions(tables: Iterable[Found], study: str, report: ReadReport) -> pd.DataFrame:
    """Rows of OASIS-1's or OASIS-2's table.

    Returns:
        ``subject``, ``number`` of the session, ``cdr``, ``group``, ``delay`` (days since the first session), ``age``,
        ``sex``, ``education`` (years), ``education_level``, ``MMSE``, ``eTIV`` (cm3), ``nWBV``.
    """
    raw = _read(tables, SESSIONS)
    if raw.empty:
        return raw
    known = [session_of(value) for value in raw["MRI ID"]]
    strange = [each is None for each in known]
    raw = drop_rows(raw, strange, "row of the table without the name of a session (OAS1_0001_MR1)", report)
    pairs = [each for each in known if each is not None]
    level = to_numbers(column_of(raw, "EDUC"), report)
    years = in_range("education", level, report)
    rows = pd.DataFrame(
        {
            "subject": [subject for subject, _ in pairs],
            "number": [number for _, number in pairs],
            "cdr": ratings(to_numbers(column_of(raw, "CDR"), report), report),
            "group": column_of(raw, "Group").astype(object),
            "delay": to_numbers(column_of(raw, "MR Delay"), report).abs(),
            "age": in_range("age", to_ages(column_of(raw, "Age"), report), report),
            "sex": sexes(column_of(raw, "M/F"), report),
            "education": years if study != "oasis1" else float("nan"),
            "education_level": level.map(EDUCATION_LEVELS).astype(object) if study == "oasis1" else None,
            "MMSE": in_range("MMSE", to_numbers(column_of(raw, "MMSE"), report), report),
            "eTIV": to_numbers(column_of(raw, "eTIV"), report),
            "nWBV": to_numbers(column_of(raw, "nWBV"), report),
        },
        index=raw.index,
    )
    of_study = rows["subject"].map(study_of) == study
    return pd.DataFrame(rows[of_study]).reset_index(drop=True)


def read_visits(tables: Iterable[Found], report: ReadReport) -> pd.DataFrame:
    """Clinical visits of OASIS-3.

    Returns:
        ``subject``, ``day`` since entry, ``cdr``, ``dx1``, ``age`` at the visit, ``MMSE``, ``CDRSB``.
    """
    raw = _read(tables, VISITS)
    if raw.empty:
        return raw
    in_label = column_of(raw, "session").astype("string").str.extract(r"_d(\d+)$", expand=False)
    rows = pd.DataFrame(
        {
            "subject": raw["OASISID"].map(subject_of),
            "day": to_numbers(column_of(raw, "days_to_visit"), report).fillna(to_floats(in_label)),
            "cdr": ratings(to_numbers(column_of(raw, "CDRTOT"), report), report),
            "dx1": column_of(raw, "dx1").astype(object),
            "age": in_range("age", to_ages(column_of(raw, "age at visit"), report), report),
            "MMSE": in_range("MMSE", to_numbers(column_of(raw, "MMSE"), report), report),
            "CDRSB": in_range("CDRSB", to_numbers(column_of(raw, "CDRSUM"), report), report),
        }
    )
    rows = drop_rows(rows, rows["subject"].isna(), "row of the clinical table without a subject (OAS30001)", report)
    rows = drop_rows(rows, rows["day"].isna(), "clinical visit without a day", report)
    return rows.reset_index(drop=True)


def read_people(tables: Iterable[Found], report: ReadReport) -> dict[str, dict[str, Any]]:
    """Subject of OASIS-3 -> ``age_entry``, ``sex``, ``education`` (years) and ``apoe4`` (alleles), as far as known."""
    raw = _read(tables, PEOPLE)
    if raw.empty:
        return {}
    facts = pd.DataFrame(
        {
            "subject": raw["OASISID"].map(subject_of),
            "age_entry": in_range("age", to_ages(column_of(raw, "AgeatEntry"), report), report),
            "sex": sexes(column_of(raw, "GENDER"), report),
            "education": in_range("education", to_numbers(column_of(raw, "EDUC"), report), report),
            "apoe4": apoe4(column_of(raw, "APOE"), report),
        }
    )
    facts = pd.DataFrame(facts[facts["subject"].notna()]).reset_index(drop=True)
    for name in ("age_entry", "sex", "education", "apoe4"):  # one table states the sex, another one the age
        known: Any = facts.groupby("subject")[name].transform("first")
        facts[name] = facts[name].where(facts[name].notna(), known)
    facts = only_agreed(facts, "subject", "person whose rows give different facts; they are not used", report)
    return {row["subject"]: row for row in records(facts)}


def read_scanners(tables: Iterable[Found]) -> dict[tuple[str, int], dict[str, Any]]:
    """(Subject, day) of a session of OASIS-3 -> the facts of a scanner, by the names of a BIDS sidecar."""
    raw = _read(tables, SCANNERS)
    out: dict[tuple[str, int], dict[str, Any]] = {}
    for row in records(raw):
        match = re.search(r"(OAS3\d{4})_MR_d(\d+)", str(row["label"]))
        if match:
            out.setdefault((match[1], int(match[2])), row)
    return out


def apoe4(column: pd.Series, report: ReadReport) -> pd.Series:
    """Number of e4 alleles from a genotype in two digits, ``34``; missing, with a note, for anything else.

    Example:
        >>> apoe4(pd.Series(["33", "34", 44.0, "."]), ReadReport()).tolist()
        [0.0, 1.0, 2.0, nan]
    """
    numbers = to_numbers(column, report)
    genotype = numbers.isin([22, 23, 24, 32, 33, 34, 42, 43, 44])
    if odd := int((numbers.notna() & ~genotype).sum()):
        report.note("APOE is no genotype such as 34; treated as missing", odd)
    alleles: Any = numbers.where(genotype).map(lambda value: float(str(int(value)).count("4")), na_action="ignore")
    return alleles.astype(float)


def sexes(column: pd.Series, report: ReadReport) -> pd.Series:
    """F, M or None; OASIS-3's own numbers are 1 for male and 2 for female."""
    mapped: Any = column.map(map_sex).astype(object)
    odd = int((mapped.isna() & column.notna() & (column.astype("string").str.strip() != "")).sum())
    if odd:
        report.note("sex not understood; treated as missing", odd)
    return mapped.where(mapped.notna(), None)
