"""Reads OASIS-1, -2 or -3 from disk, whichever a folder holds, into one table of labelled visits.

OASIS-1 and -2 name their sessions, so a row of the table is a scan's own. OASIS-3 dates scans and clinical visits by
days since entry; a scan takes the label of the nearest visit within a year. A flaw of a single row or file is counted
by its reason, as for ADNI.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.adni.merge import (
    FRAME_COLUMNS,
    SCANNER_COLUMNS,
    VISIT_FACTS,
    is_missing,
    merge_repeated,
    records,
    to_floats,
)
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.oasis.bids import (
    DAYS_PER_MONTH,
    check_scores,
    find_bids_scans,
    read_bids_sessions,
)
from medgraft.benchmarks.cohorts.oasis.images import TITLES, Scan, find_scans, study_of
from medgraft.benchmarks.cohorts.oasis.labels import Labels, Unassessed, add_labels, label_unassessed
from medgraft.benchmarks.cohorts.oasis.tables import (
    SESSIONS,
    VISITS,
    Found,
    find_tables,
    read_people,
    read_scanners,
    read_sessions,
    read_visits,
)
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, is_phantom
from medgraft.benchmarks.cohorts.tables.visit_table import VisitTable, marker_of
from medgraft.benchmarks.cohorts.volumes.bids_tree import BidsTree, looks_like_bids, sidecar_of
from medgraft.errors import DataError

NEAREST_DAYS = 365
"""How far apart scan and clinical visit may lie for the visit's label to count for the scan."""

OWN_COLUMNS = ("cdr", "education_level", "scanner", "eTIV", "nWBV")
"""Columns of the frame besides ADNI's: the CDR, OASIS-1's level of education, manufacturer and model in one, estimated
intracranial volume (cm3) and normalised brain volume of OASIS-1 and -2."""

NOT_LISTED = "image without a row in the table"
CONTRADICTORY = "two different labels for the visit"
TOO_FAR = f"no clinical visit with a label within {NEAREST_DAYS} days of the scan"
STRANGER = "subject without a row in the clinical table"
_SOURCE = {"cdr": "CDR", "group": "Group", "dx1": "dx1"}
_NEAREST = {"cdr": "CDR of the nearest visit", "dx1": "dx1 of the nearest visit"}
_TABLES = {
    "oasis1": "put oasis_cross-sectional.csv (columns ID, CDR) into it or beside it",
    "oasis2": "put oasis_longitudinal.csv (columns MRI ID, CDR) into it or beside it",
    "oasis3": "put OASIS3_UDSb4_cdr.csv (OASISID, days_to_visit, CDRTOT) or ADRC Clinical Data into it or beside it",
}
_VISION = {"field_strength": 1.5, "manufacturer": "Siemens", "scanner_model": "Vision"}
"""The one scanner of OASIS-1 and -2 (Marcus et al., 2007 and 2010), of which their files say nothing."""


@dataclass(frozen=True)
class OasisTable(VisitTable):
    """A :class:`VisitTable` with :data:`OWN_COLUMNS`; ``dx`` is what the chosen label stands for.

    Attributes:
        study: ``oasis1``, ``oasis2`` or ``oasis3``.
    """

    study: str = ""


