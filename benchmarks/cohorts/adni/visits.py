"""The visit of ADNIMERGE that an image of the archive belongs to, and what it says of diagnosis and person."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.adni.columns import roster_key, site_of
from medgraft.benchmarks.cohorts.adni.merge import (
    CONTRADICTORY,
    SCANNER_COLUMNS,
    SOURCE_GROUP,
    SOURCE_MERGE,
    SOURCE_NEAREST,
    VISIT_FACTS,
    is_missing,
    map_diagnosis,
    records,
    viscode_month,
)

NEAREST_DAYS = 90
"""How far apart scan and examination may lie for the examination's diagnosis to count for the scan."""


class VisitFinder:
    """Looks up the visit that a scan belongs to, its diagnosis and its clinical facts."""

    def __init__(self, merge: pd.DataFrame | None) -> None:
        """Indexes the visits by image and by subject; None when there is no ADNIMERGE."""
        visits = [] if merge is None else records(merge)
        self._by_image = {(v["subject"], int(v["image_uid"])): v for v in visits if not is_missing(v["image_uid"])}
        self._by_subject: dict[str, list[dict[str, Any]]] = {}
        for visit in visits:
            if not is_missing(visit["exam_date"]):
                self._by_subject.setdefault(visit["subject"], []).append(visit)
        self._people = {visit["subject"] for visit in visits}
        self._there = merge is not None

    def __bool__(self) -> bool:
        """Whether there is a table of visits."""
        return self._there

    def knows(self, subject: str) -> bool:
        """Whether the table has any visit of the subject, by PTID or by roster number."""
        return subject in self._people or roster_key(subject) in self._people

    def describe(self, row: dict[str, Any], *, by_date: bool = False) -> dict[str, Any]:
        """The finished row of one image; ``dx`` is None where nothing vouches for a diagnosis.

        Args:
            row: Of :meth:`Download.with_files`, with ``scan``, ``variant`` and ``uids``.
            by_date: The visit is that nearest to the scan where ADNIMERGE does not name its image, though another one
                has the diagnosis.
        """
        people = (row["subject"], roster_key(row["subject"]))
        exact = next((v for p in people for uid in row["uids"] if (v := self._by_image.get((p, uid)))), None)
        near = self._nearest(row, diagnosed=True)
        visit = exact or self._nearest(row, diagnosed=False)
        dx, source = None, ""
        if visit is not None and visit["contradictory"]:
            source = CONTRADICTORY
        elif exact is not None and exact["dx"] is not None:
            dx, source = exact["dx"], SOURCE_MERGE
        elif near is not None:
            dx, source, visit = near["dx"], SOURCE_NEAREST, visit if by_date else exact or near
        elif _is_baseline(row["visit"]):
            dx, source = map_diagnosis(row["group"]), SOURCE_GROUP
        facts = dict.fromkeys(VISIT_FACTS, float("nan")) | {"site": site_of(row["subject"])}
        if visit is not None:
            facts |= {name: visit[name] for name in VISIT_FACTS}
            session, month = visit["session"], visit["month"]
        else:
            session = "bl" if _is_baseline(row["visit"]) else row["visit"].lower()
            month = viscode_month(session)
        # The search table knows the sex, and the age at the scan in whole years.
        facts["sex"] = facts["sex"] if isinstance(facts["sex"], str) else row["sex"]
        for name in ("age", "field_strength"):
            facts[name] = row[name] if is_missing(facts[name]) else facts[name]
        return {
            "subject": row["subject"],
            "session": session,
            "month": month,
            "scan": row["scan"],
            "variant": row["variant"],
            "image": row["image"],
            "image_id": str(row["uid"]),
            "acq_date": row["acq_date"],
            "description": row["description"],
            "dx": dx,
            "dx_source": source,
            **facts,
            **{name: row[name] for name in SCANNER_COLUMNS},
        }

    def _nearest(self, row: dict[str, Any], *, diagnosed: bool) -> dict[str, Any] | None:
        """The subject's visit nearest to the scan, within ``NEAREST_DAYS``."""
        if is_missing(row["acq_date"]):
            return None
        candidates = self._by_subject.get(row["subject"]) or self._by_subject.get(roster_key(row["subject"]), ())
        visits = [v for v in candidates if not diagnosed or v["dx"] is not None]
        gaps = [abs((v["exam_date"] - row["acq_date"]).days) for v in visits]
        if not gaps or min(gaps) > NEAREST_DAYS:
            return None
        return visits[int(np.argmin(gaps))]


def _is_baseline(visit: str) -> bool:
    """True for screening and baseline under any of their names; a continuing subject's first ADNI2 visit is neither."""
    visit = visit.lower()
    return viscode_month(visit) == 0 or ("cont" not in visit and ("screening" in visit or "baseline" in visit))
