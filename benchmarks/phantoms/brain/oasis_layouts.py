"""Tables and file names of OASIS-1, -2 and -3 as they are distributed, and of Clinica's BIDS trees of OASIS-1 and -3.

Only phantoms are written with these. No real subject has a number of 9000 or above.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.phantoms.brain.latents import Scanner, Subject

DISCS, PARTS = 12, 2
ATLAS_EICV = 1755.0
"""eTIV times ASF in OASIS's tables, cm3."""

_UDS = Path("OASIS3_data_files", "scans")
_TABLE = Path("resources", "csv", "files")
_CDR_TABLE = _UDS / "UDSb4-Form_B4__Global_Staging__CDR__Standard_and_Supplemental" / _TABLE / "OASIS3_UDSb4_cdr.csv"
_PEOPLE_TABLE = _UDS / "demo-demographics" / _TABLE / "OASIS3_demographics.csv"
_SCANNER_TABLE = _UDS / "MRI-json-MRI_json_information" / _TABLE / "OASIS3_MR_json.csv"
_BOXES = ("memory", "orient", "judgment", "commun", "homehobb", "perscare")
_MODELS = {1.5: "Sonata", 3.0: "TrioTim"}


@dataclass(frozen=True)
class Session:
    """One MR session of one phantom subject, and the clinical visit that belongs to it.

    Attributes:
        subject: Who.
        study: ``oasis1``, ``oasis2`` or ``oasis3``.
        code: Number of the subject, 9000 and up.
        number: Of the session, from 1.
        month: What the image's random numbers belong to.
        clinic_day: Day of the clinical visit since entry.
        day: Day of the scan since entry.
        scanner: Where.
        dx: 0, 1, 2 for CN, MCI, AD; None without a rating.
        rating: Clinical Dementia Rating; NaN without one.
        scores: Clinical scores, NaN where missing.
        atrophy: The latents at the session.
        sessions: How many the subject has.
        converts: Rated 0 at the first session and more later.
        volumes: True volumes in mm3.
    """

    subject: Subject
    study: str
    code: int
    number: int
    month: int
    clinic_day: int
    day: int
    scanner: Scanner
    dx: int | None
    rating: float
    scores: dict[str, float]
    atrophy: tuple[float, float, float]
    sessions: int
    converts: bool
    volumes: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """``OAS1_9123``, ``OAS2_9123`` or ``OAS39123``."""
        return f"OAS3{self.code}" if self.study == "oasis3" else f"OAS{self.study[-1]}_{self.code}"

    @property
    def label(self) -> str:
        """Name of the session: ``OAS1_9123_MR1``, ``OAS39123_MR_d0129``."""
        return f"{self.name}_MR_d{self.day:04d}" if self.study == "oasis3" else f"{self.name}_MR{self.number}"

    @property
    def age(self) -> float:
        """Years at the scan."""
        return self.subject.age + self.day / 365.25

    @property
    def bids_names(self) -> tuple[str, str]:
        """Participant and session in Clinica's tree; OASIS-3's sessions are half years."""
        if self.study == "oasis1":
            return f"sub-OASIS1{self.code}", "ses-M000"
        return f"sub-{self.name}", f"ses-M{round(self.day / (365.25 / 2)) * 6:03d}"


def image_path(session: Session, layout: str) -> Path:
    """Path of the image below the cohort's root; of a pair the header's."""
    participant, name = session.bids_names
    if layout == "bids":
        run = "_run-01" if session.study == "oasis3" else ""
        return Path(participant, name, "anat", f"{participant}_{name}{run}_T1w.nii.gz")
    if session.study == "oasis1":
        file = f"{session.label}_mpr_n4_anon_111_t88_masked_gfc.hdr"
        disc = f"disc{1 + session.subject.index % DISCS}"
        return Path(disc, session.label, "PROCESSED", "MPRAGE", "T88_111", file)
    if session.study == "oasis2":
        return Path(f"OAS2_RAW_PART{1 + session.subject.index % PARTS}", session.label, "RAW", "mpr-1.nifti.hdr")
    return Path(session.label, "anat2", f"sub-{session.name}_ses-d{session.day:04d}_run-01_T1w.nii.gz")


