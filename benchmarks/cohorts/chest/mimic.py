"""Reader of MIMIC-CXR as pairs of a frontal radiograph and a report, and the table of pairs that training code wants.

Johnson et al., "MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs", 2019
(arXiv 1901.07042). The JPG release has the tables and the images, the DICOM release the reports; both have the tree
``files/p10/p10000032/s50414267/``, so one may be unpacked over the other, or the reports lie beside it in
``mimic-cxr-reports/``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.chest.chexpert_labels import CHEXPERT_14
from medgraft.benchmarks.cohorts.chest.mimic_reports import WANTED, Wanted, caption, one_line, report_sections
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.images.load import SUFFIXES, find_home
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, generator_of, is_phantom, read_table
from medgraft.errors import DataError, UnknownNameError

SPLITS = ("train", "validate", "test")
FRONTAL = ("AP", "PA")
PAIR_COLUMNS = ("full_path", "path_base", "text", "subject_id", "study_id", "split", "view", *CHEXPERT_14)

_REPORT_FOLDERS = ("", "mimic-cxr-reports", "reports")
_SECTIONED = "mimic_cxr_sectioned.csv"
_TABLE = re.compile(r"mimic-cxr-\d\.\d\.\d-(?P<kind>split|metadata|chexpert|negbio)\.csv(?:\.gz)?$")


@dataclass(frozen=True)
class MimicTable:
    """Pairs of image and report.

    Attributes:
        home: The folder with the tables.
        frame: One row per image: ``subject`` (``p10000032``), ``study`` (``s50414267``), ``view`` (AP or PA), ``split``
            (train, validate or test), ``image`` (absolute path), ``report`` (the caption), and the 14 labels of the
            CheXpert labeler as floats: 1 present, 0 absent, -1 uncertain, NaN not mentioned or study not labelled.
        report: How many images were used and left out, and why.
        phantom: Whether the copy was generated.
        generator: Version of the generator, None for a real copy.
    """

    home: Path
    frame: pd.DataFrame
    report: ReadReport
    phantom: bool
    generator: str | None

    def rows(self, keep: Sequence[int] | np.ndarray) -> MimicTable:
        """The table with these rows ``[m]`` only; the report is a copy."""
        report = ReadReport(len(keep), self.report.skipped.copy(), self.report.notes.copy())
        return replace(self, frame=self.frame.iloc[keep].reset_index(drop=True), report=report)


def has_mimic(root: Path) -> bool:
    """Whether a copy of MIMIC-CXR is in this folder or one level below it."""
    folders = [root, *(child for child in sorted(root.iterdir()) if child.is_dir())] if root.is_dir() else []
    return any("split" in _tables(folder) for folder in folders)


def read_mimic(root: Path, *, views: Sequence[str] = FRONTAL, section: Wanted = "findings+impression") -> MimicTable:
    """Reads the pairs of a copy.

    Args:
        root: The folder with ``mimic-cxr-2.0.0-split.csv`` (or ``.csv.gz``), or the folder that holds it.
        views: Values of ``ViewPosition`` to keep.
        section: Which part of a report is its caption.

    Returns:
        The images that exist and whose report has a caption. Other views, images without a view, a report or a file,
        studies on no known split and labels other than 1, 0, -1 or blank are left out and counted. Labels are joined
        by study, never by position, and a study that was not labelled stays, with blank labels.

    Raises:
        DataError: A table is missing or lacks a column, or not one pair can be used.
        UnknownNameError: There is no such section.
    """
    if section not in WANTED:
        raise UnknownNameError("section of a report", section, WANTED)
    home, tables = _home(Path(root))
    split = read_table(tables["split"], ("dicom_id", "study_id", "subject_id", "split"))
    report = ReadReport()
    split = _without_repeats(split, report)
    records = _records(split, _views(tables), views, report)
    if not records:
        raise DataError(f"{tables['split']} has no usable row; left out: {dict(report.skipped)}")
    images = [_image(home, record) for record in records]
    if not any(images):
        raise DataError(f"none of the {len(records)} images is there; one should be {_stem(home, records[0])}.jpg")
    captions = _captions(home, {record[:2] for record in records}, section)
    if not any(captions.values()):
        raise DataError(
            f"{home} has no report; unpack mimic-cxr-reports.zip there, or put {_SECTIONED} beside the tables"
        )
    labels, odd, torn = _labels(tables, report)
    rows = []
    for record, image in zip(records, images, strict=True):
        subject, study, _, part, view = record
        if not image:
            report.skip("image missing", record[2])
        elif not captions[subject, study]:
            report.skip("report missing or without the section", study)
        elif study in odd:
            report.skip("label other than 1, 0, -1 or blank", study)
        elif study in torn:
            report.skip("two rows of labels for the study that differ", study)
        else:
            if study not in labels:
                report.note("study without labels")
            vector = labels.get(study, [float("nan")] * len(CHEXPERT_14))
            rows.append((f"p{subject}", f"s{study}", view, part, image, captions[subject, study], *vector))
    if not rows:
        raise DataError(f"{home} has no usable pair; left out: {dict(report.skipped)}")
    names = ["subject", "study", "view", "split", "image", "report", *CHEXPERT_14]
    report.used = len(rows)
    frame = pd.DataFrame(rows, columns=names)
    phantom = is_phantom(home) or made_up("mimic", frame["subject"])
    return MimicTable(home, frame, report, phantom, generator_of(home))


def write_pairs(table: MimicTable, out: Path) -> Path:
    """Writes the table of pairs that contrastive training code reads, one row per image.

    Columns: ``full_path`` (below the copy's folder, so that the table can be shared between machines), ``path_base``
    (file name), ``text``, ``subject_id``, ``study_id``, ``split``, ``view`` and the 14 labels. ACE-LoRA (Aydin et al.,
    2026) trains on the columns ``full_path``, ``path_base`` and ``text`` of such a table, which was not published.

    Args:
        table: The pairs.
        out: New CSV file.

    Returns:
        ``out``.

    Raises:
        DataError: The file exists.
    """
    out = Path(out)
    if out.exists():
        raise DataError(f"{out} exists; name a new file or remove it first")
    frame = table.frame
    paths = [os.path.relpath(image, table.home) for image in frame["image"]]
    pairs = pd.DataFrame(
        {
            "full_path": paths,
            "path_base": [os.path.basename(path) for path in paths],
            "text": frame["report"],
            "subject_id": frame["subject"].str[1:],
            "study_id": frame["study"].str[1:],
            "split": frame["split"],
            "view": frame["view"],
        }
    ).join(frame[list(CHEXPERT_14)])
    out.parent.mkdir(parents=True, exist_ok=True)
    pairs[list(PAIR_COLUMNS)].to_csv(out, index=False)
    return out


def _tables(folder: Path) -> dict[str, Path]:
    """Kind of table -> its file, the newest release where there are several."""
    tables: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _TABLE.match(path.name)
        if match and path.is_file():
            tables[match["kind"]] = path
    return tables


def _home(root: Path) -> tuple[Path, dict[str, Path]]:
    folders = [root, *(child for child in sorted(root.iterdir()) if child.is_dir())] if root.is_dir() else []
    home = next((folder.absolute() for folder in folders if "split" in _tables(folder)), None)
    if home is None:
        names = ("mimic-cxr-2.0.0-split.csv", "mimic-cxr-2.0.0-split.csv.gz")
        home = find_home(root, names, "MIMIC-CXR")[0]  # says what is missing
    tables = _tables(home)
    for kind in ("metadata", "chexpert"):
        if kind not in tables:
            raise DataError(f"{home} has no mimic-cxr-2.0.0-{kind}.csv or .csv.gz; put it beside the split table")
    return home, tables


_Record = tuple[int, int, str, str, str]
"""Subject, study, image, split and view."""


def _records(split: pd.DataFrame, views: Mapping[str, str], splits: Sequence[str], report: ReadReport) -> list[_Record]:
    records, seen = [], set()
    numbers = split[["subject_id", "study_id"]].apply(pd.to_numeric, errors="coerce")
    columns = (numbers["subject_id"], numbers["study_id"], split["dicom_id"], split["split"])
    for subject, study, name, part in zip(*columns, strict=True):
        view = views.get(str(name), "")
        if np.isnan(subject) or np.isnan(study) or pd.isna(name):
            report.skip("row without subject, study or image")
        elif part not in SPLITS:
            report.skip("split unknown", name)
        elif name in seen:
            report.skip("duplicate row", name)
        elif view not in splits:
            report.skip("other view" if view else "view unknown", name)
        else:
            seen.add(name)
            records.append((int(subject), int(study), str(name), str(part), view))
    return records


def _without_repeats(split: pd.DataFrame, report: ReadReport) -> pd.DataFrame:
    """The rows without those of images that are told to be in two splits, or of two people: neither can be right."""
    rows = split.drop_duplicates(["dicom_id", "study_id", "subject_id", "split"])
    twice: Any = rows.loc[rows["dicom_id"].duplicated(), "dicom_id"]
    torn: Any = split["dicom_id"].isin(twice) & split["dicom_id"].notna()
    if torn.any():
        report.skip("two rows for the image that differ", count=int(torn.sum()))
    return pd.DataFrame(split[~torn])


def _views(tables: Mapping[str, Path]) -> dict[str, str]:
    """Image -> view; none where two rows name two."""
    table = read_table(tables["metadata"], ("dicom_id", "ViewPosition"))
    views = table["ViewPosition"].fillna("").astype(str).str.strip().str.upper()
    view_of: dict[str, str] = {}
    for name, view in zip(table["dicom_id"].astype(str), views, strict=True):
        view_of[name] = view if view_of.get(name, view) == view else ""
    return view_of


def _labels(tables: Mapping[str, Path], report: ReadReport) -> tuple[dict[int, list[float]], set[int], set[int]]:
    """Study -> its 14 labels; the studies with a value that is none; and those with rows that differ."""
    table = read_table(tables["chexpert"], ("subject_id", "study_id", *CHEXPERT_14))
    numbers = table[["study_id", *CHEXPERT_14]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    named = ~np.isnan(numbers[:, 0])
    studies, values = numbers[named, 0].astype(int), numbers[named, 1:]
    blank = table[list(CHEXPERT_14)].isna().to_numpy()[named]
    good = ((np.isnan(values) & blank) | np.isin(values, (1, 0, -1))).all(axis=1)
    rows = pd.DataFrame(values).assign(study=studies)
    again = rows[rows["study"].duplicated(keep=False)]
    stated: Any = again.groupby("study").nunique()  # a blank states nothing, and differs from nothing
    torn: set[int] = set(stated.index[(stated > 1).any(axis=1)].tolist())
    repeated: Any = again["study"]
    agreeing = repeated[~repeated.isin(list(torn))]
    if further := len(agreeing) - agreeing.nunique():
        report.note("further row of labels for a study, which agrees", further)
    first_rows: Any = rows.groupby("study").first()
    labels = dict(zip(first_rows.index.tolist(), first_rows.to_numpy(float).tolist(), strict=True))
    return labels, set(studies[~good].tolist()), torn


def _folder(home: Path, subject: int) -> Path:
    return home / "files" / f"p{str(subject)[:2]}" / f"p{subject}"


def _stem(home: Path, record: _Record) -> Path:
    return _folder(home, record[0]) / f"s{record[1]}" / record[2]


def _image(home: Path, record: _Record) -> str:
    """The image's file, empty where there is none; asked for by name, since listing this tree takes long."""
    stem = str(_stem(home, record))
    return next((stem + suffix for suffix in (".jpg", *SUFFIXES) if os.path.isfile(stem + suffix)), "")


def _captions(home: Path, studies: set[tuple[int, int]], section: Wanted) -> dict[tuple[int, int], str]:
    """(Subject, study) -> caption; from the sectioned table where it is there, else from the reports."""
    path = home / _SECTIONED
    if path.is_file():
        table = read_table(path, ("study", "impression", "findings")).astype(object).fillna("")
        captions = {
            str(study).lstrip("s"): {"impression": one_line(str(impression)), "findings": one_line(str(findings))}
            for study, impression, findings in zip(table["study"], table["impression"], table["findings"], strict=True)
        }
        return {key: caption(captions.get(str(key[1]), {}), section) for key in studies}
    return {key: caption(report_sections(_report(home, *key)), section) for key in studies}


def _report(home: Path, subject: int, study: int) -> str:
    """The text of a report, empty where there is none."""
    for name in _REPORT_FOLDERS:
        folder = _folder(home / name if name else home, subject)
        for path in (folder / f"s{study}.txt", folder / f"s{study}" / f"s{study}.txt"):
            if path.is_file():
                return path.read_text(encoding="utf-8", errors="replace")
    return ""
