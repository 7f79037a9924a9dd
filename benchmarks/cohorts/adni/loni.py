"""Reader of ADNI as the image archive (LONI/IDA) hands it out: a tree of images, a search table, and ADNIMERGE beside.

Images are found by their image id, the number behind ``_I`` at the end of the name; the folders above it differ between
archives. The search table's ``Group`` is the research group at enrolment and no diagnosis of the visit, so ADNIMERGE
decides and the group only stands in at baseline.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.adni.archive import ImageIndex, index_images
from medgraft.benchmarks.cohorts.adni.columns import (
    SEARCH_ALIASES,
    read_spelled,
    roster_key,
    roster_name,
    subject_id,
    to_dates,
)
from medgraft.benchmarks.cohorts.adni.merge import (
    CONTRADICTORY,
    FRAME_COLUMNS,
    SOURCE_MERGE,
    column_of,
    drop_rows,
    folders_below,
    in_range,
    is_withdrawn,
    map_diagnosis,
    records,
    sexes,
    to_ages,
    to_floats,
)
from medgraft.benchmarks.cohorts.adni.series import T1, Series
from medgraft.benchmarks.cohorts.adni.visits import VisitFinder
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, read_table, renamed
from medgraft.errors import DataError

SEARCH_REQUIRED = ("Image Data ID", "Subject", "Description", "Acq Date")
"""Group and visit are left to ADNIMERGE where a table has none, as ``All_Images_<date>.csv``."""

_KEPT_ONCE = "duplicate row of the search table"
NO_MERGE = "no ADNIMERGE table in the folder, above or below it: only baseline scans have a diagnosis, their group"
SAME_SCAN = "other processing of the same scan"
AMBIGUOUS_IMAGE = "image number of several different files"
_PTID_IN_NAME = re.compile(r"\d{3}_S_\d{4,5}", re.IGNORECASE)
_OF_PET = re.compile(r"\d{3}_S_\d{4,5}_P(?:E?)T_", re.IGNORECASE)
_PROTOCOL = {
    "field_strength": re.compile(r"Field Strength=([\d.]+)", re.IGNORECASE),
    "manufacturer": re.compile(r"Manufacturer=([^;]+)", re.IGNORECASE),
    "scanner_model": re.compile(r"Mfg Model=([^;]+)", re.IGNORECASE),
    "tracer": re.compile(r"Radiopharmaceutical=([^;]+)", re.IGNORECASE),
}


def find_search_tables(root: Path) -> list[Path]:
    """Every CSV that has the columns of a search table: in ``root``, in the folder above a folder named ADNI, or below.

    Sub-folders are looked into where there is none beside the images, see :func:`folders_below`.
    """
    beside = (root, root.parent) if root.name.upper() == "ADNI" else (root,)
    for folders in (beside, folders_below(root)):
        tables = (path for folder in folders for path in sorted(folder.glob("*")))
        searches = [path for path in tables if path.suffix.lower() == ".csv" and _is_search_table(path)]
        if searches:
            return searches
    return []


def _is_search_table(path: Path) -> bool:
    try:
        header = read_table(path, (), rows=0)
    except DataError:
        return False
    return {"Image Data ID", "Subject", "Description"} <= set(renamed(header, SEARCH_ALIASES).columns)


def read_loni(
    root: Path, tables: list[Path], merge: pd.DataFrame | None, report: ReadReport, *, variants: bool = False
) -> pd.DataFrame:
    """Builds the table of a LONI download.

    Args:
        root: Folder with the images somewhere below it.
        tables: Search tables; their rows are put together. Without any, the archive's own names of folders and files
            say whose images they are, of which day and processing.
        merge: Visits of ADNIMERGE, or None.
        report: Gets the counts.
        variants: Keep every processed variant of a scan, not only the preferred one.

    Returns:
        One row per subject and visit, or per variant of its scan, with ``FRAME_COLUMNS``.

    Raises:
        DataError: A search table lacks a column, or not one of its images is below ``root``.
    """
    download = Download.of(root, tables, merge, report)
    rows = download.listed(T1, report)
    if unlisted := len(download.index.volumes.keys() - set(rows["uid"])):
        report.note("image file without a usable row in the search table", unlisted)
    rows = download.with_files(rows, T1, report)
    if rows.empty:
        raise download.nothing_of(T1, report)
    if download.index.copies:
        report.note("copy of an image file; one of them is used", download.index.copies)
    return download.described(rows, report, variants=variants)


@dataclass
class Download:
    """What was downloaded, before it is asked for one kind of image.

    Attributes:
        root: Folder with the images somewhere below it.
        index: The files.
        rows: Rows of the search tables, of images of all kinds.
        finder: Visits of ADNIMERGE.
    """

    root: Path
    index: ImageIndex
    rows: pd.DataFrame
    finder: VisitFinder

    @classmethod
    def of(cls, root: Path, tables: list[Path], merge: pd.DataFrame | None, report: ReadReport) -> Download:
        """Reads the tables and lists the files; for the arguments see :func:`read_loni`."""
        index = index_images(root)
        parts = [read_spelled(path, SEARCH_REQUIRED, SEARCH_ALIASES) for path in tables] or [
            _images_by_path(index, report)
        ]
        if merge is None:
            report.note(NO_MERGE)
        return cls(root, index, _search_rows(parts, report), VisitFinder(merge))

    def listed(self, series: Series, report: ReadReport) -> pd.DataFrame:
        """The rows of one kind of image, one for each."""
        rows = self.rows
        for reason, bad in series.filters:
            counted = report if reason else ReadReport()
            rows = drop_rows(rows, bad(rows), reason, counted)
        return _one_row_per_image(rows.assign(uid=rows["uid"].astype(int)), report)

    def with_files(self, rows: pd.DataFrame, series: Series, report: ReadReport) -> pd.DataFrame:
        """Rows of :meth:`listed` whose images are there, best processing first; may be none."""
        return _attach_files(rows, self.index, series, report)

    def nothing_of(self, series: Series, report: ReadReport) -> DataError:
        """The error where :meth:`with_files` left none."""
        named = self.listed(series, ReadReport())["uid"]
        dicom = bool(named.isin(list(self.index.dicom)).any())
        hint = " as NIfTI, only as DICOM, which dcm2niix converts" if dicom else ""
        left_out = "; ".join(f"{reason}: {count}" for reason, count in report.skipped.most_common())
        return DataError(
            f"{self.root} holds none of the {len(named)} {series.name} that the search table names{hint}; expected "
            f"below it: *_I<image id>.nii or .nii.gz ({len(self.index.volumes)} such files are there; left out: "
            f"{left_out or 'nothing'})"
        )

    def described(
        self,
        rows: pd.DataFrame,
        report: ReadReport,
        *,
        variants: bool = False,
        days: Mapping[str, tuple[int, ...]] | None = None,
    ) -> pd.DataFrame:
        """The visits of rows of :meth:`with_files`, with ``FRAME_COLUMNS``; see :func:`read_loni`.

        Args:
            rows: Of one kind of image.
            report: Gets the counts.
            variants: Keep every processed variant of a scan.
            days: :func:`numbers_of_days` of images of several kinds, for those of a day to be of one visit: that of any
                of them in ADNIMERGE, else the nearest, with a diagnosis or without.
        """
        rows = _number_variants(rows)
        if days is not None:
            rows = rows.assign(uids=[days[scan] for scan in rows["scan"]])
        if not variants:
            rows = drop_rows(rows, rows["variant"] > 0, SAME_SCAN, report)
        strangers = {subject for subject in rows["subject"] if not self.finder.knows(subject)}
        if self.finder and strangers:
            report.note("subject without a row in ADNIMERGE", len(strangers))
        by_date = days is not None
        described = [self.finder.describe(row, by_date=by_date) for row in records(rows)]
        frame = pd.DataFrame(described, columns=pd.Index(FRAME_COLUMNS))
        frame = drop_rows(frame, frame["dx_source"] == CONTRADICTORY, CONTRADICTORY, report)
        frame = drop_rows(frame, frame["dx"].isna(), "no diagnosis for the visit", report)
        # Of two scans of one visit, the one that ADNIMERGE names is the visit's; else the first.
        frame = frame.sort_values("dx_source", key=lambda source: source != SOURCE_MERGE, kind="stable")
        first = frame.groupby(["subject", "session"], dropna=False)["scan"].transform("first")
        another: Any = (frame["scan"] != first) & frame["session"].notna()
        return drop_rows(frame, another, "another scan of the same visit", report)


def numbers_of_days(parts: Sequence[pd.DataFrame]) -> dict[str, tuple[int, ...]]:
    """A person's day -> numbers of all its images, of rows of :meth:`Download.with_files` of several kinds."""
    parts = [part for part in parts if len(part)]
    if not parts:
        return {}
    rows = _number_variants(pd.concat(parts, ignore_index=True))
    return dict(zip(rows["scan"], rows["uids"], strict=True))


