"""Reader of ADNI in BIDS, as Clinica's ``adni-to-bids`` writes it, and of its CAPS folder with registered images.

Sessions are ``ses-M00`` in old releases and ``ses-M000`` in new ones; both are read, and compared as numbers of months.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.data.adni_merge import (
    CONTRADICTORY,
    FRAME_COLUMNS,
    SCORE_COLUMNS,
    SOURCE_MERGE,
    SOURCE_SESSIONS,
    VISIT_FACTS,
    column_of,
    drop_rows,
    is_missing,
    is_withdrawn,
    map_diagnosis,
    map_sex,
    merge_repeated,
    records,
    to_floats,
    to_numbers,
)
from medgraft.benchmarks.data.reading import ReadReport, read_table
from medgraft.errors import DataError

_IMAGE_NAME = re.compile(r"^(sub-[A-Za-z0-9]+)_ses-M(\d+)_(.*_)?T1w\.nii(\.gz)?$")
_REGISTERED = "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1"
_PTID_FROM_PARTICIPANT = re.compile(r"^sub-ADNI(\d{3})S(\d{4,5})$")
# Our column -> the name that Clinica gives it in sessions.tsv.
_SESSION_COLUMNS = dict(
    zip(SCORE_COLUMNS, ("MMSE", "moca", "adas13", "ravlt_immediate", "FAQ", "cdr_sb"), strict=True)
) | {"age": "age"}
_PARTICIPANT_COLUMNS = {"education": "education_level", "apoe4": "apoe4", "age_bl": "age_bl"}


@dataclass(frozen=True)
class _Image:
    """One candidate image of a session; the smallest ``rank`` is used."""

    rank: tuple[int, str]
    path: Path


def looks_like_bids(root: Path) -> bool:
    """True for a folder with participants.tsv, or with ``sub-*`` folders directly or below ``subjects`` (CAPS)."""
    return (root / "participants.tsv").is_file() or any(root.glob("sub-*/")) or any(root.glob("subjects/sub-*/"))


def read_bids(root: Path, merge: pd.DataFrame | None, report: ReadReport) -> pd.DataFrame:
    """Builds the table of a BIDS or CAPS tree.

    Args:
        root: Folder with participants.tsv and ``sub-*``, or a CAPS folder with ``subjects/sub-*``.
        merge: Visits of ADNIMERGE; fills what the BIDS tables leave open, and is needed where there are none.
        report: Gets the counts.

    Returns:
        One row per subject and session with ``FRAME_COLUMNS``.

    Raises:
        DataError: There are neither BIDS tables nor ADNIMERGE, or no session has an image.
    """
    images = _index_images(root, report)
    if not images:
        raise DataError(
            f"{root} holds no T1 image; looked for sub-*_ses-M*_T1w.nii.gz in its sub-* or subjects folders"
        )
    participants = _read_participants(root, report)
    if participants is None and merge is None:
        raise DataError(f"{root} has no participants.tsv, and no ADNIMERGE table was given or found beside it")
    sessions = _read_sessions(root, report)
    visits = (
        {} if merge is None else {(v["subject"], int(v["month"])): v for v in records(merge.dropna(subset=["month"]))}
    )
    missing = len(sessions.keys() - images.keys())
    if missing:
        report.skip("image file missing", count=missing)
    rows = []
    for key, image in sorted(images.items()):
        row = _describe(key, image, (participants or {}).get(key[0]), sessions.get(key), visits)
        if is_withdrawn(row["subject"]):
            report.skip("withdrawn subject")
        elif row["dx_source"] == CONTRADICTORY:
            report.skip(CONTRADICTORY)
        elif row["dx"] is None:
            known = key in sessions or (row["subject"], key[1]) in visits
            report.skip("no diagnosis for the visit" if known else "image without a row in sessions.tsv")
        else:
            rows.append(row)
    return pd.DataFrame(rows, columns=pd.Index(FRAME_COLUMNS))


def _index_images(root: Path, report: ReadReport) -> dict[tuple[str, int], Path]:
    """(participant, month) -> the image to use: registered by CAPS, else the plain one, else the first run."""
    found: dict[tuple[str, int], list[_Image]] = {}
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in files:
            match = _IMAGE_NAME.match(name)
            if match:
                entities = match.group(3) or ""
                rank = 0 if _REGISTERED in entities else 1 if not entities else 2
                image = _Image((rank, name), Path(folder, name))
                found.setdefault((match.group(1), int(match.group(2))), []).append(image)
    extra = sum(len(candidates) - 1 for candidates in found.values())
    if extra:
        report.skip("another image of the same session", count=extra)
    return {key: min(candidates, key=lambda image: image.rank).path for key, candidates in found.items()}


def _read_participants(root: Path, report: ReadReport) -> dict[str, dict[str, Any]] | None:
    """Facts per participant, or None without participants.tsv."""
    path = root / "participants.tsv"
    if not path.is_file():
        return None
    raw = read_table(path, ("participant_id",), sep="\t")
    raw = drop_rows(raw, raw.duplicated("participant_id"), "duplicate row of participants.tsv", report)
    out = {name: to_numbers(column_of(raw, column), report) for name, column in _PARTICIPANT_COLUMNS.items()}
    out |= {name: column_of(raw, name).astype("string") for name in ("sex", "alternative_id_1")}
    out["site"] = column_of(raw, "site").astype("string").str.replace(r"\.0$", "", regex=True)
    return dict(zip(raw["participant_id"].astype(str), records(pd.DataFrame(out)), strict=True))


def _read_sessions(root: Path, report: ReadReport) -> dict[tuple[str, int], dict[str, Any]]:
    """(participant, month) -> the session's facts, from every ``sub-*_sessions.tsv``."""
    out: dict[tuple[str, int], dict[str, Any]] = {}
    for path in sorted([*root.glob("sub-*/sub-*_sessions.tsv"), *root.glob("subjects/sub-*/sub-*_sessions.tsv")]):
        raw = read_table(path, ("session_id", "diagnosis"), sep="\t")
        facts = pd.DataFrame(
            {name: to_numbers(column_of(raw, column), report) for name, column in _SESSION_COLUMNS.items()}
        )
        facts["dx"] = raw["diagnosis"].map(map_diagnosis).astype(object)
        facts["date"] = pd.to_datetime(column_of(raw, "examination_date"), errors="coerce")
        facts["month"] = to_floats(raw["session_id"].astype("string").str.extract(r"^(?:ses-)?M(\d+)$", expand=False))
        facts = drop_rows(facts, facts["month"].isna(), "session that is not named ses-M<month>", report)
        facts = merge_repeated(facts, ["month"], "duplicate row of sessions.tsv", report)
        out |= {(path.parent.name, int(row["month"])): row for row in records(facts)}
    return out


