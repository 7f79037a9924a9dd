"""T1, PET and diffusion maps of ADNI as the image archive (LONI/IDA) hands them out.

Each image is looked up as ADNI's T1 images are: the search table, or the archive's names, say whose it is and of which
day; ADNIMERGE says the visit that the day belongs to and its diagnosis. Images of one visit are one session, also where
PET and T1 were made weeks apart.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.adni.archive import index_images
from medgraft.benchmarks.cohorts.adni.loni import Download, find_search_tables
from medgraft.benchmarks.cohorts.adni.merge import find_merge, read_merge, records
from medgraft.benchmarks.cohorts.adni.series import (
    NO_MRI,
    NO_T1,
    PET_LEVELS,
    T1,
    Series,
    diffusion_maps,
    pet_images,
    pet_level,
    words,
)
from medgraft.benchmarks.cohorts.scans.table import NO_REFERENCE, NO_SCAN, REFERENCES, Scans, lacks_maps
from medgraft.benchmarks.cohorts.scans.tracers import UNTOLD, chosen_tracer, tracer_of
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import DataError

NUMBERED = re.compile(r"_I\d+\.nii(\.gz)?$", re.IGNORECASE)
"""End of the name of an image of the archive."""

Visits = dict[tuple[str, str], dict[str, Any]]


def looks_like_loni(root: Path) -> bool:
    """Whether there are images with numbers of the archive, and a table or names that say whose they are."""
    index = index_images(root)
    return bool(index.volumes or index.dicom)


def read_loni_scans(root: Path, *, maps: tuple[str, ...], reference: str, by_atlas: bool, tracer: str = "one") -> Scans:
    """Reads a download; for the arguments see :func:`medgraft.benchmarks.cohorts.scans.reader.read_scans`.

    Raises:
        DataError: Nobody has both a scan and a diagnosis, or the PET images are of several tracers.
    """
    report = ReadReport()
    place = find_merge(root, report)
    merge = None if place is None else read_merge(place, report)
    download = Download.of(root, find_search_tables(root), merge, report)
    if download.index.copies:
        report.note("copy of an image file; one of them is used", download.index.copies)
    download.rows["tracer"] = [_tracer(row) for row in records(download.rows)]
    t1 = _visits(download, T1, report)
    pet = _pet(download, tracer, report)
    tensors = {name: _visits(download, diffusion_maps(name), report) for name in maps}
    keys = sorted({*t1, *pet, *(key for each in tensors.values() for key in each)})
    rows, files = [], {"t1": [], "pet": [], "dmri": []}
    for key in keys:
        uptake = _uptake(pet.get(key), reference, report, by_atlas=by_atlas)
        tensor = _tensor({name: each[key] for name, each in tensors.items() if key in each}, maps, report)
        if key not in t1 and uptake is None and tensor is None:
            report.skip(NO_SCAN)
            continue
        of = next(each[key] for each in (t1, pet, *tensors.values()) if key in each)
        facts = {name: of[name] for name in ("subject", "session", "dx", "age", "sex", "site")}
        rows.append({**facts, "site": of["site"] or "", "head_size": of["ICV"]})
        files["t1"].append(Path(t1[key]["image"]) if key in t1 else None)
        files["pet"].append(uptake)
        files["dmri"].append(tensor)
    if not rows:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in report.skipped.most_common())
        raise DataError(
            f"{root} has no T1, PET or diffusion image of a visit with a diagnosis ({reasons or 'no rows at all'}); "
            "images are *_I<image id>.nii or .nii.gz, and ADNIMERGE beside them has the diagnoses"
        )
    if report.notes[NO_REFERENCE] and not any(files["pet"]):
        raise DataError(
            f"the archive's PET images come without a region label-{reference}_mask beside them; set reference=global "
            "for the mean uptake of the head, reference=none for uptake as it is, or put the masks there"
        )
    report.used = len(rows)
    return Scans(pd.DataFrame(rows), files["t1"], files["pet"], files["dmri"], [None] * len(rows), report)


def _tracer(row: dict[str, Any]) -> str:
    """By the description and the search table; processed images that name none are FDG, the archive's first tracer."""
    stated = str(row["tracer"])
    unnamed = words(row["description"]).startswith(("coreg", "co-registered")) and not stated
    return tracer_of(f"{row['description']} {stated}") or ("FDG" if unnamed else UNTOLD)


def _visits(download: Download, series: Series, report: ReadReport) -> Visits:
    """(Subject, session) -> the visit's row, for one kind of image."""
    counted = ReadReport()
    rows = download.with_files(download.listed(series, counted), series, counted)
    frame = download.described(rows, counted) if len(rows) else pd.DataFrame()
    for ours, theirs in ((report.skipped, counted.skipped), (report.notes, counted.notes)):
        said = {reason: count for reason, count in theirs.items() if reason not in (NO_MRI, NO_T1)}
        ours.update({f"{series.name}: {reason}": count for reason, count in said.items()})
    return {(row["subject"], row["session"]): row for row in records(frame)}


def _pet(download: Download, wanted: str, report: ReadReport) -> Visits:
    every = pet_images("any")
    listed = download.listed(every, ReadReport())
    there = download.with_files(listed, every, ReadReport())
    tracer = chosen_tracer(Counter(there["tracer"]), wanted)
    found = _visits(download, pet_images(tracer), report)
    levels = Counter(PET_LEVELS[pet_level(row["description"]) or 0] for row in found.values())
    for level, count in levels.most_common()[1:]:
        report.note(f"PET image of other processing than most: {level}", count)
    return found


def _uptake(
    row: dict[str, Any] | None, reference: str, report: ReadReport, *, by_atlas: bool
) -> tuple[Path, Path | None] | None:
    """The image, and a region that somebody put beside it under BIDS's name."""
    if row is None:
        return None
    image = Path(row["image"])
    if reference in REFERENCES:
        return image, None
    pattern = "*_dseg.nii*" if by_atlas else f"*label-{reference}_mask.nii*"
    regions = sorted(image.parent.glob(pattern))
    stem = image.name.split(".nii")[0]
    alone = sum(bool(NUMBERED.search(each.name)) for each in image.parent.iterdir()) == 1
    # In a folder of several images a mask is that of the image whose name it begins with, and of no other.
    regions = [each for each in regions if each.name.startswith(f"{stem}_")] or (regions if alone else [])
    if not regions:
        report.note(NO_REFERENCE)
        return None
    return image, regions[0]


def _tensor(found: dict[str, dict[str, Any]], maps: tuple[str, ...], report: ReadReport) -> Any:
    if not found:
        return None
    if said := lacks_maps(maps, found):
        report.note(said)
        return None
    if len({row["acq_date"] for row in found.values()}) > 1:
        report.note("diffusion maps of different days; the scan counts as missing")
        return None
    return tuple(Path(found[name]["image"]) for name in maps)
