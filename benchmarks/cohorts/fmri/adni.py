"""ADNI's resting-state runs: BIDS as Clinica's converter names people and sessions, through fMRIPrep, with ADNIMERGE.

``sub-ADNI002S0295/ses-M000/func/*_task-rest_*_desc-preproc_bold.nii.gz``. A run has the diagnosis of the visit nearest
to its session's month, up to six months away, and the age at that visit.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.adni.bids import months_of
from medgraft.benchmarks.cohorts.adni.columns import subject_id
from medgraft.benchmarks.cohorts.adni.merge import find_merge, read_merge
from medgraft.benchmarks.cohorts.fmri.fmriprep import derived_runs
from medgraft.benchmarks.cohorts.fmri.table import RestTable, table_of
from medgraft.benchmarks.cohorts.tables.reading import ReadReport
from medgraft.errors import DataError

NEAREST = 6.0
"""Months between a run and the visit whose diagnosis it has."""

_SESSION = re.compile(r"_ses-([A-Za-z0-9]+)_")


def read_adni_rest(root: Path, *, task: str = "rest") -> RestTable:
    """Reads derivatives of ADNI's runs.

    Args:
        root: The folder with ``sub-ADNI*``, and ADNIMERGE in it, beside it or above it.
        task: Label of the runs.

    Raises:
        DataError: There is no ADNIMERGE, or no run of anybody in it.
    """
    report = ReadReport()
    place = find_merge(root, report)
    if place is None:
        raise DataError(f"{root} has no ADNIMERGE table, which has the diagnoses; put it there")
    visits: Any = read_merge(place, report)
    by_subject = dict(list(visits[visits["month"].notna()].groupby("subject")))
    rows: list[dict[str, object]] = []
    for label, files in derived_runs(root, task, report).items():
        subject = subject_id(label)
        for each in files:
            session = _SESSION.search(Path(str(each["image"])).name)
            month = months_of(session.group(1)) if session else None
            if subject not in by_subject:
                report.skip("a run of nobody in ADNIMERGE")
            elif month is None:
                report.skip("a run of a session that is not named ses-M<month>")
            else:
                rows.append({"subject": subject, **each, **_facts(by_subject[subject], month, report)})
    if not rows:
        why = ", ".join(f"{count} x {reason}" for reason, count in report.skipped.items())
        raise DataError(f"{root} has no resting-state run of anybody in {place.name} ({why or 'there is no run'})")
    return table_of(rows, report, "adni", root)


def _facts(visits: pd.DataFrame, month: int, report: ReadReport) -> dict[str, object]:
    """Diagnosis, sex, age and site at the visit nearest to a month, a diagnosed one where one is near enough."""
    away: Any = (visits["month"] - month).abs()
    known = away.where(visits["dx"].notna())
    near = bool((known <= NEAREST).any())
    visit = visits.loc[known.idxmin() if near else away.idxmin()]
    if near and known.min() > 0:
        report.note("a diagnosis of a visit up to six months away")
    age = float(visit["age"]) + (month - float(visit["month"])) / 12
    site = visit["site"]
    return {
        "dx": str(visit["dx"]) if near else None,
        "sex": visit["sex"] if isinstance(visit["sex"], str) else None,
        "age": age if np.isfinite(age) else np.nan,
        "site": None if site is None or site != site else str(site).removesuffix(".0"),
    }
