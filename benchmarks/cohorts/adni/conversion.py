"""Who of those with mild cognitive impairment goes on to Alzheimer's disease within a time: labels for prediction.

The rules are those of Wen et al., "Convolutional neural networks for classification of Alzheimer's disease: overview
and reproducible evaluation", Medical Image Analysis 63, 2020, for a visit at which the diagnosis is MCI:

- progressive (``pMCI``): AD at a later visit within the horizon;
- stable (``sMCI``): still MCI at the horizon, by a visit then or by one before it and one after it;
- ``reverted``: CN at a visit within the horizon;
- ``unknown``: the follow-up says none of these, mostly because it is too short;
- ``unstable``: a subject whose diagnosis changes more than once, whatever the direction; none of its visits is used.

Only the first two are learnt. Nobody is called stable for lack of follow-up.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import pandas as pd

CONVERSION = ("sMCI", "pMCI")
HORIZONS = (24, 36, 60)
"""Months, as published; other horizons work as well."""


def conversion_label(history: Sequence[tuple[float, str | None]], month: float, horizon: float) -> str:
    """Label of one visit with MCI.

    Args:
        history: Month and diagnosis (CN, MCI, AD or None) of every visit of the subject, in any order.
        month: The visit, months since baseline.
        horizon: How far ahead to look, months.

    Returns:
        ``pMCI``, ``sMCI``, ``reverted``, ``unknown`` or ``unstable``.

    Example:
        >>> visits = [(0, "MCI"), (12, "MCI"), (24, "AD")]
        >>> conversion_label(visits, 0, 36), conversion_label(visits, 0, 12), conversion_label(visits[:2], 0, 36)
        ('pMCI', 'sMCI', 'unknown')
    """
    diagnosed = sorted((when, dx) for when, dx in history if isinstance(dx, str))
    if sum(before != after for (_, before), (_, after) in pairwise(diagnosed)) > 1:
        return "unstable"
    end = month + horizon
    within = [dx for when, dx in diagnosed if month < when <= end]
    if "AD" in within:
        return "pMCI"
    if "CN" in within:
        return "reverted"
    at_end = any(when == end for when, _ in diagnosed)
    later = [dx for when, dx in diagnosed if when > end]
    return "sMCI" if at_end or (later and later[0] == "MCI") else "unknown"


class TimeToDementia(NamedTuple):
    """How long a visit with MCI was followed.

    Attributes:
        months: To the first later visit with AD, or to the last later visit with any diagnosis.
        event: Whether that was a visit with AD.
    """

    months: float
    event: bool


def time_to_dementia(history: Sequence[tuple[float, str | None]], month: float) -> TimeToDementia | str:
    """Time from one visit with MCI to the diagnosis of AD, or why none can be told.

    Censored at the last visit with a diagnosis. ``unstable`` as for :func:`conversion_label`; ``no follow-up`` where no
    later visit has a diagnosis.

    Args:
        history: Month and diagnosis (CN, MCI, AD or None) of every visit of the subject, in any order.
        month: The visit, months since baseline.

    Example:
        >>> visits = [(0, "MCI"), (12, "MCI"), (24, "AD")]
        >>> time_to_dementia(visits, 0), time_to_dementia(visits[:2], 0).event, time_to_dementia(visits[:1], 0)
        (TimeToDementia(months=24.0, event=True), False, 'no follow-up')
    """
    diagnosed = sorted((when, dx) for when, dx in history if isinstance(dx, str))
    if sum(before != after for (_, before), (_, after) in pairwise(diagnosed)) > 1:
        return "unstable"
    later = [(when, dx) for when, dx in diagnosed if when > month]
    if not later:
        return "no follow-up"
    first = next((when for when, dx in later if dx == "AD"), None)
    return TimeToDementia(float((first if first is not None else later[-1][0]) - month), first is not None)


def histories_of(visits: pd.DataFrame) -> dict[str, list[tuple[float, str | None]]]:
    """Subject -> month and diagnosis of each visit.

    Args:
        visits: Rows with ``subject``, ``month`` and ``dx``.
    """
    histories: dict[str, list[tuple[float, str | None]]] = {}
    for subject, month, dx in zip(visits["subject"], visits["month"], visits["dx"], strict=True):
        histories.setdefault(subject, []).append((float(month), dx))
    return histories


def conversion_labels(frame: pd.DataFrame, visits: pd.DataFrame, horizon: float) -> pd.Series:
    """Labels of the rows of an ADNI table.

    Args:
        frame: Rows with ``subject``, ``month`` and ``dx``.
        visits: Follow-up with the same columns, see
            :attr:`~medgraft.benchmarks.cohorts.tables.visit_table.VisitTable.visits`.
        horizon: Months.

    Returns:
        One word per row: those of :func:`conversion_label`, ``not MCI`` where the diagnosis is another, and ``undated``
        where the month is missing.
    """
    histories = histories_of(visits)

    def label(subject: str, month: float, dx: str) -> str:
        if dx != "MCI":
            return "not MCI"
        if pd.isna(month):
            return "undated"
        return conversion_label(histories.get(subject, ()), float(month), horizon)

    rows = zip(frame["subject"], frame["month"], frame["dx"], strict=True)
    return pd.Series([label(*row) for row in rows], index=frame.index, dtype=object)
