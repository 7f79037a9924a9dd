"""Reader of the Indiana University chest films with reports (OpenI), in the three forms that people have them in.

Demner-Fushman et al., "Preparing a collection of radiology examinations for distribution and retrieval", JAMIA 2016.

- R2Gen (Chen et al., EMNLP 2020): ``annotation.json`` with the split of papers, ``images/CXR2384_IM-0942/0.png``.
- OpenI: XML reports (``ecgen-radiology/1.xml``) with sections and the ids of their images, ``NLMCXR_png/<id>.png``.
- Kaggle: ``indiana_reports.csv``, ``indiana_projections.csv`` and ``images/images_normalized``.

The XML form was checked on 3,955 real reports, the record of ``annotation.json`` and the columns of both tables against
code that reads them. ``XXXX`` in a text stands for a word that was removed, and is left there.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.chest.mimic_reports import Wanted, caption
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of, is_phantom, read_table
from medgraft.benchmarks.cohorts.texts.records import Images, find_home_of, image_folders, read_json, text_of
from medgraft.errors import DataError

ANNOTATION, XML, REPORTS, PROJECTIONS = (
    "annotation.json",
    "ecgen-radiology",
    "indiana_reports.csv",
    "indiana_projections.csv",
)
SIGNS = (ANNOTATION, f"{XML}/*.xml", REPORTS)
"""What shows which form a copy has, the first one found."""

_FOLDERS = {
    "r2gen": ("images",),
    "openi": ("NLMCXR_png", "images", "images/images_normalized"),
    "kaggle": ("images/images_normalized", "images"),
}
_UID = re.compile(r"(?:CXR)?0*(\d+)")
_LARGEST = 1 << 20
"""Bytes of an XML report at most; the real ones have about 10,000."""


@dataclass
class Study:
    """One report and its images.

    Attributes:
        uid: Number of the study, one for each patient (``CXR2384``).
        report: Its text.
        images: Names of the images that may stand for it, the first choice first: the frontal ones, where that is told.
        count: Number of all of its images.
        split: ``train``, ``val`` or ``test``; empty where the form has no split.
        told: Whether something says which images are frontal.
    """

    uid: str
    report: str
    images: list[str]
    count: int
    split: str = ""
    told: bool = True


@dataclass(frozen=True)
class IuXrayTable:
    """Studies of one copy, each with the one image that stands for it.

    Attributes:
        form: ``r2gen``, ``openi`` or ``kaggle``.
        frame: ``subject`` (``CXR2384``), ``image`` (absolute path), ``report`` and ``split`` (empty but for R2Gen).
        report: What was left out, and why.
        phantom: Whether the copy was generated.
        generator: Version of the generator, None for a real copy.
        home: Folder of the copy.
    """

    form: str
    frame: pd.DataFrame
    report: ReadReport
    phantom: bool
    generator: str | None
    home: Path


def read_iu_xray(root: Path, section: Wanted = "findings+impression") -> IuXrayTable:
    """Reads a copy, in whichever form.

    A study has one image here: its first frontal one by ``indiana_projections.csv``, where that table is there; of
    R2Gen ``0.png``; and with the XML reports alone the first that the report names, which is usually the
    frontal one, and that is noted.

    Args:
        root: The folder of the copy, or the folder that holds it.
        section: Which part of a report is taken; R2Gen's reports are whole already.

    Raises:
        DataError: No form is recognised, a file of it is something else, or no study can be used.
    """
    home, sign = find_home_of(root, SIGNS, "IU X-ray")
    form = {ANNOTATION: "r2gen", REPORTS: "kaggle"}.get(sign.name, "openi")
    report = ReadReport()
    studies = {"r2gen": _r2gen, "openi": _openi, "kaggle": _kaggle}[form](home, section, report)
    images = Images(image_folders(home, _FOLDERS[form]))
    rows = []
    for study in _without_repeats(studies, report):
        found = [path for path in map(images.path, study.images) if path]
        if not study.count:
            report.skip("study without an image", study.uid)
        elif not study.images:
            report.skip("study without a frontal image", study.uid)
        elif not found:
            report.skip("image missing", study.uid)
        else:
            if not study.told and study.count > 1:
                report.note("view unknown; the first image that the report names was taken")
            rows.append((study.uid, found[0], study.report, study.split))
    images.check()
    if not rows:
        raise DataError(f"{home} has no usable study; left out: {dict(report.skipped)}")
    report.used = len(rows)
    frame = pd.DataFrame(rows, columns=["subject", "image", "report", "split"])
    phantom = is_phantom(home) or made_up("iu_xray", frame["subject"])
    return IuXrayTable(form, frame, report, phantom, generator_of(home), home)


def _uid(text: object) -> str:
    """``CXR2384`` of any of ``2384``, ``CXR2384`` and ``CXR2384_IM-0942``; empty of anything else."""
    match = _UID.match(text_of(text))
    return f"CXR{match[1]}" if match else ""


def _without_repeats(studies: Iterator[Study], report: ReadReport) -> list[Study]:
    """The studies without those whose number comes twice with different reports; equal repeats are one."""
    kept: dict[str, Study] = {}
    torn: set[str] = set()
    for study in studies:
        first = kept.setdefault(study.uid, study)
        if first is study:
            continue
        if (first.report, first.split) == (study.report, study.split):
            report.note("study twice")
        else:
            torn.add(study.uid)
    if torn:
        report.skip("study twice, with different reports or splits", count=len(torn))
    return [study for uid, study in kept.items() if uid not in torn]


def _r2gen(home: Path, section: Wanted, report: ReadReport) -> Iterator[Study]:
    del section
    parts = read_json(home / ANNOTATION)
    if not isinstance(parts, dict) or not {"train", "test"} <= set(parts):
        raise DataError(f"{home / ANNOTATION} has no lists train, val and test, which R2Gen's has")
    for split in ("train", "val", "test"):
        for row in parts.get(split) or []:
            uid = _uid(row.get("id")) if isinstance(row, dict) else ""
            paths = row.get("image_path") if isinstance(row, dict) else None
            if not uid:
                report.skip("record without id")
            else:
                names = [name for name in map(text_of, paths) if name] if isinstance(paths, list) else []
                yield Study(uid, text_of(row.get("report")), names[:1], len(names), split)


def _openi(home: Path, section: Wanted, report: ReadReport) -> Iterator[Study]:
    views = _projections(home, report) if (home / PROJECTIONS).is_file() else {}
    for path in sorted((home / XML).glob("*.xml"), key=lambda path: (len(path.stem), path.stem)):
        tree = _parsed(path)
        if tree is None:
            report.skip("report that is no XML", path.name)
            continue
        named = tree.find(".//uId")
        uid = _uid(named.get("id") if named is not None else path.stem)
        if not uid:
            report.skip("record without id")
            continue
        texts = {
            str(each.get("Label")).lower(): text_of("".join(each.itertext())) for each in tree.iter("AbstractText")
        }
        ids = [text_of(each.get("id")) for each in tree.iter("parentImage")]
        names = [f"{name}.png" for name in ids if name]
        told = uid in views
        frontal = {_series(name) for name in views[uid][0]} if told else set[str]()
        chosen = [name for name in names if _series(name) in frontal] if told else names
        yield Study(uid, caption(texts, section), chosen, len(names), told=told)


def _series(name: str) -> str:
    """The end that one image has in both namings: ``IM-0001-4001`` of ``CXR1_1_IM-0001-4001.png``."""
    at = name.find("IM-")
    return name[at:].split(".")[0] if at >= 0 else name


def _parsed(path: Path) -> ET.Element | None:
    try:
        content = path.read_bytes()
        # A report has no definitions of its own; those that expand without end are what harms a parser.
        return None if len(content) > _LARGEST or b"<!ENTITY" in content else ET.fromstring(content)
    except (OSError, ET.ParseError, ValueError, LookupError):
        return None


def _projections(home: Path, report: ReadReport) -> dict[str, tuple[list[str], list[str]]]:
    """Study -> its frontal and its other images."""
    views: dict[str, tuple[list[str], list[str]]] = {}
    table = read_table(home / PROJECTIONS, ("uid", "filename", "projection")).astype(object)
    for uid, name, view in zip(table["uid"], table["filename"], table["projection"], strict=True):
        key = _uid(_whole(uid))
        if not key or not text_of(name):
            report.skip("projection without uid or filename")
            continue
        views.setdefault(key, ([], []))[text_of(view).lower() != "frontal"].append(text_of(name))
    return views


def _whole(number: Any) -> object:
    """A number without the decimals that a column with gaps gives it."""
    return int(number) if isinstance(number, float) and number == number and number.is_integer() else number


def _kaggle(home: Path, section: Wanted, report: ReadReport) -> Iterator[Study]:
    if not (home / PROJECTIONS).is_file():
        raise DataError(f"{home} has no {PROJECTIONS}, which says what images there are; put it beside {REPORTS}")
    views = _projections(home, report)
    for row in read_table(home / REPORTS, ("uid", "findings", "impression")).astype(object).to_dict("records"):
        uid = _uid(_whole(row["uid"]))
        if not uid:
            report.skip("record without id")
            continue
        texts = {name: text_of(row[name]) for name in ("findings", "impression")}
        frontal, other = views.get(uid, ([], []))
        yield Study(uid, caption(texts, section), frontal, len(frontal) + len(other))
