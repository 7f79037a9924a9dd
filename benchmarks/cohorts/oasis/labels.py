"""What stands for a diagnosis in OASIS: the Clinical Dementia Rating, or what else its tables hold.

The Clinical Dementia Rating (CDR; Morris, "The Clinical Dementia Rating (CDR): current version and scoring rules",
Neurology 43, 1993) is 0, 0.5, 1, 2 or 3. Here 0 stands for CN, 0.5 for MCI and 1 and above for AD, so that models of
ADNI can be judged; it is a rating of severity and no diagnosis: 0.5 is "very mild dementia" to OASIS's authors (Marcus
et al., "Open Access Series of Imaging Studies (OASIS): cross-sectional MRI data in young, middle aged, nondemented, and
demented older adults", Journal of Cognitive Neuroscience 19, 2007), and a dementia need not be Alzheimer's.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.tables.reading import ReadReport

Labels = Literal["cdr", "group", "dx1"]
Unassessed = Literal["left_out", "cn"]

CDR_NOTE = (
    "labels are Clinical Dementia Ratings and no diagnoses: CN is CDR 0, MCI is CDR 0.5 and AD is CDR 1 or more, "
    "whatever the cause"
)
NOTES: dict[str, str] = {
    "cdr": CDR_NOTE,
    "group": "labels are the column Group of OASIS-2: CN is Nondemented at every visit, AD is Demented from the first "
    "(CDR above 0, whatever the cause); who converted is left out",
    "dx1": "labels are the clinician's first diagnosis (dx1) of OASIS-3: CN is Cognitively normal, AD is AD Dementia; "
    "all others are left out",
}
"""What a result says of each kind of label."""

UNASSESSED_AGE = 60
"""Years from which OASIS-1 rated everybody; below, most were not asked."""

NO_CDR = "no CDR at the visit"
UNDER_AGE = f"no CDR: under {UNASSESSED_AGE}, not assessed"
CONVERTED = "Group is Converted"
OTHER_DX1 = "dx1 is neither Cognitively normal nor AD Dementia"
NO_LABEL = {"cdr": NO_CDR, "group": "no Group for the visit", "dx1": "no dx1 at the visit"}

_RATINGS = {0.0: "CN", 0.5: "MCI", 1.0: "AD", 2.0: "AD", 3.0: "AD"}
_GROUPS = {"nondemented": "CN", "demented": "AD"}


def ratings(column: pd.Series, report: ReadReport) -> pd.Series:
    """CDRs ``float [n]``; other numbers are missing, with a note."""
    odd = column.notna() & ~column.isin(list(_RATINGS))
    if odd.any():
        report.note("CDR is none of 0, 0.5, 1, 2 and 3; treated as missing", int(odd.sum()))
    known: Any = column.mask(odd)
    return known


def add_labels(rows: pd.DataFrame, labels: Labels) -> pd.DataFrame:
    """The rows with ``dx``, CN, MCI, AD or None, and ``why``, the reason where there is none.

    Args:
        rows: With ``cdr``, ``group`` or ``dx1``, and ``age``.
        labels: Which of them decides.
    """
    words = [_label(value, labels) for value in rows[labels]]
    rows = rows.assign(dx=pd.Series([dx for dx, _ in words], index=rows.index, dtype=object), why=[w for _, w in words])
    return rows


def _label(value: Any, labels: Labels) -> tuple[str | None, str]:
    """Class and, where there is none, the reason."""
    if value is None or value is pd.NA or value != value or str(value).strip() in ("", "."):
        return None, NO_LABEL[labels]
    if labels == "cdr":
        return _RATINGS[float(value)], ""
    word = " ".join(str(value).split()).lower()
    if labels == "group":
        dx = _GROUPS.get(word)
        return dx, "" if dx else CONVERTED if word == "converted" else "Group is not understood"
    dx = "CN" if word == "cognitively normal" else "AD" if word == "ad dementia" else None
    return dx, "" if dx else OTHER_DX1


def label_unassessed(rows: pd.DataFrame, unassessed: Unassessed) -> pd.DataFrame:
    """Rows without a CDR: in OASIS-1 those of people under 60 are told apart, and are CN where the option says so.

    The table's authors did not rate the young, who came as healthy volunteers: a blank is no rating of 0.
    """
    of_oasis1 = rows["subject"].astype("string").str.startswith("OAS1").to_numpy(bool)
    young = rows["dx"].isna() & (rows["why"] == NO_CDR) & (rows["age"] < UNASSESSED_AGE).to_numpy(bool) & of_oasis1
    rows = rows.assign(why=np.where(young, UNDER_AGE, rows["why"]))
    if unassessed == "cn":
        rows.loc[young, ["dx", "source"]] = ["CN", "under 60, not assessed"]
    return rows
