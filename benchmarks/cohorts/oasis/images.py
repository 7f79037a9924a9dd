"""Finds the T1 volumes of an OASIS download, wherever its discs and parts were unpacked, and tells which OASIS it is.

OASIS-1: ``OAS1_0001_MR1/PROCESSED/MPRAGE/T88_111/OAS1_0001_MR1_mpr_n4_anon_111_t88_masked_gfc.{hdr,img}``, the average
of a session's scans in atlas space, corrected and without skull. OASIS-2: ``OAS2_0001_MR1/RAW/mpr-1.nifti.{hdr,img}``,
single scans. OASIS-3: ``OAS30001_MR_d0129/anat2/sub-OAS30001_ses-d0129_run-01_T1w.nii.gz``, or the same name anywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from medgraft.benchmarks.cohorts.files.walking import not_raw, walk
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import DataError

STUDIES = {"1": "oasis1", "2": "oasis2", "3": "oasis3"}
TITLES = {"oasis1": "OASIS-1", "oasis2": "OASIS-2", "oasis3": "OASIS-3"}
HALF_MISSING = "half of a pair of header and image is missing"
ANOTHER = "another image of the same session"

_SESSION = re.compile(r"OAS([12])_(\d{4})_MR(\d+)", re.IGNORECASE)
_OASIS3 = re.compile(r"OAS3(\d{4})(?!\d)", re.IGNORECASE)
_BIDS = re.compile(r"(?:sub-)?OAS(?:IS)?([123])_?(\d{4})(?:_MR\d+)?(?!\d)", re.IGNORECASE)
_END = r"\.(?:(hdr|img)|nii)(\.gz)?$"
_T88 = re.compile(rf"OAS1_\d{{4}}_MR\d+_.*t88_masked_gfc{_END}", re.IGNORECASE)
_MPR = re.compile(rf"(?:^|_|-)mpr-\d+(?:\.nifti)?{_END}", re.IGNORECASE)
_T1W = re.compile(r"sub-(OAS3\d{4})_sess?-d(\d+)_(.*_)?T1w\.nii(\.gz)?$", re.IGNORECASE)
_ONLY_RUN = re.compile(r"(?:run-\d+_)?", re.IGNORECASE)


class Scan(NamedTuple):
    """One session's volume.

    Attributes:
        subject: ``OAS1_0001``, ``OAS2_0001`` or ``OAS30001``.
        number: Number of the session (``MR1`` is 1); for OASIS-3 its day since entry; months for a BIDS session that
            is known by nothing else.
        image: File, or header of a pair.
        session: Name of the session.
        sidecar: JSON file beside the image, if there is one.
    """

    subject: str
    number: int
    image: Path
    session: str
    sidecar: Path | None = None


@dataclass
class _Candidate:
    """Halves of a pair, or the one file, of one image."""

    rank: tuple[int, str]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def whole(self) -> bool:
        return "" in self.files or {"hdr", "img"} <= self.files.keys()


def session_of(text: object) -> tuple[str, int] | None:
    """Subject and number of the session in a name of OASIS-1 or -2; None where there is none.

    Example:
        >>> session_of("OAS2_0001_MR2"), session_of("OAS30001_MR_d0129")
        (('OAS2_0001', 2), None)
    """
    found = _SESSION.findall(str(text))
    return (f"OAS{found[-1][0]}_{found[-1][1]}", int(found[-1][2])) if found else None


def subject_of(text: object) -> str | None:
    """The subject in a name of OASIS-3 or of a BIDS participant of any OASIS; None where there is none.

    Example:
        >>> subject_of("OAS30001_UDSb4_d0339"), subject_of("sub-OASIS10001"), subject_of("sub-OASIS30001")
        ('OAS30001', 'OAS1_0001', 'OAS30001')
    """
    if match := _OASIS3.search(str(text)):
        return f"OAS3{match[1]}"
    if match := _BIDS.search(str(text)):
        return f"OAS3{match[2]}" if match[1] == "3" else f"OAS{match[1]}_{match[2]}"
    return None


def study_of(subject: str) -> str:
    """``oasis1``, ``oasis2`` or ``oasis3`` by a subject's name."""
    return STUDIES[subject[3]]


def find_scans(root: Path, report: ReadReport) -> tuple[list[Scan], set[tuple[str, int]]]:
    """One volume for every session below a folder, by subject and session; and the sessions with halves of pairs alone.

    Of several images of a session the first by name counts. A pair without its other half is counted as left out.

    Raises:
        DataError: There are images of two of the three.
    """
    found: dict[tuple[str, int], dict[tuple[str, str], _Candidate]] = {}
    sidecars: set[Path] = set()
    for here in walk(root, not_raw):
        for name in here.files:
            path = Path(here.path, name)
            if name.endswith("_T1w.json"):
                sidecars.add(path)
            elif (known := _recognised(here.inside, name)) is not None:
                key, kind, half, packed = known
                stem = str(path)[: len(str(path)) - len(half) - len(packed)] if half else str(path)
                candidate = found.setdefault(key, {}).setdefault((stem, packed), _Candidate((kind, name.lower())))
                candidate.files[half.lower()] = str(path)
    studies = {study_of(subject) for subject, _ in found}
    if len(studies) > 1:
        named = " and ".join(TITLES[study] for study in sorted(studies))
        raise DataError(f"{root} holds images of {named}; name the folder of one of them")
    scans: list[Scan] = []
    broken: set[tuple[str, int]] = set()
    for (subject, number), candidates in sorted(found.items()):
        whole = sorted((each for each in candidates.values() if each.whole), key=lambda each: each.rank)
        if halves := len(candidates) - len(whole):
            report.skip(HALF_MISSING, count=halves)
        if not whole:
            broken.add((subject, number))
            continue
        if len(whole) > 1:
            report.skip(ANOTHER, count=len(whole) - 1)
        image = Path(whole[0].files.get("") or whole[0].files["hdr"])
        sidecar = image.with_name(re.sub(r"\.nii(\.gz)?$", ".json", image.name))
        session = f"d{number:04d}" if study_of(subject) == "oasis3" else f"MR{number}"
        scans.append(Scan(subject, number, image, session, sidecar if sidecar in sidecars else None))
    return scans, broken


def _recognised(inside: str, name: str) -> tuple[tuple[str, int], int, str, str] | None:
    """(Subject, session), rank, which half of a pair (empty for a whole), ``.gz`` or empty; None for another file."""
    if match := _T1W.match(name):
        return (match[1].upper(), int(match[2])), int(_ONLY_RUN.fullmatch(match[3] or "") is None), "", ""
    match = _T88.search(name)
    study = "1" if match else "2"
    match = match or _MPR.search(name)
    session = session_of(f"{inside}/{name}")
    if match is None or session is None or session[0][3] != study:
        return None
    return session, 0, match[1] or "", match[2] or "" if match[1] else ""