def _number_variants(rows: pd.DataFrame) -> pd.DataFrame:
    """Adds ``scan``, ``variant`` (0 for the preferred processing of a scan) and ``uids``, the numbers of them all.

    Rows must come best processing first. A scan of unknown date stands alone.
    """
    dated: Any = rows["acq_date"].notna()
    scan = rows["subject"] + " " + rows["acq_date"].astype("string").where(dated, rows["uid"].astype("string"))
    groups = rows.assign(scan=scan.astype(object)).groupby("scan", sort=False)
    uids: Any = groups["uid"].agg(tuple)
    return rows.assign(scan=scan.astype(object), variant=groups.cumcount(), uids=scan.map(uids))


def _images_by_path(index: ImageIndex, report: ReadReport) -> pd.DataFrame:
    """A search table from the archive's names, ``<Description>/<YYYY-MM-DD_...>/<I...>/ADNI_<PTID>_..._I<id>.nii``."""
    report.note("image without a search table; its path says whose it is, and when", len(index.volumes))
    rows = []
    for uid, path in sorted(index.volumes.items()):
        above = ("", "", *path.parts)[-4:-2]
        subject = _PTID_IN_NAME.search(path.name)
        kind = "PET" if _OF_PET.search(path.name) else "MRI"
        rows.append((uid, subject and subject.group(), above[0].replace("__", "; "), above[1][:10], kind))
    table = pd.DataFrame(rows, columns=pd.Index((*SEARCH_REQUIRED, "Modality")))
    return drop_rows(table, table["Subject"].isna(), "image that neither a table nor its name gives a subject", report)


