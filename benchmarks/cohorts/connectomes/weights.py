"""The weights of all people in one array, read and checked once and kept beside the cache."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.cohorts.connectomes.reader import upper
from medgraft.benchmarks.prefix_cache.store import entry
from medgraft.errors import DataError
from medgraft.files.content import file_facts
from medgraft.modalities.graph import read_graph

WEIGHTS_VERSION = 1
"""Raised whenever the same files would be read differently."""

OTHER_ATLAS = "matrix of another number of regions than most"
ONE_KIND = "files of another number of kinds than most"
A_COPY = "matrix that another person has, too"


@dataclass(frozen=True)
class Weights:
    """Weights above the diagonal.

    Attributes:
        values: ``float32 [n, E, R (R - 1) / 2]``, mapped from a file; zeros where a row cannot be used.
        reasons: Why a row cannot be used; empty for one that can.
        regions: ``R``.
    """

    values: NDArray[np.float32]
    reasons: list[str]
    regions: int


def read_weights(files: Sequence[tuple[Path, ...]], subjects: Sequence[str], root: Path) -> Weights:
    """Reads the matrices of some sessions.

    A matrix that is not square, not symmetric or not finite cannot be used; neither can one of another number of
    regions or kinds than most, nor one that two people share to the bit, of whom nobody knows whose it is.

    Args:
        files: Of each session, a file for each kind.
        subjects: Whose.
        root: Of the cohort.

    Raises:
        DataError: Not one can be used; the first flaw is told.
    """
    facts = {
        "kind": "weights between regions",
        "version": WEIGHTS_VERSION,
        "files": file_facts([str(path) for each in files for path in each], root),
        "subjects": hashlib.sha256("\n".join(subjects).encode()).hexdigest(),
        "sessions": len(files),
    }

    def build(folder: Path) -> None:
        values, reasons, regions = _read(files, subjects)
        np.save(folder / "values.npy", values)
        (folder / "facts_of.json").write_text(json.dumps({"reasons": reasons, "regions": regions}))

    kept = entry(facts, build, needs=("values.npy", "facts_of.json"))
    said = json.loads((kept.folder / "facts_of.json").read_text())
    return Weights(np.load(kept.folder / "values.npy", mmap_mode="r"), said["reasons"], said["regions"])


def _read(files: Sequence[tuple[Path, ...]], subjects: Sequence[str]) -> tuple[np.ndarray, list[str], int]:
    rows: list[np.ndarray | None] = []
    reasons, regions, first = [], Counter[tuple[int, int]](), ""
    sizes: list[tuple[int, int] | None] = []
    for paths in files:
        try:
            weights = read_graph(paths)
        except DataError as error:
            first = first or str(error)
            rows.append(None)
            sizes.append(None)
            reasons.append(error.reason or "no matrix of weights")
            continue
        rows.append(upper((weights + weights.swapaxes(1, 2)) / 2))
        size = weights.shape[0], weights.shape[1]
        sizes.append(size)
        regions[size] += 1
        reasons.append("")
    if not regions:
        raise DataError(f"not one matrix can be used; the first: {first}")
    kinds, count = regions.most_common(1)[0][0]
    for i, size in enumerate(sizes):
        if size is not None and size != (kinds, count):
            rows[i], reasons[i] = None, OTHER_ATLAS if size[1] != count else ONE_KIND
    for i in _shared(rows, subjects):
        rows[i], reasons[i] = None, A_COPY
    empty = np.zeros((kinds, count * (count - 1) // 2), np.float32)
    return np.stack([empty if row is None else row.astype(np.float32) for row in rows]), reasons, count


def _shared(rows: Sequence[np.ndarray | None], subjects: Sequence[str]) -> list[int]:
    """Rows that are the same, to the bit, of two people or more."""
    owners: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row is not None:
            owners.setdefault(hashlib.sha256(np.ascontiguousarray(row).tobytes()).hexdigest(), []).append(i)
    return [i for same in owners.values() if len({subjects[k] for k in same}) > 1 for i in same]
