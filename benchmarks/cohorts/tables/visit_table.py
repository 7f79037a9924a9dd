"""One table of labelled visits with an image each: what the readers of brain cohorts give, and what tasks read.

Two rules for whoever splits this table: split by ``subject``, never by row, since all visits of a person and all
processed variants of a scan look alike; and evaluate on :func:`baseline_only`, while all visits may train.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.tables.reading import PHANTOM_MARKER, ReadReport


@dataclass(frozen=True)
class VisitTable:
    """One row per subject and visit, each with an image and a diagnosis.

    Attributes:
        frame: ``subject`` (PTID), ``session`` (``bl``, ``m06`` ... from LONI, ``M000`` ... from BIDS), ``month`` since
            baseline, ``scan`` (a number that all processed variants of one acquisition share), ``variant`` (0 for the
            preferred processing), ``image`` (absolute path), ``image_id``, ``acq_date``, ``description`` (processing),
            ``dx`` (CN, MCI or AD), ``dx_source`` (``ADNIMERGE DX``, ``nearest visit``, ``research group``,
            ``sessions.tsv``), ``age`` at the scan (years), ``sex`` (F, M or None), ``education`` (years), ``apoe4``
            (0..2), ``site``, ``field_strength`` (T), the scores ``MMSE``, ``MOCA``, ``ADAS13``, ``RAVLT_immediate``,
            ``FAQ``, ``CDRSB``, the volumes ``Hippocampus``, ``Ventricles``, ``ICV`` and ``WholeBrain`` (mm3),
            ``manufacturer`` and ``scanner_model``; NaN or None where missing. Ordered by subject and month.
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


def baseline_only(frame: pd.DataFrame) -> pd.DataFrame:
    """The first visit of every subject in the table, preferred variant, in the table's order, with a fresh index."""
    order = frame.assign(_month=frame["month"].fillna(np.inf))
    order = order.sort_values(["subject", "_month", "acq_date", "variant"], kind="stable")
    first = order.drop_duplicates("subject")
    return frame.loc[first.index.sort_values()].reset_index(drop=True)


def marker_of(root: Path) -> dict[str, Any]:
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