def read_oasis(
    root: Path, *, labels: Labels = "cdr", unassessed: Unassessed = "left_out", images: bool = True
) -> OasisTable:
    """Reads a folder with images and tables of one OASIS; which one is recognised by the names of the images.

    Args:
        root: The folder that the discs or parts were unpacked into, or a BIDS tree of Clinica's; tables in it at any
            depth, or in the folder above.
        labels: ``cdr``, ``group`` (OASIS-2) or ``dx1`` (OASIS-3); see
            :mod:`~medgraft.benchmarks.cohorts.oasis.labels`.
        unassessed: Whether people under 60 of OASIS-1 who have no CDR are left out, or CN.
        images: Whether a visit needs an image. Without, a folder of tables alone is read too, all of their visits.

    Raises:
        DataError: Nothing readable is there, a table is missing or lacks a column, or no image has a label.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; name the one that holds OASIS's images and its table")
    report, tables = ReadReport(), find_tables(root)
    scans, broken, tree = _find(root, report, [] if images else _listed(tables, root))
    study = study_of(scans[0].subject)
    _check_labels(labels, study, root)
    kinds = {found.kind for found in tables}
    if study == "oasis3" and VISITS in kinds:
        if tree is not None:
            scans = _dated(scans, read_bids_sessions(tree, root, report), report)
        frame, visits = _by_day(scans, tables, labels, report)
    elif study != "oasis3" and SESSIONS in kinds:
        if tree is not None:  # Clinica keeps the first session of each subject
            scans = [scan._replace(number=scan.number + 1) for scan in scans]
        frame, visits = _by_session(scans, read_sessions(tables, study, report), broken, labels, unassessed, report)
    elif tree is not None:
        facts = read_bids_sessions(tree, root, report)
        check_scores(facts, root)
        frame, visits = _by_session(scans, facts, broken, labels, unassessed, report)
    else:
        raise DataError(f"{root} holds images of {TITLES[study]} and no table of it; {_TABLES[study]}")
    if frame.empty:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in report.skipped.most_common())
        raise DataError(f"{root} has no visit with both an image and a label ({reasons or 'no rows at all'})")
    frame = frame.sort_values(["subject", "month", "session"], kind="stable").reset_index(drop=True)
    frame["scan"] = range(len(frame))
    report.used = len(frame)
    marker = marker_of(root)
    return OasisTable(
        frame=frame,
        visits=visits,
        report=report,
        layout="archive" if tree is None else "bids",
        phantom=is_phantom(root) or made_up("oasis", frame["subject"]),
        generator=marker.get("generator"),
        bayes=marker.get("bayes"),
        study=study,
    )


def _listed(tables: list[Found], root: Path) -> list[Scan]:
    """The visits that tables name, as scans without an image.

    Raises:
        DataError: They are of two of the three.
    """
    nothing = ReadReport()  # what is wrong with a row is counted when it is read for its label
    named = {
        **{study: read_sessions(tables, study, nothing) for study in ("oasis1", "oasis2")},
        "oasis3": read_visits(tables, nothing).rename(columns={"day": "number"}),
    }
    there = {study: rows for study, rows in named.items() if not rows.empty}
    if len(there) > 1:
        raise DataError(
            f"{root} holds tables of {' and '.join(TITLES[study] for study in there)}; name the folder of one"
        )
    keys = [(str(row["subject"]), int(row["number"])) for rows in there.values() for row in records(rows)]
    return [Scan(subject, number, Path(), f"visit {number}") for subject, number in dict.fromkeys(keys)]


def _find(
    root: Path, report: ReadReport, listed: list[Scan]
) -> tuple[list[Scan], set[tuple[str, int]], BidsTree | None]:
    """The scans, sessions with half an image, and the tree where they lie in BIDS; ``listed`` where there is none.

    Raises:
        DataError: There is none.
    """
    scans, broken = find_scans(root, report)
    if scans:
        return scans, broken, None
    if looks_like_bids(root):
        scans, tree = find_bids_scans(root, report)
        return scans, broken, tree
    if listed:
        report.note("visit of a table alone, without an image", len(listed))
        return listed, broken, None
    left_out = "; ".join(f"{reason}: {count}" for reason, count in report.skipped.most_common())
    raise DataError(
        f"{root} holds no image of OASIS{f' ({left_out})' if left_out else ''}; looked for OAS1_*_t88_masked_gfc.hdr "
        "and .img, OAS2_*/RAW/mpr-*.nifti.hdr and .img, sub-OAS3*_T1w.nii.gz, or a BIDS tree with sub-OASIS1* or "
        "sub-OAS3*"
    )


def _check_labels(labels: Labels, study: str, root: Path) -> None:
    only = {"group": "oasis2", "dx1": "oasis3"}.get(labels, study)
    if only != study:
        raise DataError(f"labels: {labels} is a column of {TITLES[only]}, and {root} holds {TITLES[study]}; use cdr")


def _dated(scans: list[Scan], sessions: pd.DataFrame, report: ReadReport) -> list[Scan]:
    """Scans of a BIDS tree by their day since entry; the middle of the month's half year where no table knows it."""
    known = sessions.dropna(subset=["day"])
    days = dict(zip(zip(known["subject"], known["number"], strict=True), known["day"].astype(int), strict=True))
    if unknown := sum((scan.subject, scan.number) not in days for scan in scans):
        report.note("day of the scan known to half a year only, by the name of its session", unknown)
    return [
        scan._replace(number=days.get((scan.subject, scan.number), round(scan.number * DAYS_PER_MONTH)))
        for scan in scans
    ]


