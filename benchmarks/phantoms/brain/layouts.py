"""Tables and file names of ADNI as people download it: the LONI/IDA tree with ADNIMERGE, and the BIDS tree of Clinica.

Only the phantom cohort is written with these; real cohorts come from LONI. No real cohort holds such identifiers.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.phantoms.brain.latents import DIAGNOSES, SCORES, VISIT_MONTHS, Scanner, Subject

SEARCH_COLUMNS = (
    "Image Data ID", "Subject", "Group", "Sex", "Age", "Visit", "Modality", "Description", "Type", "Acq Date", "Format",
    "Downloaded",
)  # fmt: skip
_ECOG = tuple(
    f"Ecog{who}{what}"
    for who in ("Pt", "SP")
    for what in ("Mem", "Lang", "Visspat", "Plan", "Organ", "Divatt", "Total")
)
_REGIONS = ("Ventricles", "Hippocampus", "WholeBrain", "Entorhinal", "Fusiform", "MidTemp", "ICV")
_TESTS = (
    "CDRSB", "ADAS11", "ADAS13", "ADASQ4", "MMSE", "RAVLT_immediate", "RAVLT_learning", "RAVLT_forgetting",
    "RAVLT_perc_forgetting", "LDELTOTAL", "DIGITSCOR", "TRABSCOR", "FAQ",
)  # fmt: skip
ADNIMERGE_COLUMNS = (
    "RID", "PTID", "VISCODE", "SITE", "COLPROT", "ORIGPROT", "EXAMDATE", "DX_bl", "AGE", "PTGENDER", "PTEDUCAT",
    "PTETHCAT", "PTRACCAT", "PTMARRY", "APOE4", "FDG", "PIB", "AV45", "FBB", "ABETA", "TAU", "PTAU", *_TESTS, "MOCA",
    *_ECOG, "FLDSTRENG", "FSVERSION", "IMAGEUID", *_REGIONS, "DX", "mPACCdigit", "mPACCtrailsB", "EXAMDATE_bl",
    *(f"{name}_bl" for name in _TESTS if name != "LDELTOTAL"), "LDELTOTAL_BL", "mPACCdigit_bl", "mPACCtrailsB_bl",
    "FLDSTRENG_bl", "FSVERSION_bl", "IMAGEUID_bl", *(f"{name}_bl" for name in _REGIONS), "MOCA_bl",
    *(f"{name}_bl" for name in _ECOG), "ABETA_bl", "TAU_bl", "PTAU_bl", "FDG_bl", "PIB_bl", "AV45_bl", "FBB_bl",
    "Years_bl", "Month_bl", "Month", "M", "update_stamp",
)  # fmt: skip

# Processing of the preferred image and of the second one that some scans also have, as the two protocols name them.
_DESCRIPTIONS = {
    1.5: ("MPR; GradWarp; B1 Correction; N3; Scaled", "MPR; ; N3; Scaled"),
    3.0: ("MT1; GradWarp; N3m", "MT1; N3m"),
}
_RAW_DESCRIPTIONS = {1.5: "MP-RAGE", 3.0: "Accelerated Sagittal MPRAGE"}
_ADNI2_VISITS = {
    "bl": "ADNI2 Screening MRI-New Pt",
    "m06": "ADNI2 Month 6-New Pt",
    "m12": "ADNI2 Year 1 Visit",
    "m24": "ADNI2 Year 2 Visit",
    "m36": "ADNI2 Year 3 Visit",
    "m48": "ADNI2 Year 4 Visit",
    "m60": "ADNI2 Year 5 Visit",
    "m72": "ADNI3 Year 1 Visit",
}
_SCAN_TIME = dt.time(8, 20, 30)


_BLOCK = 5
"""Visits whose numbers follow one another; later ones have numbers of their own, so that these stay as they are."""


@dataclass(frozen=True)
class Visit:
    """One visit of one phantom subject, with all that the tables say about it.

    Attributes:
        subject: Who.
        ptid: ``999_S_9123`` and the like: a site that ADNI does not have.
        scanner: Where.
        code: ``bl``, ``m06`` ...
        date: Day of the scan and of the tests.
        baseline_date: Day of the first visit.
        research_group: Finer label of the enrolment: CN, SMC, EMCI, LMCI, AD.
        scores: Clinical scores, NaN where missing.
        volumes: True volumes in mm3.
        cognition: Cognition latent at the visit; for ``truth.json`` only.
        has_variant: The scan also exists with other processing.
        raw: The image is as the scanner gave it.
    """

    subject: Subject
    ptid: str
    scanner: Scanner
    code: str
    date: dt.date
    baseline_date: dt.date
    research_group: str
    scores: dict[str, float]
    volumes: dict[str, float] = field(default_factory=dict)
    cognition: float = 0.0
    has_variant: bool = False
    raw: bool = False

    @property
    def month(self) -> int:
        """Months since baseline."""
        return VISIT_MONTHS[self.code]

    @property
    def years(self) -> float:
        """Years since baseline, from the dates, rounded as ADNIMERGE does."""
        return round((self.date - self.baseline_date).days / 365.25, 2)

    @property
    def dx(self) -> str:
        """Diagnosis at this visit: CN, MCI or AD."""
        return DIAGNOSES[self.subject.dx_at(self.month)]

    @property
    def protocol(self) -> str:
        """Study phase, by field strength as in ADNI."""
        return "ADNI1" if self.scanner.field_strength == 1.5 else "ADNI2"

    @property
    def bids_names(self) -> tuple[str, str]:
        """BIDS participant and session."""
        return f"sub-ADNI{self.ptid.replace('_', '')}", f"ses-M{self.month:03d}"

    def image_uid(self, variant: int = 0) -> int:
        """Number of the image, above ADNI's; ``variant`` 1 is the one with other processing."""
        block, place = divmod(list(VISIT_MONTHS).index(self.code), _BLOCK)
        return 9_000_000 + 100_000 * block + self.subject.index * 2 * _BLOCK + place * 2 + variant

    @property
    def series_uid(self) -> int:
        """Number of the series."""
        block, place = divmod(list(VISIT_MONTHS).index(self.code), _BLOCK)
        return 900_000 + 50_000 * block + self.subject.index * _BLOCK + place

    def description(self, variant: int = 0) -> str:
        """Processing of the image in ADNI's words."""
        if self.raw:
            return _RAW_DESCRIPTIONS[self.scanner.field_strength]
        return _DESCRIPTIONS[self.scanner.field_strength][variant]

    def loni_path(self, variant: int = 0) -> Path:
        """Path of the image below the cohort's root in a LONI download."""
        name = self.description(variant).replace("; ", "__").replace(" ", "_")
        when = dt.datetime.combine(self.date, _SCAN_TIME)
        uid = self.image_uid(variant)
        file = f"ADNI_{self.ptid}_MR_{name}_Br_{when:%Y%m%d%H%M%S}000_S{self.series_uid}_I{uid}.nii"
        return Path("ADNI", self.ptid, name, f"{when:%Y-%m-%d_%H_%M_%S}.0", f"I{uid}", file)

    def bids_path(self) -> Path:
        """Path of the image below the cohort's root in a BIDS tree."""
        participant, session = self.bids_names
        return Path(participant, session, "anat", f"{participant}_{session}_T1w.nii.gz")


