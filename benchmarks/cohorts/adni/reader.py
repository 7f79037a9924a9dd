"""Reads ADNI from disk, in whichever layout it was downloaded or converted, into one table of labelled visits.

Two rules for whoever splits this table: split by ``subject``, never by row, since all visits of a person and all
processed variants of a scan look alike; and evaluate on :func:`baseline_only`, while all visits may train.

A flaw of a single row or file never stops the reader and is never guessed away: the row is left out and counted by its
reason. Only a table or tree that cannot be what it should be is an error.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.adni.bids import looks_like_bids, read_bids
from medgraft.benchmarks.cohorts.adni.columns import roster_key
from medgraft.benchmarks.cohorts.adni.loni import SEARCH_REQUIRED, find_search_tables, index_images, read_loni
from medgraft.benchmarks.cohorts.adni.merge import DIAGNOSES, FRAME_COLUMNS, find_merge, read_merge
from medgraft.benchmarks.cohorts.files.made_up import made_up
from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER, ReadReport, is_phantom
from medgraft.benchmarks.cohorts.volumes.load import load_spaced, load_volume
from medgraft.errors import DataError

__all__ = ["DIAGNOSES", "FRAME_COLUMNS", "AdniTable", "baseline_only", "load_spaced", "load_volume", "read_adni"]


@dataclass(frozen=True)
class AdniTable:
    """One row per subject and visit, each with an image and a diagnosis.

    Attributes:
        frame: ``subject`` (PTID), ``session`` (``bl``, ``m06`` ... from LONI, ``M000`` ... from BIDS), ``month`` since
            baseline, ``scan`` (a number that all processed variants of one acquisition share), ``variant`` (0 for the
            preferred processing), ``image`` (absolute path), ``image_id``, ``acq_date``, ``description`` (processing),
            ``dx`` (CN, MCI or AD), ``dx_source`` (``ADNIMERGE DX``, ``nearest visit``, ``research group``,
            ``sessions.tsv``), ``age`` at the scan (years), ``sex`` (F, M or None), ``education`` (years), ``apoe4``
            (0..2), ``site``, ``field_strength`` (T), the scores ``MMSE``, ``MOCA``, ``ADAS13``, ``RAVLT_immediate``,
            ``FAQ``, ``CDRSB``, the volumes ``Hippocampus``, ``Ventricles`` and ``ICV`` (mm3), ``manufacturer`` and
            ``scanner_model``; NaN or None where missing. Ordered by subject and month.
        visits: ``subject``, ``month`` and ``dx`` (or None) of every visit that a table has, with or without an image:
            the follow-up.
        report: What was used, left out and repaired.
        layout: ``loni`` or ``bids``.
        phantom: True for a generated cohort; no number from it is clinical evidence.
        generator: Version of the generator, for a phantom.
        bayes: Best reachable macro-F1 from ``image``, ``text`` and ``both``, for a phantom.
    """

    frame: pd.DataFrame
    visits: pd.DataFrame
    report: ReadReport
    layout: str
    phantom: bool = False
    generator: str | None = None
    bayes: dict[str, float] | None = None


def read_adni(
    root: Path, *, merge: Path | None = None, search: Path | None = None, variants: bool = False
) -> AdniTable:
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
    marker = _read_marker(root)
    followed = _follow_up(frame, history, visits)
    phantom = is_phantom(root) or made_up("adni", frame["subject"])
    return AdniTable(frame, followed, report, layout, phantom, marker.get("generator"), marker.get("bayes"))


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


def baseline_only(frame: pd.DataFrame) -> pd.DataFrame:
    """The first visit of every subject in the table, preferred variant, in the table's order, with a fresh index."""
    order = frame.assign(_month=frame["month"].fillna(np.inf))
    order = order.sort_values(["subject", "_month", "acq_date", "variant"], kind="stable")
    first = order.drop_duplicates("subject")
    return frame.loc[first.index.sort_values()].reset_index(drop=True)


def _read_marker(root: Path) -> dict[str, Any]:
    """What the generator wrote about a phantom cohort; empty for real data or an unreadable marker."""
    for folder in (root, *list(root.parents)[:2]):
        path = folder / PHANTOM_MARKER
        if path.is_file():
            try:
                record = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                return {}
            return record if isinstance(record, dict) else {}
    return {}