def _by_session(
    scans: list[Scan],
    facts: pd.DataFrame,
    broken: set[tuple[str, int]],
    labels: Labels,
    unassessed: Unassessed,
    report: ReadReport,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of scans whose table knows them by session, and the labels of all its sessions."""
    facts = add_labels(facts, labels).assign(source=_SOURCE[labels])
    facts = merge_repeated(facts, ["subject", "number"], "duplicate row of the table", report)
    facts = label_unassessed(_from_first(facts), unassessed)
    facts["month"] = facts["delay"] / DAYS_PER_MONTH if "delay" in facts else facts["number"].astype(float)
    facts["month"] = facts["month"].where(facts["month"].notna() | (facts["number"] != 1), 0.0)
    by_key = {(row["subject"], row["number"]): row for row in records(facts)}
    if missing := len(by_key.keys() - {(scan.subject, scan.number) for scan in scans} - broken):
        report.skip("image file missing", count=missing)
    rows = []
    for scan in scans:
        row = by_key.get((scan.subject, scan.number))
        reason = NOT_LISTED if row is None else CONTRADICTORY if row["contradictory"] else row["why"]
        if row is None or row["dx"] is None:
            report.skip(reason)
        else:
            scanner = _scanner(scan, {}) if study_of(scan.subject) == "oasis3" else _VISION
            rows.append(_row(scan, row, row["month"], {**row, **scanner}))
    return _frame(rows), pd.DataFrame(facts[["subject", "month", "dx"]])


def _from_first(facts: pd.DataFrame) -> pd.DataFrame:
    """OASIS-1's second sessions, of which its table has age and brain volume alone, with the first one's facts.

    They were scanned within 90 days, to measure reliability; none that is more than a year later takes a label.
    """
    if "delay" not in facts:
        return facts
    first = {row["subject"]: row for row in records(facts) if row["number"] == 1 and row["dx"] is not None}
    facts = facts.copy()
    for index, row in zip(facts.index, records(facts), strict=True):
        known = first.get(row["subject"])
        of_oasis1 = study_of(row["subject"]) == "oasis1" and row["number"] > 1
        if known and of_oasis1 and row["dx"] is None and not row["contradictory"] and row["delay"] <= NEAREST_DAYS:
            for name in ("dx", "cdr", "MMSE", "education_level", "sex"):
                if is_missing(row[name]):
                    facts.at[index, name] = known[name]
            facts.at[index, "source"] = "CDR of the first session"
    return facts


def _by_day(
    scans: list[Scan], tables: list[Found], labels: Labels, report: ReadReport
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows of OASIS-3's scans with the label and scores of the nearest clinical visit, and the labels of all visits."""
    visits = add_labels(read_visits(tables, report), labels)
    visits = merge_repeated(visits, ["subject", "day"], "duplicate row of the clinical table", report)
    visits = visits.sort_values(["subject", "day"], kind="stable")
    if odd := int(visits["contradictory"].to_numpy(bool).sum()):
        report.note("clinical visit with two different labels; it is not used", odd)
    of_subject: dict[str, list[dict[str, Any]]] = {}
    for visit in records(visits):
        of_subject.setdefault(visit["subject"], []).append(visit)
    people, scanners = read_people(tables, report), read_scanners(tables)
    rows = []
    for scan in scans:
        labelled = [visit for visit in of_subject.get(scan.subject, ()) if visit["dx"] is not None]
        visit = min(labelled, key=lambda each: abs(each["day"] - scan.number), default=None)
        if scan.subject not in of_subject:
            report.skip(STRANGER)
        elif visit is None or abs(visit["day"] - scan.number) > NEAREST_DAYS:
            report.skip(TOO_FAR)
        else:
            person = people.get(scan.subject, {})
            since = (scan.number - visit["day"]) / 365.25
            age = person.get("age_entry", math.nan) + scan.number / 365.25
            facts = {**visit, **person, "age": visit["age"] + since if is_missing(age) else age}
            facts |= _scanner(scan, scanners.get((scan.subject, scan.number), {})) | {"source": _NEAREST[labels]}
            rows.append(_row(scan, facts, scan.number / DAYS_PER_MONTH, facts))
    follow_up = visits.assign(month=visits["day"] / DAYS_PER_MONTH)
    return _frame(rows), pd.DataFrame(follow_up[["subject", "month", "dx"]])


def _scanner(scan: Scan, table: Mapping[str, Any]) -> dict[str, Any]:
    """Field strength (T), manufacturer and model of OASIS-3's scanner, from the image's sidecar or the table."""
    facts = dict(table)
    if scan.sidecar is not None:
        facts |= sidecar_of(scan.image, {str(scan.sidecar)})
    tesla = to_floats(pd.Series([facts.get("MagneticFieldStrength")], dtype=object)).iloc[0]
    names = (facts.get("Manufacturer"), facts.get("ManufacturersModelName"))
    maker, model = (name.strip() if isinstance(name, str) and name.strip() else None for name in names)
    return {"field_strength": float(tesla), "manufacturer": maker, "scanner_model": model}


def _row(scan: Scan, row: Mapping[str, Any], month: float, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The finished row of one scan."""
    named = (*VISIT_FACTS, *SCANNER_COLUMNS, "cdr", "education_level", "eTIV", "nWBV")
    words = ("sex", "education_level", *SCANNER_COLUMNS)
    out = {name: facts.get(name, None if name in words else math.nan) for name in named}
    scanner = " ".join(name for name in (out["manufacturer"], out["scanner_model"]) if isinstance(name, str))
    return out | {
        "subject": scan.subject,
        "session": scan.session,
        "month": month,
        "variant": 0,
        "image": "" if scan.image == Path() else str(scan.image.absolute()),
        "image_id": f"{scan.subject}_{scan.session}",
        "acq_date": pd.NaT,
        "description": scan.image.name,
        "dx": row["dx"],
        "dx_source": facts["source"],
        "site": None,
        "scanner": scanner or None,
    }


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=pd.Index((*FRAME_COLUMNS, *OWN_COLUMNS)))