def write_loni_tables(root: Path, visits: Sequence[Visit]) -> None:
    """Writes the search table of the image archive and ADNIMERGE."""
    rows = [_search_row(visit, variant) for visit in visits for variant in range(1 + visit.has_variant)]
    search = pd.DataFrame(rows, columns=pd.Index(SEARCH_COLUMNS))
    search.to_csv(root / "ADNI_phantom_search.csv", index=False, quoting=csv.QUOTE_ALL)
    first = {visit.ptid: visit for visit in visits if visit.code == "bl"}
    merge = pd.DataFrame(
        [_merge_row(visit, first[visit.ptid]) for visit in visits], columns=pd.Index(ADNIMERGE_COLUMNS)
    )
    merge.to_csv(root / "ADNIMERGE.csv", index=False)


def write_bids_tables(root: Path, visits: Sequence[Visit]) -> None:
    """Writes participants.tsv, one sessions.tsv per subject, a sidecar per image and dataset_description.json."""
    description = {"Name": "ADNI phantom (generated; no person)", "BIDSVersion": "1.9.0", "DatasetType": "raw"}
    (root / "dataset_description.json").write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    baseline = [visit for visit in visits if visit.code == "bl"]
    _write_tsv(root / "participants.tsv", [_participant_row(visit) for visit in baseline])
    sessions: dict[str, list[dict[str, Any]]] = {}
    for visit in visits:
        sessions.setdefault(visit.bids_names[0], []).append(_session_row(visit))
        sidecar = {"Modality": "MR", "MagneticFieldStrength": visit.scanner.field_strength, "Phantom": True}
        path = root / visit.bids_path()
        path.with_name(path.name.replace(".nii.gz", ".json")).write_text(json.dumps(sidecar) + "\n", encoding="utf-8")
    for participant, rows in sessions.items():
        _write_tsv(root / participant / f"{participant}_sessions.tsv", rows)


