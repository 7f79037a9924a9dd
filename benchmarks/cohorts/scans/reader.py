"""T1, PET and diffusion maps of the same sessions, and the people's facts.

They come from a BIDS tree with derivatives, or from ADNI as the image archive hands it out
(:mod:`medgraft.benchmarks.cohorts.scans.loni`); the files say which.
"""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pandas as pd

from medgraft.benchmarks.cohorts.adni.merge import column_of, map_diagnosis, sexes, to_floats
from medgraft.benchmarks.cohorts.scans.loni import looks_like_loni, read_loni_scans
from medgraft.benchmarks.cohorts.scans.table import NO_REFERENCE, NO_SCAN, REFERENCES, Scans, lacks_maps
from medgraft.benchmarks.cohorts.scans.tracers import UNTOLD, chosen_tracer, tracer_of
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


def read_scans(
    root: Path,
    *,
    maps: tuple[str, ...] = ("FA", "MD"),
    reference: str = "cerebellum",
    by_atlas: bool = False,
    tracer: str = "one",
) -> Scans:
    """Reads the table of people and finds their scans.

    Args:
        root: Folder with ``participants.tsv``, ``sub-*`` and ``derivatives``; or with ADNI's images by their numbers,
            its search table and ADNIMERGE.
        maps: Diffusion maps that a row needs; one that lacks some has none.
        reference: Label of the mask of PET's reference region; ``global`` for the mean of the head, ``none`` for uptake
            as it is.
        by_atlas: The region is in an atlas, ``*_dseg``, and no mask.
        tracer: Whose PET images; ``one`` for the only one that there is, ``any`` for all.

    Raises:
        DataError: There is no table of people, no scan, no mask of the region beside any PET image, or PET images are
            of several tracers and none is named.
    """
    root = Path(root)
    if (root / "participants.tsv").is_file():
        return _read_bids(root, maps=maps, reference=reference.lower(), by_atlas=by_atlas, tracer=tracer)
    if looks_like_loni(root):
        return read_loni_scans(root, maps=maps, reference=reference.lower(), by_atlas=by_atlas, tracer=tracer)
    raise DataError(
        f"{root} has no participants.tsv, as a BIDS tree has, and no image named *_I<number>.nii, as ADNI's archive "
        "names them; name the folder of either"
    )


def _read_bids(root: Path, *, maps: tuple[str, ...], reference: str, by_atlas: bool, tracer: str) -> Scans:
    table = root / "participants.tsv"
    report = ReadReport()
    people = _people(table, report)
    sessions, notes = find_scans(root)
    report.notes.update(notes)
    if not sessions:
        raise DataError(f"{root} holds no scan that is named as BIDS names them, sub-*_T1w.nii.gz and the like")
    tracer = chosen_tracer(Counter(tracer_of_file(path) for each in sessions.values() for path in each.pet), tracer)
    rows, t1, pet, dmri, fmri = [], [], [], [], []
    lacking: Counter[str] = Counter()
    for (subject, session), files in sessions.items():
        if subject not in people.index:
            report.skip("session of a person who is not in participants.tsv")
            continue
        uptake = _uptake(files, reference, tracer, lacking, by_atlas=by_atlas)
        tensor = _tensor(files, maps, lacking)
        if not files.t1 and not files.runs and uptake is None and tensor is None:
            report.skip(NO_SCAN)
            continue
        rows.append({"subject": subject, "session": session, **people.loc[subject].to_dict()})
        t1.append(files.t1[0] if files.t1 else None)
        pet.append(uptake)
        dmri.append(tensor)
        fmri.append(_run(files.runs[0]) if files.runs else None)
    report.notes.update(lacking)
    if not rows:
        raise DataError(f"{root} has no scan of anybody in its participants.tsv ({_said(report)})")
    without = lacking.get(NO_REFERENCE, 0)
    if without and not any(pet):
        known = sorted({label for files in sessions.values() for label in files.masks}) or ["none at all"]
        raise DataError(
            f"no PET image has a mask label-{reference}_mask beside it (masks there are: {', '.join(known)}); set "
            "reference to one of them, name an atlas's labels, or reference=global for the mean of the head, or "
            "reference=none for uptake as it is"
        )
    report.used = len(rows)
    return Scans(pd.DataFrame(rows), t1, pet, dmri, fmri, report)


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


def tracer_of_file(path: Path) -> str:
    """The tracer by BIDS's ``trc-`` in a file's name: of the list, else the label itself, so that two do not mix."""
    label = re.search(r"_trc-([A-Za-z0-9]+)_", path.name)
    return (tracer_of(label[1]) or label[1].lower()) if label else UNTOLD


def _uptake(
    files: Session, reference: str, tracer: str, lacking: Counter[str], *, by_atlas: bool
) -> tuple[Path, Path | None] | None:
    images = [path for path in files.pet if tracer in ("any", tracer_of_file(path))]
    if not images:
        if files.pet:
            lacking["PET image of another tracer alone; it counts as missing"] += 1
        return None
    if reference in REFERENCES:
        return images[0], None
    regions = files.atlas if by_atlas else files.masks.get(reference, [])
    if not regions:
        lacking[NO_REFERENCE] += 1
        return None
    return images[0], regions[0]


def _run(image: Path) -> tuple[Path, Path | None]:
    """A run and fMRIPrep's mask beside it."""
    mask = image.with_name(image.name.replace("desc-preproc_bold", "desc-brain_mask"))
    return image, mask if mask.is_file() else None


def _tensor(files: Session, maps: tuple[str, ...], lacking: Counter[str]) -> tuple[Path, ...] | None:
    if not files.maps:
        return None
    if said := lacks_maps(maps, files.maps):
        lacking[said] += 1
        return None
    return tuple(files.maps[name][0] for name in maps)