def _search_rows(parts: list[pd.DataFrame], report: ReadReport) -> pd.DataFrame:
    """Rows of all search tables that have a number and are of nobody who was withdrawn."""
    raw = pd.concat(parts, ignore_index=True)
    protocol = column_of(raw, "Imaging Protocol").astype("string")
    scanner = {name: protocol.str.extract(form, expand=False) for name, form in _PROTOCOL.items()}
    rows = pd.DataFrame(
        {
            "uid": to_floats(raw["Image Data ID"].astype("string").str.strip().str.lstrip("Ii")),
            "subject": raw["Subject"].map(subject_id),
            "group": column_of(raw, "Group").astype(object),
            "visit": column_of(raw, "Visit").astype("string").fillna("").str.strip().astype(object),
            "description": raw["Description"].astype("string").fillna("").str.strip().astype(object),
            "acq_date": pd.concat([to_dates(pd.Series(part["Acq Date"]), report) for part in parts], ignore_index=True),
            "age": in_range("age", to_ages(column_of(raw, "Age"), report), report),
            "sex": sexes(column_of(raw, "Sex"), report),
            "field_strength": to_floats(scanner["field_strength"]),
            "manufacturer": scanner["manufacturer"].str.strip().astype(object),
            "scanner_model": scanner["scanner_model"].str.strip().astype(object),
            "tracer": scanner["tracer"].fillna("").str.strip().astype(object),
            "modality": column_of(raw, "Modality").astype("string").fillna("MRI").str.strip().str.upper(),
        }
    )
    for reason, bad in (
        ("search row without an image number", lambda t: t["uid"].isna()),
        ("withdrawn subject", lambda t: t["subject"].map(is_withdrawn)),
    ):
        rows = drop_rows(rows, bad(rows), reason, report)
    return rows


