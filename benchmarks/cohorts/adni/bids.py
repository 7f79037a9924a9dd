"""Reader of ADNI in BIDS, as Clinica's ``adni-to-bids`` writes it, and of its CAPS folder with registered images.

Sessions are ``ses-M00`` in old releases and ``ses-M000`` in new ones; both are read, and compared as numbers of months.
A session whose name is no month (``ses-01``) is left out: no table says when it was.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.adni.columns import exam_dates, read_spelled, roster_key, site_of, subject_id
from medgraft.benchmarks.cohorts.adni.merge import (
    CONTRADICTORY,
    FRAME_COLUMNS,
    SCORE_COLUMNS,
    SOURCE_MERGE,
    SOURCE_SESSIONS,
    VISIT_FACTS,
    column_of,
    diagnoses,
    drop_rows,
    in_range,
    is_missing,
    is_withdrawn,
    merge_repeated,
    only_agreed,
    records,
    sexes,
    to_ages,
    to_floats,
    to_numbers,
)
from medgraft.benchmarks.cohorts.tables.reading import SOURCE, ReadReport, check_columns, read_many
from medgraft.benchmarks.cohorts.volumes.bids_tree import months_of, no_image, sidecar_of, walk_bids
from medgraft.errors import DataError

# Our column -> the names that Clinica gives it in sessions.tsv.
_SESSION_COLUMNS = {
    **{name: (name,) for name in SCORE_COLUMNS},
    "CDRSB": ("cdr_sb", "CDRSB"),
    "age": ("age",),
    "Hippocampus": ("adni_hippocampus_vol", "hippocampus"),
    "Ventricles": ("adni_ventricles_vol", "ventricles"),
    "ICV": ("adni_icv", "icv"),
    "WholeBrain": ("adni_brain_vol", "brain_vol"),
}
_PARTICIPANT_COLUMNS = {"education": ("education_level", "education"), "apoe4": ("apoe4",), "age_bl": ("age_bl",)}
_SCAN_COLUMNS = {"field_strength": ("mri_field", "MagneticFieldStrength"), "image_id": ("scan_id",)}
_SIDECAR = {"manufacturer": "Manufacturer", "scanner_model": "ManufacturersModelName"}


def read_bids(root: Path, merge: pd.DataFrame | None, report: ReadReport) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Builds the table of a BIDS or CAPS tree.

    Args:
        root: Folder with participants.tsv and ``sub-*``, or a CAPS folder with ``subjects/sub-*``.
        merge: Visits of ADNIMERGE; fills what the BIDS tables leave open, and is needed where there are none.
        report: Gets the counts.

    Returns:
        One row per subject and session with ``FRAME_COLUMNS``; and the diagnosis of every session, with or without an
        image, as ``subject``, ``month`` and ``dx``.

    Raises:
        DataError: There are neither BIDS tables nor ADNIMERGE, or no session has an image.
    """
    tree = walk_bids(root, report)
    images = {key: Path(os.path.abspath(root), min(files)[-1]) for key, files in tree.images.items()}
    if not images:
        raise no_image(root)
    participants = _read_participants(root, report)
    if participants is None and merge is None:
        raise DataError(f"{root} has no participants.tsv, and no ADNIMERGE table was given or found beside it")
    sessions = _read_sessions(tree.sessions, report, needed=merge is None)
    scans = _read_scans(tree.scans, report)
    visits = (
        {} if merge is None else {(v["subject"], int(v["month"])): v for v in records(merge.dropna(subset=["month"]))}
    )
    people = participants or {}
    strangers = {name for name, _ in images} - people.keys()
    if participants is not None and strangers:
        report.note("subject without a row in participants.tsv", len(strangers))
    missing = len(sessions.keys() - images.keys())
    if missing:
        report.skip("image file missing", count=missing)
    rows = []
    for key, image in sorted(images.items()):
        sidecar = sidecar_of(image, tree.sidecars)
        row = _describe(key, image, people.get(key[0]), sessions.get(key), visits, scans.get(image.name, {}), sidecar)
        if is_withdrawn(row["subject"]):
            report.skip("withdrawn subject")
        elif row["dx_source"] == CONTRADICTORY:
            report.skip(CONTRADICTORY)
        elif row["dx"] is None:
            listed = key in sessions or (row["subject"], key[1]) in visits
            report.skip("no diagnosis for the visit" if listed else "image without a row in sessions.tsv")
        else:
            rows.append(row)
    diagnoses = [(_ptid(name, people.get(name)), float(month), row["dx"]) for (name, month), row in sessions.items()]
    history = pd.DataFrame(diagnoses, columns=pd.Index(("subject", "month", "dx")))
    return pd.DataFrame(rows, columns=pd.Index(FRAME_COLUMNS)), history