def write_tables(root: Path, sessions: Sequence[Session], study: str, layout: str) -> None:
    """Writes the tables and, for OASIS-3 and BIDS, the images' sidecars."""
    if layout == "bids":
        _write_bids(root, sessions, study)
    elif study == "oasis1":
        _write_csv(root / "oasis_cross-sectional.csv", map(_cross_sectional_row, sessions))
    elif study == "oasis2":
        _write_csv(root / "oasis_longitudinal.csv", map(_longitudinal_row, sessions))
    else:
        _write_csv(root / _CDR_TABLE, map(_visit_row, sessions))
        _write_csv(root / _PEOPLE_TABLE, (_person_row(session) for session in sessions if session.number == 1))
        _write_csv(root / _SCANNER_TABLE, map(_scanner_row, sessions))
    if study == "oasis3":
        for session in sessions:
            path = root / image_path(session, layout)
            sidecar = path.with_name(path.name.replace(".nii.gz", ".json"))
            sidecar.write_text(json.dumps({**_scanner(session), "Phantom": True}) + "\n", encoding="utf-8")


def _head_volumes(session: Session) -> dict[str, Any]:
    icv = session.volumes["ICV"]
    etiv = round(icv / 1000)
    return {
        "eTIV": etiv,
        "nWBV": round(session.volumes["WholeBrain"] / icv, 3),
        "ASF": round(ATLAS_EICV / etiv, 3),
    }


def _education_level(years: int) -> int:
    """OASIS-1's level from years: below 12, 12, to 15, 16, above."""
    return 1 + sum(years >= limit for limit in (12, 13, 16, 17))


def _cross_sectional_row(session: Session) -> dict[str, Any]:
    subject, again = session.subject, session.number > 1
    unrated = session.dx is None or again
    return {
        "ID": session.label,
        "M/F": "F" if subject.female else "M",
        "Hand": "R",
        "Age": int(session.age),
        "Educ": None if unrated else _education_level(subject.education),
        "SES": None if unrated else 1 + subject.index % 5,
        "MMSE": None if unrated else session.scores["MMSE"],
        "CDR": None if unrated else session.rating,
        **_head_volumes(session),
        "Delay": session.day if again else None,
    }


def _longitudinal_row(session: Session) -> dict[str, Any]:
    group = "Converted" if session.converts else "Demented" if session.rating > 0 else "Nondemented"
    return {
        "Subject ID": session.name,
        "MRI ID": session.label,
        "Group": group,
        "Visit": session.number,
        "MR Delay": session.day,
        "M/F": "F" if session.subject.female else "M",
        "Hand": "R",
        "Age": int(session.age),
        "EDUC": session.subject.education,
        "SES": None if session.subject.index % 8 == 0 else 1 + session.subject.index % 5,
        "MMSE": session.scores["MMSE"],
        "CDR": session.rating,
        **_head_volumes(session),
    }


def _dx1(session: Session) -> str:
    return ("Cognitively normal", "uncertain dementia", "AD Dementia")[session.dx or 0]


def _boxes(session: Session) -> dict[str, float]:
    return dict.fromkeys(_BOXES, session.rating)


def _visit_row(session: Session) -> dict[str, Any]:
    return {
        "OASISID": session.name,
        "OASIS_session_label": f"{session.name}_UDSb4_d{session.clinic_day:04d}",
        "days_to_visit": f"{session.clinic_day:04d}",
        "age at visit": round(session.subject.age + session.clinic_day / 365.25, 2),
        "MMSE": session.scores["MMSE"],
        **_boxes(session),
        "CDRSUM": session.scores["CDRSB"],
        "CDRTOT": session.rating,
        "dx1": _dx1(session),
    }


def _apoe(alleles: int) -> int:
    return (33, 34, 44)[alleles]


