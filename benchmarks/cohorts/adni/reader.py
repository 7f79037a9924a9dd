"""Reads ADNI from disk, in whichever layout it was downloaded or converted, into one table of labelled visits.

A flaw of a single row or file never stops the reader and is never guessed away: the row is left out and counted by its
reason. Only a table or tree that cannot be what it should be is an error.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from medgraft.benchmarks.cohorts.adni.archive import index_images
from medgraft.benchmarks.cohorts.adni.bids import read_bids
from medgraft.benchmarks.cohorts.adni.columns import roster_key
from medgraft.benchmarks.cohorts.adni.loni import SEARCH_REQUIRED, find_search_tables, read_loni
from medgraft.benchmarks.cohorts.adni.merge import DIAGNOSES, FRAME_COLUMNS, find_merge, read_merge
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.tables.reading import ReadReport, is_phantom
from medgraft.benchmarks.cohorts.tables.visit_table import VisitTable, baseline_only, marker_of
from medgraft.benchmarks.cohorts.volumes.bids_tree import looks_like_bids
from medgraft.benchmarks.cohorts.volumes.load import load_spaced, load_volume
from medgraft.errors import DataError

__all__ = ["DIAGNOSES", "FRAME_COLUMNS", "VisitTable", "baseline_only", "load_spaced", "load_volume", "read_adni"]


def read_adni(
    root: Path, *, merge: Path | None = None, search: Path | None = None, variants: bool = False
) -> VisitTable:
    """Reads a LONI download, a BIDS tree or a CAPS folder; the layout is recognised from the files.

    Args:
        root: The folder with ``ADNI/`` and the tables (or ``ADNI`` itself), with ``sub-*``, or with ``subjects/sub-*``.
        merge: ADNIMERGE table; None to look in ``root``, the folder above and sub-folders. Without one, only baseline
            scans of a LONI download get a label, the research group.
        search: Search table of a LONI download; None to use every CSV in ``root`` that looks like one. Where there is
            none, ADNIMERGE and the archive's names of folders and files do.
        variants: Keep every processed variant of a scan of a LONI download. They share ``scan`` and diagnosis, and
            belong on one side of any split.

    Raises:
        DataError: Nothing readable is there, a table lacks a column, or no row has both an image and a diagnosis. A
            single flaw (a missing file, a duplicate row, two diagnoses for one visit) is counted in the report instead.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; name the one that holds ADNI/ and its tables, or a BIDS tree")
    report = ReadReport()
    merge = merge or find_merge(root, report)
    visits = None if merge is None else read_merge(Path(merge), report)
    tables = [Path(search)] if search else find_search_tables(root)
    if looks_like_bids(root) and not search:
        layout, (frame, history) = "bids", read_bids(root, visits, report)
    elif tables or (visits is not None and any(index_images(root).volumes)):
        layout, frame = "loni", read_loni(root, tables, visits, report, variants=variants)
        history = pd.DataFrame(columns=pd.Index(("subject", "month", "dx")))
    else:
        raise DataError(
            f"{root} holds no ADNI cohort; looked for participants.tsv with sub-*/ (BIDS), subjects/sub-*/ (CAPS), "
            f"a CSV with the columns {', '.join(SEARCH_REQUIRED)} beside the image tree (LONI), or ADNIMERGE beside it"
        )
    if frame.empty:
        reasons = "; ".join(f"{reason}: {count}" for reason, count in report.skipped.most_common())
        absent = "" if visits is not None else "; no ADNIMERGE table was found in it, above it or in its sub-folders"
        raise DataError(
            f"{root} has no visit with both an image and a diagnosis ({reasons or 'no rows at all'}){absent}"
        )
    frame = frame.sort_values(["subject", "month", "scan", "variant"], kind="stable").reset_index(drop=True)
    frame["scan"] = frame.groupby(["subject", "scan"], sort=False).ngroup()
    frame["acq_date"] = pd.to_datetime(frame["acq_date"], errors="coerce")
    report.used = len(frame)
    marker = marker_of(root)
    followed = _follow_up(frame, history, visits)
    phantom = is_phantom(root) or made_up("adni", frame["subject"])
    return VisitTable(frame, followed, report, layout, phantom, marker.get("generator"), marker.get("bayes"))


def _follow_up(frame: pd.DataFrame, history: pd.DataFrame, merge: pd.DataFrame | None) -> pd.DataFrame:
    """Diagnosis of every dated visit of the table's subjects; a BIDS table comes before ADNIMERGE."""
    parts = [history]
    if merge is not None:
        # A table without PTIDs names people by roster number; the images tell whose it is.
        subjects = {roster_key(subject): subject for subject in frame["subject"]}
        diagnoses = pd.DataFrame(merge[["subject", "month", "dx"]])
        parts.append(diagnoses.assign(subject=[subjects.get(subject, subject) for subject in diagnoses["subject"]]))
    parts.append(pd.DataFrame(frame[["subject", "month", "dx"]]))
    whole = pd.concat([part.astype({"month": float}) for part in parts if len(part)], ignore_index=True)
    whole = whole[whole["subject"].isin(list(frame["subject"].unique())) & whole["month"].notna()]
    diagnosis: Any = whole["dx"].astype(object)
    whole = whole.assign(dx=diagnosis.where(diagnosis.notna(), None))
    order = whole.sort_values(["subject", "month"], kind="stable")
    return order.drop_duplicates(["subject", "month"]).reset_index(drop=True)