def _describe(
    key: tuple[str, int],
    image: Path,
    participant: dict[str, Any] | None,
    session: dict[str, Any] | None,
    visits: dict[tuple[str, int], dict[str, Any]],
) -> dict[str, Any]:
    """The finished row of one image; ``dx`` is None where no table has a diagnosis."""
    name, month = key
    person = participant or {}
    subject = _ptid(name, person.get("alternative_id_1"))
    visit = visits.get((subject, month))
    facts: dict[str, Any] = dict.fromkeys(VISIT_FACTS, float("nan")) | {"sex": None, "site": subject[:3]}
    dx, source, date = None, "", pd.NaT
    if visit is not None:
        facts |= {column: visit[column] for column in VISIT_FACTS}
        dx, source, date = visit["dx"], SOURCE_MERGE, visit["exam_date"]
    own = {"education": person.get("education"), "apoe4": person.get("apoe4"), "site": person.get("site")}
    own |= {"sex": map_sex(person.get("sex")), "field_strength": _field_strength(image)}
    if session is not None:
        own |= {column: session[column] for column in _SESSION_COLUMNS}
        date = date if is_missing(session["date"]) else session["date"]
        if session["contradictory"]:
            dx, source = None, CONTRADICTORY
        elif isinstance(session["dx"], str):
            dx, source = session["dx"], SOURCE_SESSIONS
    facts |= {column: value for column, value in own.items() if not is_missing(value)}
    if is_missing(facts["age"]) and person.get("age_bl") is not None:
        facts["age"] = person["age_bl"] + month / 12
    return {
        "subject": subject,
        "session": f"M{month:03d}",
        "month": float(month),
        "image": str(image.absolute()),
        "image_id": f"{name}_ses-M{month:03d}",
        "acq_date": date,
        "description": image.name.split("_", 2)[2],
        "dx": dx,
        "dx_source": source,
        **facts,
    }


def _ptid(participant: str, alternative: Any) -> str:
    """ADNI's own identifier of a BIDS participant; the BIDS name where there is none."""
    if isinstance(alternative, str) and alternative:
        return alternative
    match = _PTID_FROM_PARTICIPANT.match(participant)
    return f"{match.group(1)}_S_{match.group(2)}" if match else participant


def _field_strength(image: Path) -> float | None:
    """Tesla, from the image's JSON sidecar; None where it does not say."""
    sidecar = image.with_name(re.sub(r"\.nii(\.gz)?$", ".json", image.name))
    try:
        value = json.loads(sidecar.read_text(encoding="utf-8")).get("MagneticFieldStrength")
    except (OSError, ValueError, AttributeError):
        return None
    return float(value) if isinstance(value, (int, float)) else None