def _one_row_per_image(rows: pd.DataFrame, report: ReadReport) -> pd.DataFrame:
    """Joins what several tables say of an image: an id with one subject and one date is one image, in whatever words.

    Rows contradict each other where subject or date differ, or the diagnosis that the group stands for. Of sex and age
    only what all rows say is kept; of all else the first that says something counts.
    """
    repeated = rows["uid"].duplicated(keep=False)
    if not repeated.any():
        return rows
    group = rows["group"].map(map_diagnosis)
    named = rows.assign(group=group.where(group.notna(), None), visit=rows["visit"].replace("", None))
    counts = named.groupby("uid", sort=False)[["subject", "acq_date", "group"]].transform("nunique")
    rows = rows.drop_duplicates()  # the same row twice, before rows that contradict it
    equal = len(named) - len(rows)
    if equal:
        report.skip(_KEPT_ONCE, count=equal)
    bad = (pd.DataFrame(counts) > 1).any(axis=1)[rows.index]
    rows = drop_rows(rows, bad, "image listed with contradicting rows", report)
    named = named.loc[rows.index]
    people = named.groupby("uid", sort=False)
    for name, most in (("sex", 0), ("age", 1)):
        spread = people[name].transform("nunique") > 1
        if most:  # one table has whole years, another one decimals
            spread &= people[name].transform("max") - people[name].transform("min") > most
        if odd := int(named.loc[spread, "uid"].nunique()):
            report.note(f"image listed with different {name}; it is treated as missing", odd)
        named[name] = named[name].where(~spread, None)
    first = named.groupby("uid", sort=False).first().reset_index()
    if len(first) < len(named):
        report.skip(_KEPT_ONCE, count=len(named) - len(first))
    return first.assign(visit=first["visit"].fillna(""))


def _attach_files(rows: pd.DataFrame, index: ImageIndex, series: Series, report: ReadReport) -> pd.DataFrame:
    """Keeps the rows whose image is there, best processing first."""
    rows = drop_rows(rows, rows["uid"].isin(list(index.dicom)), "DICOM series; convert it to NIfTI first", report)
    rows = drop_rows(rows, ~rows["uid"].isin(list(index.volumes)), "image file missing", report)
    rows = drop_rows(rows, rows["uid"].isin(list(index.ambiguous)), AMBIGUOUS_IMAGE, report)
    people = zip(rows["uid"], rows["subject"], strict=True)
    rows = rows.assign(subject=[_whole_name(index.volumes[uid], person) for uid, person in people])
    rows = drop_rows(rows, rows["subject"].map(is_withdrawn), "withdrawn subject", report)
    foreign = [
        _names_another(index.volumes[uid], person) for uid, person in zip(rows["uid"], rows["subject"], strict=True)
    ]
    rows = drop_rows(rows, foreign, "image file that is named after another subject", report)
    rows = rows.copy()
    rows["image"] = [str(index.volumes[uid].absolute()) for uid in rows["uid"]]
    unknown: Any = rows["acq_date"].isna()
    if unknown.any():
        # The third folder above the file carries the date too: <Description>/<YYYY-MM-DD_...>/<I...>/<file>.
        folder = rows.loc[unknown, "image"].map(lambda path: Path(path).parts[-3][:10])
        rows.loc[unknown, "acq_date"] = pd.to_datetime(folder, errors="coerce", format="%Y-%m-%d")
        report.note("unreadable acquisition date; the folder's is used", int(unknown.sum()))
    rows["rank"] = rows["description"].map(series.rank)
    return rows.sort_values(["subject", "acq_date", "rank", "uid"], kind="stable")


def _whole_name(path: Path, subject: str) -> str:
    """The PTID of a file's name for a person whom the table knows by that PTID's roster number alone."""
    match = _PTID_IN_NAME.search(path.name)
    roster = roster_name(subject)
    return subject_id(match.group()) if match and roster and roster_key(match.group()) == roster else subject


def _names_another(path: Path, subject: str) -> bool:
    """True where a file's own name holds a PTID, and not this one."""
    match = _PTID_IN_NAME.search(path.name)
    return match is not None and subject_id(match.group()) != subject