def _read_participants(root: Path, report: ReadReport) -> dict[str, dict[str, Any]] | None:
    """Facts per participant, or None without participants.tsv."""
    path = root / "participants.tsv"
    if not path.is_file():
        return None
    names = {**_PARTICIPANT_COLUMNS, "sex": (), "site": (), "alternative_id_1": ("source_id",)}
    raw = read_spelled(path, ("participant_id",), names, sep="\t")
    raw["participant_id"] = ["sub-" + str(name).strip().removeprefix("sub-") for name in raw["participant_id"]]
    raw = only_agreed(raw, "participant_id", "participant listed twice with different facts; they are not used", report,
                      "duplicate row of participants.tsv")  # fmt: skip
    numbers = {name: to_numbers(column_of(raw, name), report) for name in ("education", "apoe4")}
    numbers["age_bl"] = to_ages(column_of(raw, "age_bl"), report)
    out = {name: in_range(name, values, report) for name, values in numbers.items()}
    out |= {name: column_of(raw, name).astype("string") for name in ("alternative_id_1",)}
    out["sex"] = sexes(column_of(raw, "sex"), report)
    out["site"] = column_of(raw, "site").astype("string").str.replace(r"\.0$", "", regex=True)
    return dict(zip(raw["participant_id"], records(pd.DataFrame(out)), strict=True))


def _read_sessions(paths: list[Path], report: ReadReport, *, needed: bool) -> dict[tuple[str, int], dict[str, Any]]:
    """(Participant, month) -> the session's facts, from every ``sub-*_sessions.tsv``; all are converted at once.

    Raises:
        DataError: Not one of them has sessions, or diagnoses although they are ``needed``.
    """
    names = {"session_id": (), **_SESSION_COLUMNS, "diagnosis": ("dx",), "examination_date": ()}

    def failed(path: Path, error: DataError) -> None:
        report.skip("sessions.tsv that cannot be read", error)

    raw = read_many(paths, names, failed, "\t")
    required = ("session_id", "diagnosis") if needed else ("session_id",)
    if len(raw):
        check_columns(paths[int(raw[SOURCE].iloc[0])], raw.drop(columns=SOURCE), required)
    measured = {name: to_numbers(column_of(raw, name), report) for name in _SESSION_COLUMNS if name != "age"}
    measured["age"] = to_ages(column_of(raw, "age"), report)
    facts = pd.DataFrame({name: in_range(name, values, report) for name, values in measured.items()}, index=raw.index)
    facts["participant"] = [paths[k].parent.name for k in raw[SOURCE]]
    facts["dx"] = diagnoses(column_of(raw, "diagnosis"), report)
    facts["date"] = exam_dates(column_of(raw, "examination_date"), report)
    sessions = column_of(raw, "session_id").astype("string").fillna("").str.strip()
    facts["month"] = to_floats(pd.Series([months_of(name) for name in sessions], dtype=object, index=raw.index))
    facts = drop_rows(facts, facts["month"].isna(), "session that is not named ses-M<month>", report)
    facts = merge_repeated(facts, ["participant", "month"], "duplicate row of sessions.tsv", report)
    return {(row["participant"], int(row["month"])): row for row in records(facts)}