def _search_row(visit: Visit, variant: int) -> dict[str, Any]:
    adni1 = visit.protocol == "ADNI1"
    screening = "sc" if visit.code == "bl" else visit.code
    return {
        "Image Data ID": f"I{visit.image_uid(variant)}",
        "Subject": visit.ptid,
        "Group": DIAGNOSES[visit.subject.dx] if adni1 else visit.research_group,
        "Sex": "F" if visit.subject.female else "M",
        "Age": int(visit.subject.age + visit.years),
        "Visit": screening if adni1 else _ADNI2_VISITS[visit.code],
        "Modality": "MRI",
        "Description": visit.description(variant),
        "Type": "Original" if visit.raw else "Processed",
        "Acq Date": f"{visit.date.month}/{visit.date.day:02d}/{visit.date.year}",
        "Format": "NiFTI",
        "Downloaded": "",
    }


def _merge_row(visit: Visit, baseline: Visit) -> dict[str, Any]:
    subject = visit.subject
    row: dict[str, Any] = {
        "RID": int(visit.ptid[-4:]),
        "PTID": visit.ptid,
        "VISCODE": visit.code,
        "SITE": visit.scanner.code,
        "COLPROT": visit.protocol,
        "ORIGPROT": visit.protocol,
        "EXAMDATE": visit.date.isoformat(),
        "DX_bl": visit.research_group,
        "AGE": round(subject.age, 1),
        "PTGENDER": "Female" if subject.female else "Male",
        "PTEDUCAT": subject.education,
        "PTETHCAT": "Unknown",
        "PTRACCAT": "Unknown",
        "PTMARRY": "Unknown",
        "APOE4": subject.apoe4,
        "FLDSTRENG": f"{visit.scanner.field_strength} Tesla MRI",
        "IMAGEUID": visit.image_uid(),
        "DX": {"CN": "CN", "MCI": "MCI", "AD": "Dementia"}[visit.dx],
        "EXAMDATE_bl": visit.baseline_date.isoformat(),
        "IMAGEUID_bl": baseline.image_uid(),
        "FLDSTRENG_bl": f"{visit.scanner.field_strength} Tesla MRI",
        "Years_bl": visit.years,
        "Month_bl": round(visit.years * 12, 2),
        "Month": visit.month,
        "M": visit.month,
        "update_stamp": "phantom",
    }
    row |= visit.scores | {name: round(value) for name, value in visit.volumes.items()}
    row |= {f"{name}_bl": baseline.scores[name] for name in SCORES}
    return row | {f"{name}_bl": round(value) for name, value in baseline.volumes.items()}


def _participant_row(visit: Visit) -> dict[str, Any]:
    subject, scores = visit.subject, visit.scores
    return {
        "participant_id": visit.bids_names[0],
        "alternative_id_1": visit.ptid,
        "sex": "F" if subject.female else "M",
        "education_level": subject.education,
        "age_bl": round(subject.age, 1),
        "marital_status": None,
        "ethnic_cat": None,
        "adni_rid": int(visit.ptid[-4:]),
        "site": visit.scanner.code,
        "original_study": visit.protocol,
        "diagnosis_sc": visit.research_group,
        "mmse_bl": scores["MMSE"],
        "adas11_bl": scores["ADAS11"],
        "adas13_bl": scores["ADAS13"],
        "adas_Q4_bl": None,
        "apoe4": subject.apoe4,
        "apoe_gen1": 4 if subject.apoe4 == 2 else 3,
        "apoe_gen2": 4 if subject.apoe4 else 3,
        "ravlt_immediate_bl": scores["RAVLT_immediate"],
        "moca_bl": scores["MOCA"],
    }


def _session_row(visit: Visit) -> dict[str, Any]:
    scores, volumes = visit.scores, {name: round(value) for name, value in visit.volumes.items()}
    return {
        "session_id": visit.bids_names[1],
        "examination_date": visit.date.isoformat(),
        "age": round(round(visit.subject.age, 1) + visit.years, 2),
        "current_study": visit.protocol,
        "diagnosis": visit.dx,
        **dict.fromkeys(("adni_fdg", "adni_pib", "adni_av45")),
        "cdr_sb": scores["CDRSB"],
        "cdr_global": None,
        "adas11": scores["ADAS11"],
        "adas13": scores["ADAS13"],
        "MMSE": scores["MMSE"],
        "FAQ": scores["FAQ"],
        "ravlt_immediate": scores["RAVLT_immediate"],
        "moca": scores["MOCA"],
        **dict.fromkeys(("TMT_A", "TMT_B", "logmem_delay", "logmem_imm", "dsst")),
        "adni_ventricles_vol": volumes["Ventricles"],
        "adni_hippocampus_vol": volumes["Hippocampus"],
        "adni_brain_vol": volumes["WholeBrain"],
        "adni_entorhinal_vol": None,
        "adni_icv": volumes["ICV"],
    }


def _write_tsv(path: Path, rows: list[dict[str, Any]]) -> None:
    pd.DataFrame(rows).to_csv(path, sep="\t", index=False, na_rep="n/a")
