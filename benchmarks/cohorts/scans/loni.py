"""T1, PET and diffusion maps of ADNI as the image archive (LONI/IDA) hands them out.

Each image is looked up as ADNI's T1 images are: the search table, or the archive's names, say whose it is and of which
day; ADNIMERGE says the visit that the day belongs to and its diagnosis. Images of one visit are one session, also where
PET and T1 were made weeks apart, and images of one day always are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.adni.archive import index_images
from medgraft.benchmarks.cohorts.adni.loni import Download, find_search_tables, numbers_of_days
from medgraft.benchmarks.cohorts.adni.merge import find_merge, is_missing, read_merge, records
from medgraft.benchmarks.cohorts.adni.series import (
    NO_MRI,
    NO_T1,
    PET,
    PET_IMAGES,
    PET_LEVELS,
    T1,
    diffusion_maps,
    pet_images,
    pet_level,
    words,
)
from medgraft.benchmarks.cohorts.scans.fits import newest_fit
from medgraft.benchmarks.cohorts.scans.table import NO_REFERENCE, NO_SCAN, REFERENCES, Scans, lacks_maps
from medgraft.benchmarks.cohorts.scans.tracers import UNTOLD, chosen_tracer, tracers_in
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import DataError

NUMBERED = re.compile(r"_I\d+\.nii(\.gz)?$", re.IGNORECASE)
"""End of the name of an image of the archive."""

OF_DAYS = "diffusion maps of different days; the scan counts as missing"
OF_FITS = "diffusion maps of different fits; the scan counts as missing"
SEVERAL = " or "
"""Between the tracers that one image names."""

Visits = dict[tuple[str, str], dict[str, Any]]
Days = Mapping[str, tuple[int, ...]]


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
    t1, pet, dmri = _kinds(download, maps, tracer, report)
    keys = sorted({*t1, *pet, *dmri})
    rows, files = [], {"t1": [], "pet": [], "dmri": []}
    for key in keys:
        uptake = _uptake(pet.get(key), reference, report, by_atlas=by_atlas)
        tensor = dmri[key].get("maps") if key in dmri else None
        if key not in t1 and uptake is None and tensor is None:
            report.skip(NO_SCAN)
            continue
        of = next(each[key] for each in (t1, pet, dmri) if key in each)
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
    named = tracers_in(f"{row['description']} {stated}")
    unnamed = words(row["description"]).startswith(("coreg", "co-registered")) and not stated
    return SEVERAL.join(named) or ("FDG" if unnamed else UNTOLD)


def _kinds(download: Download, maps: tuple[str, ...], tracer: str, report: ReadReport) -> tuple[Visits, Visits, Visits]:
    """Visits with a T1, with PET, and with maps of diffusion, which may be none of one fit."""
    listed = _listed(download, maps, tracer, report)
    days = numbers_of_days([rows for rows, _ in listed.values()])
    names = {name: diffusion_maps(name).name for name in maps}
    t1, pet = (_visits(download, *listed[name], days) for name in (T1.name, PET_IMAGES))
    images = {name: listed[of] for name, of in names.items()}
    dmri = _tensors(download, images, days, report)
    for name, (_, counted) in listed.items():
        _report(name, counted, report)
    _note_processing(pet, report)
    return t1, pet, dmri


def _listed(
    download: Download, maps: tuple[str, ...], tracer: str, report: ReadReport
) -> dict[str, tuple[pd.DataFrame, ReadReport]]:
    """Name of a kind of image -> the rows whose files are there, and what was counted of it."""
    several = [row["modality"] in PET and SEVERAL in row["tracer"] for row in records(download.rows)]
    torn = np.array(several, bool)
    for names, count in Counter(download.rows["tracer"].to_numpy()[torn]).items():
        report.skip(f"PET image whose tracer is ambiguous, {names}", count=count)
    download.rows = pd.DataFrame(download.rows[~torn])
    every, unheard = pet_images("any"), ReadReport()
    there = download.with_files(download.listed(every, unheard), every, unheard)
    chosen = chosen_tracer(Counter(name for name in there["tracer"] if name != UNTOLD), tracer)
    # Where nothing tells the tracer of any image, nothing tells that it is one.
    pet = pet_images(UNTOLD if chosen == "any" != tracer else chosen)
    out = {}
    for series in (T1, pet, *(diffusion_maps(name) for name in maps)):
        counted = ReadReport()
        out[series.name] = download.with_files(download.listed(series, counted), series, counted), counted
    return out


def _visits(download: Download, rows: pd.DataFrame, counted: ReadReport, days: Days) -> Visits:
    """(Subject, session) -> the visit's row, for one kind of image."""
    frame = download.described(rows, counted, days=days) if len(rows) else pd.DataFrame()
    return {(row["subject"], row["session"]): row for row in records(frame)}


def _report(name: str, counted: ReadReport, report: ReadReport) -> None:
    """Adds what was counted of one kind of image, without images of other kinds."""
    for ours, theirs in ((report.skipped, counted.skipped), (report.notes, counted.notes)):
        said = {reason: count for reason, count in theirs.items() if reason not in (NO_MRI, NO_T1)}
        ours.update({f"{name}: {reason}": count for reason, count in said.items()})


def _note_processing(pet: Visits, report: ReadReport) -> None:
    levels = Counter(PET_LEVELS[pet_level(row["description"]) or 0] for row in pet.values())
    for level, count in levels.most_common()[1:]:
        report.note(f"PET image of other processing than most: {level}", count)


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


def _tensors(
    download: Download, images: Mapping[str, tuple[pd.DataFrame, ReadReport]], days: Days, report: ReadReport
) -> Visits:
    """(Subject, session) -> a row with ``maps``, the files of one fit, or ``None`` where no fit has all of them."""
    scans: dict[Any, dict[str, list[Any]]] = {}
    for name, (rows, _) in images.items():
        for row in records(rows):
            day = row["uid"] if is_missing(row["acq_date"]) else row["acq_date"]
            scans.setdefault((row["subject"], day), {}).setdefault(name, []).append(row)
    files, told = dict[str, tuple[Path, ...]](), ReadReport()
    whole, parts = [], {name: [] for name in images}
    for each in scans.values():
        fit = newest_fit({name: each[name] for name in images}) if len(each) == len(images) else None
        if fit is None:
            for name, rows in each.items():
                parts[name] += rows
            continue
        files[str(fit[0]["uid"])] = tuple(Path(row["image"]) for row in fit)
        whole.append(fit[0])
        if others := sum(map(len, each.values())) - len(fit):
            told.skip("map of another fit of the same scan", count=others)
    found = _visits(download, pd.DataFrame(whole), told, days)
    _report("diffusion maps", told, report)
    for row in found.values():
        row["maps"] = files[row["image_id"]]
    partial = {name: _visits(download, pd.DataFrame(rows), images[name][1], days) for name, rows in parts.items()}
    for key in sorted({key for each in partial.values() for key in each} - found.keys()):
        there = {name: each[key] for name, each in partial.items() if key in each}
        several = len({row["acq_date"] for row in there.values()}) > 1
        report.note(lacks_maps(tuple(images), there) or (OF_DAYS if several else OF_FITS))
        found[key] = {**next(iter(there.values())), "maps": None}
    return found
