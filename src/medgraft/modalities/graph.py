"""``graph``: weights between regions, such as a structural or functional connectome, and how their files are read."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgraft.errors import DataError
from medgraft.modality import Modality
from medgraft.typed.values import is_a

SYMMETRIC = 1e-4
"""Largest difference between the two directions of a connection, as a share of the largest weight."""
FILES = (".npy", ".csv", ".tsv", ".txt")


class Graph(Modality):
    """Kinds of weights between the same regions, ``float32 [E, R, R]``; prepared alike, ``input_size`` ``(R, R)``.

    A connection has one weight of each kind, whichever way it is read, and a region none to itself.
    """

    name = "graph"
    raw = "weights between regions, float32 [E, R, R], symmetric with a diagonal of 0, a matrix for each of E kinds"
    dtype = "float32"
    rank = 3

    def example(self, random: np.random.Generator) -> np.ndarray:
        """Correlations of noise between twelve regions, ``float32 [1, 12, 12]``."""
        weights = np.asarray(np.corrcoef(random.standard_normal((12, 30))), np.float32)
        weights = (weights + weights.T) / 2 * (1 - np.eye(len(weights), dtype=np.float32))
        return weights[None]

    def check(self, raw: Any) -> None:
        """Refuses what is no finite, square, symmetric matrix for each kind with a diagonal of 0."""
        if is_a(raw, np.ndarray) and raw.ndim == 3 and (bad := not_finite(raw)):
            self.refuse(
                f"has weights that are not finite, of regions {bad}; leave those regions out in all subjects",
                "weights that are not finite",
            )
        self.check_array(raw, self.dtype, self.rank)
        if raw.shape[1] != raw.shape[2] or raw.shape[1] < 2:
            self.refuse(f"is of shape {list(raw.shape)}", "not square")
        if np.abs(np.diagonal(raw, axis1=1, axis2=2)).any():
            self.refuse("has weights of regions to themselves")
        apart = float(np.abs(raw - raw.swapaxes(1, 2)).max())
        if apart > SYMMETRIC * float(np.abs(raw).max()):
            self.refuse(
                f"is not symmetric, its two directions differ by up to {apart:.3g}; take their mean, (A + A') / 2",
                "not symmetric",
            )


def not_finite(weights: np.ndarray) -> str:
    """Regions by whose number from 1 weights ``[E, R, R]`` are not finite beside the diagonal; empty for none.

    Of weights that are missing to a few regions only these are named, and not all others.
    """
    bad = ~np.isfinite(weights)
    if weights.shape[1] != weights.shape[2] or not bad.any():
        return ""
    bad = bad.any(axis=0) & ~np.eye(weights.shape[1], dtype=bool)
    counts = bad.sum(axis=0) + bad.sum(axis=1)
    worst = np.flatnonzero(counts == counts.max()) + 1 if counts.max() else np.zeros(0, int)
    return ", ".join(map(str, worst[:8])) + (", ..." if len(worst) > 8 else "")


def read_graph(files: str | Path | Sequence[str | Path]) -> np.ndarray:
    """A raw sample from the files of a subject, one for each kind of weight.

    A ``.npy`` file holds ``[R, R]`` or several such, ``[E, R, R]``; ``.csv``, ``.tsv`` and ``.txt`` hold a row for each
    region, with or without names of the regions before and above. The diagonal, such as a correlation of 1 or its
    infinite Fisher transform, is set to 0.

    Args:
        files: A file, or one for each kind, in the order of the encoder's.

    Returns:
        ``float32 [E, R, R]``.

    Raises:
        DataError: A file cannot be read as square matrices, they differ in size, or are no graph; see
            :meth:`Graph.check`.
    """
    paths = [Path(each) for each in ([files] if isinstance(files, str | Path) else files)]
    parts = [_read(path) for path in paths]
    sizes = sorted({part.shape[1] for part in parts})
    if len(sizes) != 1:
        given = " and ".join(map(str, sizes)) or "none"
        raise DataError(
            f"{', '.join(map(str, paths)) or 'no file'} have matrices of {given} regions; give those of one atlas",
            "kinds of weights of different numbers of regions",
        )
    weights = np.concatenate(parts)
    weights[:, np.arange(sizes[0]), np.arange(sizes[0])] = 0
    Graph().check(weights)
    return weights


def _read(path: Path) -> np.ndarray:
    """Matrices of a file, ``float32 [E, R, R]``."""
    if path.suffix.lower() not in FILES:
        raise DataError(f"{path} is no matrix of weights; give {', '.join(FILES)}")
    try:
        values = np.load(path, allow_pickle=False) if path.suffix.lower() == ".npy" else _table(path)
        values = np.array(values, np.float32)
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read as a matrix of weights: {str(error).splitlines()[0]}", "no matrix of weights"
        ) from error
    if values.ndim == 2:
        values = values[None]
    if values.ndim != 3 or values.shape[1] != values.shape[2] or not values.size:
        raise DataError(
            f"{path} holds {list(values.shape)}, and weights between regions are [R, R] or [E, R, R]", "not square"
        )
    return values


def _table(path: Path) -> np.ndarray:
    """Numbers of a text, ``float64 [R, C]``, without names of rows and columns."""
    separator = {".csv": ",", ".tsv": "\t"}.get(path.suffix.lower())
    lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    if separator is None:
        rows = [line.split() for line in lines]
    else:
        rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    first_row = int(bool(rows) and _words(rows[0]))
    first_column = int(bool(rows) and _words([row[0] for row in rows]))
    return np.array([[_number(cell) for cell in row[first_column:]] for row in rows[first_row:]], np.float64)


def _number(cell: str) -> float:
    return float(cell) if cell else float("nan")


def _words(cells: Sequence[str]) -> bool:
    """Whether most of some cells are there and no numbers: names of regions."""
    return sum(bool(cell) and not _is_number(cell) for cell in cells) > len(cells) / 2


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
