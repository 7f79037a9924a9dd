"""ADNIMERGE and what the ADNI readers share: labels, missing codes, columns of the table they make.

ADNIMERGE changes its columns from release to release, so everything here goes by name. Three traps of the table:
``AGE`` is the age at baseline in every row, ``DX`` holds transitions in old releases ("MCI to Dementia"), and -4, -1
and "Unknown" stand for missing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.adni.columns import (
    MERGE_ALIASES,
    MISSING_WORDS,
    exam_dates,
    read_spelled,
    roster_name,
    subject_id,
)
from medgraft.benchmarks.cohorts.files.walking import walk
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, years_of
from medgraft.errors import DataError

DIAGNOSES = ("CN", "MCI", "AD")
SCORE_COLUMNS = ("MMSE", "MOCA", "ADAS13", "RAVLT_immediate", "FAQ", "CDRSB")
VOLUME_COLUMNS = ("Hippocampus", "Ventricles", "ICV", "WholeBrain")
VISIT_FACTS = ("age", "sex", "education", "apoe4", "site", "field_strength", *SCORE_COLUMNS, *VOLUME_COLUMNS)
SCANNER_COLUMNS = ("manufacturer", "scanner_model")
FRAME_COLUMNS = (
    "subject", "session", "month", "scan", "variant", "image", "image_id", "acq_date", "description", "dx", "dx_source",
    *VISIT_FACTS, *SCANNER_COLUMNS,
)  # fmt: skip
"""Columns of :attr:`~medgraft.benchmarks.cohorts.tables.visit_table.VisitTable.frame`."""

SOURCE_MERGE, SOURCE_NEAREST = "ADNIMERGE DX", "nearest visit"
SOURCE_GROUP, SOURCE_SESSIONS = "research group", "sessions.tsv"
CONTRADICTORY = "two different diagnoses for the visit"
"""Stands in for the source of a diagnosis where a table gives two; such visits are left out."""

_LABELS = {
    **dict.fromkeys(("CN", "NL", "SMC", "NORMAL", "COGNITIVELY NORMAL", "SIGNIFICANT MEMORY CONCERN"), "CN"),
    **dict.fromkeys(("EMCI", "LMCI", "MCI", "EARLY MCI", "LATE MCI", "MILD COGNITIVE IMPAIRMENT"), "MCI"),
    **dict.fromkeys(("DEMENTIA", "AD", "ALZHEIMER'S DISEASE", "ALZHEIMERS DISEASE"), "AD"),
}
_RANGES = {
    "age": (18, 120), "education": (0, 30), "apoe4": (0, 2), "MMSE": (0, 30), "MOCA": (0, 30), "ADAS13": (0, 85),
    "RAVLT_immediate": (0, 75), "FAQ": (0, 30), "CDRSB": (0, 18), "Hippocampus": (100, 20_000),
    "Ventricles": (1e3, 3e5), "ICV": (5e5, 4e6), "WholeBrain": (2e5, 3e6),
}  # fmt: skip
"""What each can be: years, alleles, points of the test, mm3. A number outside is a slip of the table, and missing."""

_SEXES = {"female": "F", "f": "F", "male": "M", "m": "M"}
_MISSING_CODES = (-4.0, -1.0)
_LIMIT = r"^([<>≤≥]?)=?\s*(\d+(?:\.\d+)?)\s*(\+?)$"
_RELEASED = re.compile(r"(\d{1,2})[-_ ]?([A-Za-z]{3})[A-Za-z]*[-_ ]?(\d{4})|(\d{4})[-_]?(\d{2})[-_]?(\d{2})")
DEEPEST = 3
"""Levels below a root at which tables are looked for."""

_OF_A_PERSON = re.compile(r"(?:sub-|\d{3}_S_\d{4})", re.IGNORECASE)
_WITHDRAWN = re.compile(r"381_S_10\d{3}$")


def is_withdrawn(ptid: str) -> bool:
    """True for the subjects that ADNI withdrew after release (``381_S_10###``)."""
    return _WITHDRAWN.match(ptid) is not None


def map_diagnosis(value: Any) -> str | None:
    """CN, MCI or AD for any label that ADNI has used, of a transition its end; None if unknown or missing.

    Example:
        >>> map_diagnosis("EMCI"), map_diagnosis("MCI to Dementia"), map_diagnosis("MCI due to AD")
        ('MCI', 'AD', None)
    """
    if not isinstance(value, str):
        return None
    states = [_LABELS.get(" ".join(state.split()).upper()) for state in value.split(" to ")]
    return states[-1] if all(states) and len(states) <= 2 else None


def map_sex(value: Any) -> str | None:
    """F, M or None."""
    word = str(value).strip().lower().removesuffix(".0")
    return _SEXES.get(word) or {"1": "M", "2": "F"}.get(word)


def sexes(column: pd.Series, report: ReadReport) -> pd.Series:
    """F, M or None of a column; numbers, of which ADNI's own are 1 for male and 2 for female (PTDEMOG), are noted."""
    mapped = column.map(map_sex).astype(object)
    text = column.astype("string").str.strip().str.lower().fillna("")
    if numbered := int((mapped.notna() & ~text.isin(list(_SEXES))).sum()):
        report.note("sex given as a number; 1 is male and 2 female, as in ADNI's own tables", numbered)
    if odd := int((mapped.isna() & ~text.isin(MISSING_WORDS)).sum()):
        report.note("sex not understood; treated as missing", odd)
    return mapped.where(mapped.notna(), None)


def in_range(name: str, values: pd.Series, report: ReadReport) -> pd.Series:
    """The values that ``name`` can have; others become NaN, with a note."""
    low, high = _RANGES.get(name, (-np.inf, np.inf))
    outside = (values < low) | (values > high)
    if outside.any():
        report.note(f"{name} out of its range; treated as missing", int(outside.sum()))
    kept: Any = values.mask(outside)
    return kept


def to_numbers(column: pd.Series, report: ReadReport) -> pd.Series:
    """Floats of a column: missing codes become NaN, ``>1700``, ``<8`` and ``90+`` their limit, other words NaN.

    Limits are noted, and so are words that stand for nothing known.
    """
    text = column.astype("string").str.strip()
    parts = text.str.extract(_LIMIT)
    censored = (parts[0].notna() & ((parts[0] != "") | (parts[2] != ""))).fillna(False).astype(bool)
    if censored.any():
        report.note(f"{column.name} given as a limit (< or >)", int(censored.sum()))
    numbers = to_floats(parts[1].where(censored, text))
    odd = int((numbers.isna() & ~text.fillna("").str.lower().isin(MISSING_WORDS)).sum())
    if odd:
        report.note(f"{column.name} is no number; treated as missing", odd)
    measured: Any = numbers.mask(numbers.isin(_MISSING_CODES))
    return measured


def to_ages(column: pd.Series, report: ReadReport) -> pd.Series:
    """:func:`to_numbers` in years; ages with a unit, ``84Y``, ``084Y`` or ``84 years``, are noted."""
    text = column.astype("string").str.strip()
    years = text.map(years_of, na_action="ignore")
    stated = (years.notna() & to_floats(text).isna()).fillna(False).astype(bool)
    if stated.any():
        report.note("age given with its unit", int(stated.sum()))
    plain = text.where(~stated, years.astype("string")).rename(column.name)
    return to_numbers(plain, report)


def to_floats(column: pd.Series) -> pd.Series:
    """Floats of a column, NaN for whatever is no number."""
    numbers: Any = pd.to_numeric(column, errors="coerce")
    return numbers.astype(float)


def column_of(table: pd.DataFrame, name: str) -> pd.Series:
    """A column, or one of missing values under that name where the table has none."""
    if name not in table:
        return pd.Series(pd.NA, index=table.index, name=name, dtype="string")
    column: Any = table[name]
    return column


def drop_rows(table: pd.DataFrame, bad: Any, reason: str, report: ReadReport) -> pd.DataFrame:
    """The table without the rows that ``bad`` marks, which are counted under ``reason``."""
    bad = np.asarray(bad, dtype=bool)
    if bad.any():
        report.skip(reason, count=int(bad.sum()))
    kept: Any = table[~bad]
    return kept


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dictionaries."""
    rows: Any = table.to_dict("records")
    return rows


def is_missing(value: Any) -> bool:
    """True for None, NaN, NaT and NA."""
    return bool(pd.isna(value))


def viscode_month(code: Any) -> float:
    """Months since baseline of ``bl``, ``sc`` or ``m24``; NaN for any other code."""
    code = str(code).strip().lower()
    if code in ("bl", "sc", "scmri", "4_bl", "4_sc"):
        return 0.0
    match = re.fullmatch(r"m(\d+)", code)
    return float(match.group(1)) if match else float("nan")


def find_merge(root: Path, report: ReadReport) -> Path | None:
    """An ADNIMERGE table in ``root``, the folder above it or a sub-folder; the one whose name has the latest date.

    Its dictionary, which lies beside it under a similar name, has no visits and is passed over.
    """
    for folders in ((root,), (root.parent,), folders_below(root)):
        tables = (path for folder in folders for path in sorted(folder.glob("*")))
        named = (path for path in tables if path.name.lower().endswith((".csv", ".csv.gz")) and path.is_file())
        merges = [path for path in named if re.match(r"ADNI_?MERGE(?!.*DICT)", path.name, re.IGNORECASE)]
        if len(merges) > 1:
            report.note("further ADNIMERGE table; the one with the latest date in its name is used", len(merges) - 1)
        if merges:
            return max(merges, key=lambda path: (_released(path.name), path.name, str(path)))
    return None


def folders_below(root: Path) -> list[Path]:
    """Folders that may hold tables, down to three levels, without those of people, which hold images."""
    folders: list[Path] = []
    for here in walk(root):
        deep = here.inside.count("/") + 1 if here.inside else 0
        here.folders[:] = [name for name in here.folders if deep < DEEPEST and not _OF_A_PERSON.match(name)]
        if deep:
            folders.append(Path(here.path))
    return folders


def _released(name: str) -> str:
    """Date in a table's name (``ADNIMERGE_02Apr2024.csv``) as ``yyyymmdd``; empty where there is none."""
    match = _RELEASED.search(name)
    if match is None:
        return ""
    text = " ".join(part for part in match.groups() if part)
    stamp: Any = pd.to_datetime(text, errors="coerce", format="%d %b %Y" if match[2] else "%Y %m %d")
    return "" if pd.isna(stamp) else f"{stamp:%Y%m%d}"


def read_merge(path: Path, report: ReadReport) -> pd.DataFrame:
    """Reads ADNIMERGE into one row per visit.

    Args:
        path: The table, of any release, or exported from R (``DX.bl``).
        report: Gets the counts of duplicates, contradictions and repairs.

    Returns:
        Columns ``subject`` (PTID, or ``RID 295`` from a table without one), ``session``, ``month``, ``exam_date``,
        ``image_uid`` (float, NaN if none), ``dx`` (CN, MCI, AD or None) and ``VISIT_FACTS``; ``age`` is the age at that
        visit.

    Raises:
        DataError: The file is missing or lacks a column.
    """
    named = dict.fromkeys(("M", "Month", "Years_bl", "FLDSTRENG", "SITE", "IMAGEUID", "PTID", "RID", "VISCODE2"), ())
    raw = read_spelled(
        path,
        ("VISCODE", "EXAMDATE", "DX", "AGE", "PTGENDER"),
        {**named, **dict.fromkeys((*SCORE_COLUMNS, *VOLUME_COLUMNS), ()), **MERGE_ALIASES},
    )
    subject = _subjects(path, raw)

    def numbers(name: str) -> pd.Series:
        return to_numbers(column_of(raw, name), report)

    # Where a table has both codes, VISCODE is the study phase's own (v02) and VISCODE2 the one common to all (bl).
    code = pd.Series(raw["VISCODE2"] if "VISCODE2" in raw else raw["VISCODE"])
    month = numbers("M").fillna(numbers("Month")).fillna(code.map(viscode_month))
    years = numbers("Years_bl").fillna(month / 12).fillna(0.0)
    field = column_of(raw, "FLDSTRENG").astype("string").str.extract(r"(\d(?:\.\d)?)", expand=False)
    measured = {
        "age": to_ages(column_of(raw, "AGE"), report) + years,
        "education": numbers("PTEDUCAT"),
        "apoe4": numbers("APOE4"),
        **{name: numbers(name) for name in (*SCORE_COLUMNS, *VOLUME_COLUMNS)},
    }
    visits = pd.DataFrame(
        {
            "subject": subject,
            "session": code.astype(str).str.strip().str.lower(),
            "month": month,
            "exam_date": exam_dates(pd.Series(raw["EXAMDATE"]), report),
            "image_uid": _image_numbers(column_of(raw, "IMAGEUID")),
            "dx": diagnoses(pd.Series(raw["DX"]), report),
            "sex": sexes(pd.Series(raw["PTGENDER"]), report),
            "site": _site(column_of(raw, "SITE"), subject),
            "field_strength": to_floats(field),
            **{name: in_range(name, values, report) for name, values in measured.items()},
        }
    )
    return _one_row_per_visit(visits, report)


def _image_numbers(column: pd.Series) -> pd.Series:
    """Numbers of images, with or without the letter before them; NaN for missing codes."""
    numbers = to_floats(column.astype("string").str.strip().str.lstrip("Ii"))
    positive: Any = numbers.where(numbers > 0)
    return positive


def _subjects(path: Path, raw: pd.DataFrame) -> pd.Series:
    """PTID of every row; ``RID 295`` where the table has none, or has the RID in its place."""
    if "PTID" not in raw and "RID" not in raw:
        raise DataError(f"{path} has no column PTID, nor RID; it has: {', '.join(raw.columns[:30])}")
    column = pd.Series(raw["PTID"] if "PTID" in raw else raw["RID"])
    return column.map(lambda value: roster_name(value) or subject_id(value))


def diagnoses(column: pd.Series, report: ReadReport) -> pd.Series:
    """Mapped labels, with a note for transitions and for words that are no label."""
    mapped = column.map(map_diagnosis).astype(object)
    text = column.astype("string").str.strip().fillna("")
    transitions = int(text.str.contains(" to ").sum())
    unknown = int((mapped.isna() & (text != "") & ~text.str.lower().isin(["-4", "-1", "unknown"])).sum())
    if transitions:
        report.note("diagnosis given as a transition; its last state is used", transitions)
    if unknown:
        report.note("diagnosis not understood; treated as missing", unknown)
    return mapped.where(mapped.notna(), None)


def _site(column: pd.Series, ptid: pd.Series) -> pd.Series:
    """Site as text; the first part of the PTID where the column is empty."""
    text = column.astype("string").str.strip().str.replace(r"\.0$", "", regex=True).replace("", pd.NA)
    return text.fillna(ptid.astype("string").str.extract(r"^(\d{3})_S_", expand=False)).astype(object)


def _one_row_per_visit(visits: pd.DataFrame, report: ReadReport) -> pd.DataFrame:
    """Drops withdrawn subjects and repeated rows."""
    key = ["subject", "session"]
    visits = drop_rows(visits, visits["subject"].map(is_withdrawn), "withdrawn subject in ADNIMERGE", report)
    visits = merge_repeated(visits, key, "duplicate row of ADNIMERGE", report)
    return visits.sort_index().reset_index(drop=True)


def only_agreed(
    rows: pd.DataFrame, key: str, reason: str, report: ReadReport, repeated: str | None = None
) -> pd.DataFrame:
    """One row per key; a fact on which its rows disagree becomes missing, and their number is noted under ``reason``.

    Args:
        rows: The rows, with a column ``key``.
        key: What two rows of one thing share.
        reason: For keys with different facts.
        report: Gets the counts.
        repeated: Reason under which the further rows are counted as left out; ``None`` to count them nowhere.
    """
    again = rows.duplicated(key, keep=False)
    if not again.any():
        return rows
    some = rows[again]
    different = pd.DataFrame(some.groupby(key, sort=False).transform("nunique")) > 1
    if odd := int(some.loc[different.any(axis=1), key].nunique()):
        report.note(reason, odd)
    rows = rows.copy()
    for name in different.columns:
        rows[name] = rows[name].mask(different[name].reindex(rows.index, fill_value=False))
    further = rows.duplicated(key)
    return drop_rows(rows, further, repeated, report) if repeated else pd.DataFrame(rows[~further])


def merge_repeated(rows: pd.DataFrame, key: list[str], reason: str, report: ReadReport) -> pd.DataFrame:
    """One row per key, with a new column ``contradictory``: True, and ``dx`` empty, where its rows disagree on ``dx``.

    Of repeated rows, one with a diagnosis is worth more than one without; the others are counted under ``reason``.
    """
    labels: Any = rows.groupby(key)["dx"].transform("nunique")
    rows = rows.assign(contradictory=labels > 1)
    rows["dx"] = rows["dx"].where(~rows["contradictory"], None)
    rows = rows.sort_values("dx", key=lambda dx: dx.isna(), kind="stable")
    return drop_rows(rows, rows.duplicated(key), reason, report)
