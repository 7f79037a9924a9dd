"""Reads OASIS-1 and OASIS-3 in BIDS, as Clinica's ``oasis-to-bids`` and ``oasis3-to-bids`` write them.

Three traps of these trees, found in Clinica's code (0.12). Its ``diagnosis`` calls a CDR of 0.5 AD, so the CDR itself
is read. OASIS-3's images are ``sub-OAS30001`` in new releases and ``sub-OASIS30001`` in old ones. And the scores in
OASIS-3's ``sessions.tsv`` are joined by month alone, so that everybody scanned in one month has one person's scores:
such a tree is refused, unless OASIS-3's own table of visits lies in it or beside it, which then is read.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.adni.columns import read_spelled
from medgraft.benchmarks.cohorts.adni.merge import (
    column_of,
    drop_rows,
    in_range,
    only_agreed,
    records,
    to_ages,
    to_floats,
    to_numbers,
)
from medgraft.benchmarks.cohorts.oasis.images import TITLES, Scan, study_of, subject_of
from medgraft.benchmarks.cohorts.oasis.labels import ratings
from medgraft.benchmarks.cohorts.oasis.tables import EDUCATION_LEVELS, apoe4, sexes
from medgraft.benchmarks.cohorts.tables.reading import SOURCE, ReadReport, read_many
from medgraft.benchmarks.cohorts.volumes.bids_tree import BidsTree, months_of, no_image, walk_bids
from medgraft.errors import DataError

DAYS_PER_MONTH = 365.25 / 12
SAME_FOR_ALL = 5
"""People who share all scores of a month with somebody else of that month before a tree counts as joined by month."""

_SESSION = {
    "session_id": (),
    "source_session_id": (),
    "age": (),
    "cdr_global": ("cdr",),
    "MMS": ("mmse",),
    "cdr_sb": ("sumbox",),
    "dx1": (),
}
_PEOPLE = {
    "sex": (),
    "education_level": ("education",),
    "age_bl": ("age",),
    "cdr": ("cdr_global",),
    "apoe": (),
}


def find_bids_scans(root: Path, report: ReadReport) -> tuple[list[Scan], BidsTree]:
    """One volume for every session of a tree; ``Scan.number`` is its month.

    Raises:
        DataError: There is no image, none of OASIS, or some of two of the three.
    """
    tree = walk_bids(root, report)
    if not tree.images:
        raise no_image(root)
    home, scans = Path(os.path.abspath(root)), []
    for (participant, month), candidates in sorted(tree.images.items()):
        subject = subject_of(participant)
        if subject is None:
            report.skip("image of a participant that is no OASIS's")
            continue
        image = home / min(candidates)[-1]
        sidecar = re.sub(r"\.nii(\.gz)?$", ".json", str(image))
        beside = Path(sidecar) if sidecar in tree.sidecars else None
        scans.append(Scan(subject, month, image, f"M{month:03d}", beside))
    studies = sorted({study_of(scan.subject) for scan in scans})
    if studies not in (["oasis1"], ["oasis3"]):
        names = " and ".join(TITLES[study] for study in studies) or "no participant of OASIS"
        raise DataError(
            f"{root} is a BIDS tree with {names}; name one with OASIS-1 (sub-OASIS10001) or OASIS-3 (sub-OAS30001) "
            "alone, or the download of OASIS-2, which Clinica does not convert"
        )
    return scans, tree


def read_bids_sessions(tree: BidsTree, root: Path, report: ReadReport) -> pd.DataFrame:
    """Facts of every session, from ``sub-*_sessions.tsv`` and ``participants.tsv``.

    Returns:
        ``subject``, ``number`` (month), ``day`` since entry (NaN where only the month is known), ``cdr``, ``group``,
        ``dx1``, ``age``, ``sex``, ``education``, ``education_level``, ``apoe4``, ``MMSE`` and ``CDRSB``.
    """

    def failed(path: Path, error: DataError) -> None:
        report.skip("sessions.tsv that cannot be read", error)

    raw = read_many(tree.sessions, _SESSION, failed, "\t")
    people = _participants(root, report)
    subjects = [subject_of(tree.sessions[k].parent.name) or "" for k in raw[SOURCE]]
    names = column_of(raw, "session_id").astype("string").fillna("").str.strip()
    day = column_of(raw, "source_session_id").astype("string").str.extract(r"d(\d+)$", expand=False)
    rows = pd.DataFrame(
        {
            "subject": subjects,
            "number": to_floats(pd.Series([months_of(name) for name in names], dtype=object, index=raw.index)),
            "day": to_floats(day),
            "cdr": ratings(to_numbers(column_of(raw, "cdr_global"), report), report),
            "group": None,
            "dx1": column_of(raw, "dx1").astype(object),
            "age": in_range("age", to_ages(column_of(raw, "age"), report), report),
            "MMSE": in_range("MMSE", to_numbers(column_of(raw, "MMS"), report), report),
            "CDRSB": in_range("CDRSB", to_numbers(column_of(raw, "cdr_sb"), report), report),
        }
    )
    rows = drop_rows(rows, rows["number"].isna(), "session that is not named ses-M<month>", report)
    listed = set(rows["subject"])
    at_entry = [subject for subject in people if subject not in listed]  # participants.tsv has a CDR, too
    alone = pd.DataFrame({"subject": at_entry, "number": 0.0})
    parts = [part for part in (rows, alone) if len(part)]
    rows = pd.concat(parts, ignore_index=True).reindex(columns=rows.columns) if parts else rows
    rows["number"] = rows["number"].astype(int)
    for name in ("sex", "education", "education_level", "apoe4"):
        rows[name] = [people.get(subject, {}).get(name) for subject in rows["subject"]]
    first = rows["number"] == 0

    def of_person(name: str) -> pd.Series:
        return to_floats(pd.Series([people.get(each, {}).get(name) for each in rows["subject"]], index=rows.index))

    rows["cdr"] = rows["cdr"].where(rows["cdr"].notna() | ~first, of_person("cdr"))
    # Clinica cuts OASIS-3's ages at the scan to whole years, and keeps the age at entry as it is.
    exact = of_person("age_bl") + rows["day"].where(~first | rows["day"].notna(), 0) / 365.25
    rows["age"] = exact.where(exact.notna(), rows["age"])
    return rows.reset_index(drop=True)


def check_scores(rows: pd.DataFrame, root: Path) -> None:
    """Refuses tables without a CDR, and those of OASIS-3 that were joined by month alone, see this module's docstring.

    Raises:
        DataError: No table has a CDR, or in no month do two people have different scores, though many share a month.
    """
    scored = pd.DataFrame(rows[rows["cdr"].notna()])
    if scored.empty:
        raise DataError(
            f"the tables of {root} have no CDR (cdr_global or cdr in sessions.tsv or participants.tsv), and Clinica's "
            "diagnosis calls a CDR of 0.5 AD, so it is not read; put OASIS's own table into the folder"
        )
    if study_of(rows["subject"].iloc[0]) != "oasis3":
        return
    by_month = scored.groupby("number")
    alike = by_month[["cdr", "MMSE", "CDRSB", "dx1"]].nunique(dropna=False).to_numpy() <= 1
    others = int((by_month["subject"].nunique().to_numpy() - 1).sum())
    if others >= SAME_FOR_ALL and alike.all():
        raise DataError(
            f"in {root} everybody of one session has the same CDR, MMSE and dx1, as Clinica 0.12 joins them by month "
            "alone; put OASIS-3's own OASIS3_UDSb4_cdr.csv and OASIS3_demographics.csv into the folder"
        )


def _participants(root: Path, report: ReadReport) -> dict[str, dict[str, Any]]:
    """Subject -> facts of ``participants.tsv``; empty without one."""
    path = root / "participants.tsv"
    if not path.is_file():
        return {}
    raw = read_spelled(path, ("participant_id",), _PEOPLE, sep="\t")
    raw["subject"] = raw["participant_id"].map(subject_of)
    raw = drop_rows(raw, raw["subject"].isna(), "row of participants.tsv that is no OASIS's", report)
    raw = only_agreed(raw, "subject", "participant listed twice with different facts; they are not used", report)
    schooling = to_numbers(column_of(raw, "education_level"), report)
    of_oasis1 = raw["subject"].map(study_of) == "oasis1"
    out = pd.DataFrame(
        {
            "subject": raw["subject"],
            "sex": sexes(column_of(raw, "sex"), report),
            "education": in_range("education", schooling, report).mask(of_oasis1),
            "education_level": [
                EDUCATION_LEVELS.get(value) if first else None
                for value, first in zip(schooling, of_oasis1, strict=True)
            ],
            "age_bl": in_range("age", to_ages(column_of(raw, "age_bl"), report), report),
            "cdr": ratings(to_numbers(column_of(raw, "cdr"), report), report),
            "apoe4": apoe4(column_of(raw, "apoe"), report),
        }
    )
    return {row["subject"]: row for row in records(out)}