def _read_scans(paths: list[Path], report: ReadReport) -> dict[str, dict[str, Any]]:
    """File name -> what a ``*_scans.tsv`` says of the image; empty where there is none that says anything."""

    def failed(path: Path, error: DataError) -> None:
        report.note("scans.tsv that cannot be read")

    raw = read_many(paths, {"filename": (), **_SCAN_COLUMNS, "acq_time": ()}, failed, "\t")
    unnamed = column_of(raw, "filename").isna()
    if unnamed.any():
        report.note("row of scans.tsv without the name of a file", int(unnamed.sum()))
    raw = pd.DataFrame(raw[~unnamed]).reset_index(drop=True)
    tesla = column_of(raw, "field_strength").astype("string").str.extract(r"(\d(?:\.\d+)?)", expand=False)
    facts = pd.DataFrame({"field_strength": to_floats(tesla), "date": exam_dates(column_of(raw, "acq_time"), report)})
    facts["image_id"] = column_of(raw, "image_id").astype("string").str.replace(r"\.0$", "", regex=True)
    facts["name"] = [str(name).rpartition("/")[2] for name in column_of(raw, "filename")]
    facts = only_agreed(
        facts, "name", "image listed twice in scans.tsv with different facts; they are not used", report
    )
    return {row["name"]: row for row in records(facts)}


def _describe(
    key: tuple[str, int],
    image: Path,
    participant: dict[str, Any] | None,
    session: dict[str, Any] | None,
    visits: dict[tuple[str, int], dict[str, Any]],
    scan: dict[str, Any],
    sidecar: dict[str, Any],
) -> dict[str, Any]:
    """The finished row of one image; ``dx`` is None where no table has a diagnosis."""
    name, month = key
    person = participant or {}
    subject = _ptid(name, participant)
    visit = visits.get((subject, month)) or visits.get((roster_key(subject), month))
    facts: dict[str, Any] = dict.fromkeys(VISIT_FACTS, float("nan")) | {"sex": None, "site": site_of(subject)}
    dx, source, date = None, "", pd.NaT
    if visit is not None:
        facts |= {column: visit[column] for column in VISIT_FACTS}
        dx, source, date = visit["dx"], CONTRADICTORY if visit["contradictory"] else SOURCE_MERGE, visit["exam_date"]
    person_facts = {"education": person.get("education"), "apoe4": person.get("apoe4"), "site": person.get("site")}
    person_facts |= {"sex": person.get("sex"), "field_strength": _field_strength(sidecar, scan)}
    if session is not None:
        person_facts |= {column: session[column] for column in _SESSION_COLUMNS}
        date = date if is_missing(session["date"]) else session["date"]
        if session["contradictory"]:
            dx, source = None, CONTRADICTORY
        elif isinstance(session["dx"], str):
            dx, source = session["dx"], SOURCE_SESSIONS
    facts |= {column: value for column, value in person_facts.items() if not is_missing(value)}
    if is_missing(facts["age"]) and not is_missing(person.get("age_bl", pd.NA)):
        facts["age"] = person["age_bl"] + month / 12
    session_name, number = f"M{month:03d}", scan.get("image_id")
    return {
        "subject": subject,
        "session": session_name,
        "month": float(month),
        "scan": f"{subject} {session_name}",
        "variant": 0,
        "image": str(image),
        "image_id": number if isinstance(number, str) else f"{name}_ses-{session_name}",
        "acq_date": scan["date"] if scan and not is_missing(scan["date"]) else date,
        "description": image.name.split("_", 2)[2],
        "dx": dx,
        "dx_source": source,
        **facts,
        **{column: sidecar.get(key) if isinstance(sidecar.get(key), str) else None for column, key in _SIDECAR.items()},
    }


def _ptid(participant: str, facts: dict[str, Any] | None) -> str:
    """ADNI's own identifier of a BIDS participant; the BIDS name where there is none."""
    alternative = (facts or {}).get("alternative_id_1")
    return subject_id(alternative if isinstance(alternative, str) and alternative else participant)


def _field_strength(sidecar: dict[str, Any], scan: dict[str, Any]) -> float | None:
    """Tesla, from the sidecar or the table of scans; None where neither says."""
    value = sidecar.get("MagneticFieldStrength")
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    tesla = scan.get("field_strength")
    return None if tesla is None or is_missing(tesla) else float(tesla)
