"""What readers of scans of several kinds give: who, when, which files; and what two scans of a person share."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from medgraft.benchmarks.cohorts.scans.dmri import MAPS
from medgraft.benchmarks.cohorts.tables.reading import ReadReport

REFERENCES = ("none", "global")
"""References of uptake that need no region: none at all, and the mean of the head."""
NO_REFERENCE = "PET image without its reference region; it counts as missing"
NO_SCAN = "session without a usable scan"


def lacks_maps(maps: Sequence[str], there: Collection[str]) -> str:
    """Why a diffusion scan counts as missing; empty where it has all maps that are asked for.

    Example:
        >>> lacks_maps(("FA", "MD"), {"FA"}), lacks_maps(("FA",), {"FA", "RD"})
        ('diffusion scan without MD; it counts as missing', '')
    """
    absent = [name for name in MAPS if name in maps and name not in there]
    return f"diffusion scan without {' and '.join(absent)}; it counts as missing" if absent else ""


@dataclass(frozen=True)
class Scans:
    """One row for each session that has some scan.

    Attributes:
        frame: ``subject``, ``session``, ``dx`` (CN, MCI, AD or None), ``age`` (years), ``sex`` (F, M or None),
            ``site``, ``head_size`` (mm3, or whatever the table has); missing where the table says nothing.
        t1: T1 image of each row, or ``None``.
        pet: PET image of each row and its reference region, or ``None``.
        dmri: Maps of each row, or ``None``.
        fmri: Run of fMRI of each row and its mask of the brain, or ``None``.
        report: What was used, left out and repaired.
    """

    frame: pd.DataFrame
    t1: list[Path | None]
    pet: list[tuple[Path, Path | None] | None]
    dmri: list[tuple[Path, ...] | None]
    fmri: list[tuple[Path, Path | None] | None]
    report: ReadReport = field(default_factory=ReadReport)


def confounds(frame: pd.DataFrame) -> tuple[np.ndarray, tuple[str, ...]]:
    """What two scans of a person share besides the brain: age, sex, site and head size.

    Args:
        frame: Of :class:`Scans`, ``n`` rows.

    Returns:
        ``float64 [n, F]``, columns of mean 0 and deviation 1 (missing numbers 0), and their names; columns that do not
        vary are left out.
    """
    columns = {
        "age": pd.Series(frame["age"], dtype=float),
        "female": pd.Series([{"F": 1.0, "M": 0.0}.get(sex, np.nan) for sex in frame["sex"]]),
        "head size": pd.Series(frame["head_size"], dtype=float),
    }
    for site in sorted(set(frame["site"].astype(str)) - {""}):
        columns[f"site {site}"] = (frame["site"].astype(str) == site).astype(float)
    values, names = [], []
    for name, column in columns.items():
        numbers = column.to_numpy(float)
        known = np.isfinite(numbers)
        if known.any() and (spread := numbers[known].std()) > 1e-9:
            values.append(np.where(known, (numbers - numbers[known].mean()) / spread, 0.0))
            names.append(name.partition(" ")[0] if name.startswith("site") else name)
    return np.stack(values, axis=1) if values else np.zeros((len(frame), 0)), tuple(dict.fromkeys(names))
