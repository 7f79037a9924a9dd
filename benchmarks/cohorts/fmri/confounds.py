"""Motion of a run, from the table ``*_desc-confounds_timeseries.tsv`` that fMRIPrep writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.tables.reading import read_table
from medgraft.errors import DataError

SIX = ("trans_x", "trans_y", "trans_z", "rot_x", "rot_y", "rot_z")
DISPLACEMENT = "framewise_displacement"
RADIUS = 50.0
"""Millimetres of the sphere on whose surface a rotation counts (Power et al., NeuroImage 59, 2012)."""


def read_confounds(path: str, image: str, volumes: int) -> pd.DataFrame:
    """The table beside a run.

    Args:
        path: The table; empty where there is none.
        image: The run, for errors.
        volumes: Of the run.

    Raises:
        DataError: There is none, or it has another number of rows.
    """
    if not path:
        raise DataError(f"{image} has no table of confounds; set confounds: none and scrub: 0", "no table of confounds")
    table = read_table(Path(path), (), sep="\t")
    if len(table) != volumes:
        raise DataError(
            f"{path} has {len(table)} rows and its run {volumes} volumes; make both anew", "confounds of another length"
        )
    return table


def motion_of(table: pd.DataFrame, which: str, path: str) -> NDArray[np.float64] | None:
    """Columns that are regressed out, ``[T, 6]`` or ``[T, 24]``.

    The 24 are the six parameters, their differences to the volume before, and the squares of these twelve (Friston et
    al., Magnetic Resonance in Medicine 35, 1996, with differences in place of shifted values, as fMRIPrep has it).

    Args:
        table: fMRIPrep's.
        which: ``none``, ``6`` or ``24``.
        path: For errors.

    Raises:
        DataError: A column of the six is missing, or not finite.

    Example:
        >>> table = pd.DataFrame({name: [0.0, 1.0, 3.0] for name in SIX})
        >>> motion_of(table, "24", "")[:, [0, 6, 12, 18]].tolist()
        [[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [3.0, 2.0, 9.0, 4.0]]
    """
    if which == "none":
        return None
    six = _numbers(table, SIX, path)
    if which == "6":
        return six
    twelve = np.concatenate([six, np.diff(six, axis=0, prepend=six[:1])], axis=1)
    return np.concatenate([twelve, twelve**2], axis=1)


def kept_volumes(table: pd.DataFrame, threshold: float, path: str) -> NDArray[np.int64]:
    """Volumes whose framewise displacement is not over a threshold in mm, ``int64 [T']``; all where it is 0.

    The first volume has none and is kept. Where the table has no such column, it is Power's, from the six.

    Args:
        table: fMRIPrep's.
        threshold: In mm.
        path: For errors.
    """
    if threshold <= 0:
        return np.arange(len(table))
    if DISPLACEMENT in table:
        moved = np.array(pd.to_numeric(table[DISPLACEMENT], errors="coerce"), float)
    else:
        steps = np.abs(np.diff(_numbers(table, SIX, path), axis=0, prepend=np.nan))
        moved = steps[:, :3].sum(axis=1) + RADIUS * steps[:, 3:].sum(axis=1)
    moved[:1] = np.nan_to_num(moved[:1])
    if np.isnan(moved).any():
        raise DataError(f"{path} lacks displacements of {int(np.isnan(moved).sum())} volumes", "confounds with gaps")
    return np.flatnonzero(moved <= threshold)


def _numbers(table: pd.DataFrame, names: tuple[str, ...], path: str) -> NDArray[np.float64]:
    if missing := [name for name in names if name not in table]:
        raise DataError(
            f"{path} has no column {missing[0]}; motion needs {', '.join(names)}", "confounds without motion"
        )
    columns: list[Any] = [pd.to_numeric(table[name], errors="coerce") for name in names]
    values = np.stack([column.to_numpy(float) for column in columns], axis=1)
    if not np.isfinite(values).all():
        raise DataError(f"{path} has parameters of motion that are no numbers", "confounds with gaps")
    return values
