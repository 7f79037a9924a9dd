"""One table of runs of resting-state fMRI: what readers give and tasks read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from medgraft.benchmarks.cohorts.tables.reading import ReadReport

COLUMNS = ("subject", "image", "mask", "confounds", "regions", "step", "dx", "sex", "age", "site")


@dataclass(frozen=True)
class RestTable:
    """A row for each run.

    Attributes:
        frame: ``subject``, ``image`` (4D NIfTI), ``mask``, ``confounds`` (fMRIPrep's table) and ``regions`` (series by
            region, ``.1D``), empty where there is none, ``step`` (seconds between volumes by a sidecar, 0 where none
            says), ``dx`` (a word or None), ``sex`` (F, M or None), ``age`` (years, NaN where unknown) and ``site`` (a
            word or None).
        report: What was used, left out and repaired.
        layout: ``abide``, ``fmriprep`` or ``adni``.
        atlas: Labelled volume that lies in the cohort's folder; ``None`` without one.
    """

    frame: pd.DataFrame
    report: ReadReport
    layout: str
    atlas: Path | None = None


def table_of(rows: list[dict[str, object]], report: ReadReport, layout: str, root: Path) -> RestTable:
    """The table of rows that a reader found, ordered by subject and image.

    Args:
        rows: Each with the columns of :data:`COLUMNS`.
        report: Takes their number.
        layout: See :class:`RestTable`.
        root: Where an ``atlas.nii.gz`` may lie.
    """
    frame = pd.DataFrame(rows, columns=pd.Index(COLUMNS), dtype=object)  # None stays None
    frame = frame.astype({"age": float, "step": float}).sort_values(["subject", "image"], kind="stable")
    report.used = len(frame)
    atlases = [path for name in ("atlas.nii.gz", "atlas.nii") if (path := root / name).is_file()]
    return RestTable(frame.reset_index(drop=True), report, layout, atlases[0] if atlases else None)