def _person_row(session: Session) -> dict[str, Any]:
    subject = session.subject
    return {
        "OASISID": session.name,
        "AgeatEntry": round(subject.age, 2),
        "AgeatDeath": None,
        "GENDER": 2 if subject.female else 1,
        "EDUC": subject.education,
        "SES": 1 + subject.index % 5,
        "HAND": "R",
        "APOE": _apoe(subject.apoe4),
    }


def _scanner(session: Session) -> dict[str, Any]:
    tesla = session.scanner.field_strength
    return {"Manufacturer": "Siemens", "ManufacturersModelName": _MODELS[tesla], "MagneticFieldStrength": tesla}


def _scanner_row(session: Session) -> dict[str, Any]:
    return {"label": session.label, "subject_id": session.name, **_scanner(session)}


def _write_bids(root: Path, sessions: Sequence[Session], study: str) -> None:
    description = {"Name": f"{study.upper()} phantom (generated; no person)", "BIDSVersion": "1.9.0"}
    (root / "dataset_description.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    of_oasis1 = study == "oasis1"
    people = [session for session in sessions if session.number == 1]
    _write_tsv(root / "participants.tsv", map(_participant1 if of_oasis1 else _participant3, people))
    by_person: dict[str, dict[str, dict[str, Any]]] = {}
    images: dict[tuple[str, str], str] = {}
    for session in sessions:
        participant, name = session.bids_names
        row = _session1(session) if of_oasis1 else _session3(session)
        by_person.setdefault(participant, {}).setdefault(name, row)
        images[participant, name] = image_path(session, "bids").name
    for participant, rows in by_person.items():
        _write_tsv(root / participant / f"{participant}_sessions.tsv", rows.values())
    for (participant, name), image in images.items() if of_oasis1 else ():
        scans = root / participant / name / f"{participant}_{name}_scans.tsv"
        _write_tsv(scans, [{"filename": f"anat/{image}"}])


def _clinicas_word(rating: float) -> str | None:
    """Clinica's diagnosis, which calls every CDR above 0 AD."""
    return None if math.isnan(rating) else "CN" if rating == 0 else "AD"


def _participant1(session: Session) -> dict[str, Any]:
    subject, rated = session.subject, session.dx is not None
    return {
        "participant_id": session.bids_names[0],
        "alternative_id_1": session.label,
        "sex": "F" if subject.female else "M",
        "education_level": _education_level(subject.education) if rated else None,
        "age_bl": int(session.age),
        "cdr": session.rating,
        "diagnosis_bl": _clinicas_word(session.rating),
        "laterality": "R",
    }


def _session1(session: Session) -> dict[str, Any]:
    mmse = None if session.dx is None else session.scores["MMSE"]
    word = _clinicas_word(session.rating)
    return {"session_id": "ses-M000", "cdr_global": session.rating, "MMS": mmse, "diagnosis": word}


def _participant3(session: Session) -> dict[str, Any]:
    subject = session.subject
    return {
        "participant_id": session.bids_names[0],
        "age": round(subject.age, 2),
        "sex": "F" if subject.female else "M",
        "handedness": "R",
        "education": subject.education,
        "apoe": _apoe(subject.apoe4),
    }


def _session3(session: Session) -> dict[str, Any]:
    boxes = _boxes(session)
    return {
        "session_id": session.bids_names[1],
        "source_session_id": f"d{session.day:04d}",
        "age": int(session.age),
        "mmse": session.scores["MMSE"],
        "cdr": session.rating,
        "commun": boxes["commun"],
        "dx1": _dx1(session),
        **{name: boxes[name] for name in ("homehobb", "judgment", "memory", "orient", "perscare")},
        "sumbox": session.scores["CDRSB"],
    }


def _write_csv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(list(rows)).to_csv(path, index=False)


def _write_tsv(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    pd.DataFrame(list(rows)).to_csv(path, sep="\t", index=False, na_rep="n/a")
