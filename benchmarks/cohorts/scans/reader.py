"""T1, PET and diffusion maps of the same sessions, and the people's facts, from a BIDS tree with derivatives."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.adni.merge import column_of, map_diagnosis, sexes, to_floats
from medgraft.benchmarks.cohorts.scans.dmri import MAPS
from medgraft.benchmarks.cohorts.scans.tree import Session, find_scans
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, read_table, renamed
from medgraft.errors import DataError

COLUMNS = {
    "participant_id": (),
    "diagnosis": ("diagnosis_sc", "dx", "group", "diagnosis_bl"),
    "age": ("age_bl", "age_at_scan"),
    "sex": ("gender",),
    "site": ("site_id", "scan_site_id"),
    "head_size": ("icv", "tiv", "etiv", "eTIV"),
}
"""Column of ``participants.tsv`` -> further spellings."""


@dataclass(frozen=True)
class Scans:
    """One row for each session that has some scan.

    Attributes:
        frame: ``subject``, ``session``, ``dx`` (CN, MCI, AD or None), ``age`` (years), ``sex`` (F, M or None),
            ``site``, ``head_size`` (mm3, or whatever the table has); missing where the table says nothing.
        t1: T1 image of each row, or ``None``.
        pet: PET image of each row and its reference region, or ``None``.
        dmri: Maps of each row, or ``None``.
        report: What was used, left out and repaired.
    """

    frame: pd.DataFrame
    t1: list[Path | None]
    pet: list[tuple[Path, Path | None] | None]
    dmri: list[tuple[Path, ...] | None]
    report: ReadReport = field(default_factory=ReadReport)


def read_scans(
    root: Path, *, maps: tuple[str, ...] = ("FA", "MD"), reference: str = "cerebellum", by_atlas: bool = False
) -> Scans:
    """Reads the table of people and finds their scans.

    Args:
        root: Folder with ``participants.tsv``, ``sub-*`` and ``derivatives``.
        maps: Diffusion maps that a row needs; one that lacks some has none.
        reference: Label of the mask of PET's reference region; ``none`` for uptake as it is.
        by_atlas: The region is in an atlas, ``*_dseg``, and no mask.

    Raises:
        DataError: There is no table of people, no scan, or no mask of the region beside any PET image.
    """
    root = Path(root)
    table = root / "participants.tsv"
    if not table.is_file():
        raise DataError(f"{root} has no participants.tsv; name the folder of a BIDS tree")
    report = ReadReport()
    people = _people(table, report)
    sessions, notes = find_scans(root)
    report.notes.update(notes)
    if not sessions:
        raise DataError(f"{root} holds no scan that is named as BIDS names them, sub-*_T1w.nii.gz and the like")
    rows, t1, pet, dmri = [], [], [], []
    lacking: Counter[str] = Counter()
    for (subject, session), files in sessions.items():
        if subject not in people.index:
            report.skip("session of a person who is not in participants.tsv")
            continue
        uptake = _uptake(files, reference.lower(), lacking, by_atlas=by_atlas)
        tensor = _tensor(files, maps, lacking)
        if not files.t1 and uptake is None and tensor is None:
            report.skip("session without a usable scan")
            continue
        rows.append({"subject": subject, "session": session, **people.loc[subject].to_dict()})
        t1.append(files.t1[0] if files.t1 else None)
        pet.append(uptake)
        dmri.append(tensor)
    report.notes.update(lacking)
    if not rows:
        raise DataError(f"{root} has no scan of anybody in its participants.tsv ({_said(report)})")
    without = lacking.get(NO_REFERENCE, 0)
    if without and not any(pet):
        known = sorted({label for files in sessions.values() for label in files.masks}) or ["none at all"]
        raise DataError(
            f"no PET image has a mask label-{reference}_mask beside it (masks there are: {', '.join(known)}); set "
            "reference to one of them, name an atlas's labels, or reference=none for uptake as it is"
        )
    report.used = len(rows)
    return Scans(pd.DataFrame(rows), t1, pet, dmri, report)


NO_REFERENCE = "PET image without its reference region; it counts as missing"


def _said(report: ReadReport) -> str:
    return "; ".join(f"{reason}: {count}" for reason, count in report.skipped.most_common()) or "no session at all"


def _people(path: Path, report: ReadReport) -> pd.DataFrame:
    """Facts of people by BIDS name."""
    raw = renamed(read_table(path, (), "\t"), COLUMNS)
    if "participant_id" not in raw:
        raise DataError(f"{path} has no column participant_id; it has: {', '.join(map(str, raw.columns[:30]))}")
    names = column_of(raw, "participant_id").astype("string").fillna("").str.strip()
    names = names.where(names.str.startswith("sub-"), "sub-" + names)
    facts = pd.DataFrame(
        {
            "dx": [map_diagnosis(value) for value in column_of(raw, "diagnosis")],
            "age": to_floats(column_of(raw, "age")).to_numpy(),
            "sex": sexes(column_of(raw, "sex"), report).to_numpy(object),
            "site": column_of(raw, "site").astype("string").fillna("").to_numpy(object),
            "head_size": to_floats(column_of(raw, "head_size")).to_numpy(),
        },
        index=pd.Index(names, name="subject"),
    )
    facts["dx"] = facts["dx"].astype(object).where(facts["dx"].notna(), None)
    repeated = facts.index.duplicated()
    if repeated.any():
        report.note("person twice in participants.tsv; the first row is used", int(repeated.sum()))
    return pd.DataFrame(facts[~repeated])


def _uptake(
    files: Session, reference: str, lacking: Counter[str], *, by_atlas: bool
) -> tuple[Path, Path | None] | None:
    if not files.pet:
        return None
    if reference == "none":
        return files.pet[0], None
    regions = files.atlas if by_atlas else files.masks.get(reference, [])
    if not regions:
        lacking[NO_REFERENCE] += 1
        return None
    return files.pet[0], regions[0]


def _tensor(files: Session, maps: tuple[str, ...], lacking: Counter[str]) -> tuple[Path, ...] | None:
    if not files.maps:
        return None
    if absent := [name for name in MAPS if name in maps and name not in files.maps]:
        lacking[f"diffusion scan without {' and '.join(absent)}; it counts as missing"] += 1
        return None
    return tuple(files.maps[name][0] for name in maps)


def confounds(frame: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """What two scans of a person share besides the brain: age, sex, site and head size.

    Args:
        frame: Of :class:`Scans`, ``n`` rows.

    Returns:
        ``float64 [n, F]``, columns of mean 0 and deviation 1 (missing numbers 0), and their names; columns that do not
        vary are left out.
    """
    columns = {
        "age": pd.Series(frame["age"], dtype=float),
        "female": pd.Series([{"F": 1.0, "M": 0.0}.get(sex, np.nan) for sex in frame["sex"]]),
        "head size": pd.Series(frame["head_size"], dtype=float),
    }
    for site in sorted(set(frame["site"].astype(str)) - {""}):
        columns[f"site {site}"] = (frame["site"].astype(str) == site).astype(float)
    values, names = [], []
    for name, column in columns.items():
        numbers = column.to_numpy(float)
        known = np.isfinite(numbers)
        if known.any() and (spread := numbers[known].std()) > 1e-9:
            values.append(np.where(known, (numbers - numbers[known].mean()) / spread, 0.0))
            names.append(name.partition(" ")[0] if name.startswith("site") else name)
    return np.stack(values, axis=1) if values else np.zeros((len(frame), 0)), tuple(dict.fromkeys(names))
