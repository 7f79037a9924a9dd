"""Images of a tested cohort that a graft was trained on or chosen by, found by their content.

Cohorts are published again under other names, in other folders and with other patients' numbers. What is compared is
what the encoder is given, so that a copy in another file format is found too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.prefix_cache.inputs import PreparedInputs
from medgraft.modality import TEXT

PIECE = 512
"""Values from the middle of a sample by which candidates are found; whole samples are then compared."""


def seen_before(
    home: Mapping[str, PreparedInputs],
    used_at_home: np.ndarray,
    away: Mapping[str, PreparedInputs],
    tested: np.ndarray,
) -> np.ndarray:
    """Which tested samples have the content of one that was used at home, ``bool [n]``.

    Two persons may well be described by the same words, so texts are not compared; nor are empty pictures, of which
    every value is the same.

    Args:
        home: Modality -> prepared samples that the graft was trained with.
        used_at_home: ``int64 [m]``, those of its training and validation splits.
        away: Modality -> prepared samples of the other cohort.
        tested: ``int64 [n]`` of them.

    Example:
        >>> from types import SimpleNamespace
        >>> def cohort(rows): return {"image": SimpleNamespace(array=np.asarray(rows, np.uint8))}
        >>> seen_before(cohort([[1, 2], [5, 6]]), np.array([0]), cohort([[5, 6], [1, 2], [0, 0]]), np.arange(3))
        array([False,  True, False])
    """
    seen = np.zeros(len(tested), bool)
    for name in home.keys() & away.keys() - {TEXT}:
        ours, theirs = home[name].array, away[name].array
        if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
            continue
        by_piece: dict[bytes, list[int]] = defaultdict(list)
        for i in used_at_home.tolist():
            by_piece[_piece(ours[i])].append(i)
        for k, row in enumerate(tested.tolist()):
            alike = by_piece.get(_piece(theirs[row]), ())
            seen[k] |= any(np.array_equal(ours[i], theirs[row]) for i in alike) and _shows_something(theirs[row])
    return seen


def _piece(sample: np.ndarray) -> bytes:
    """Values from the middle of a sample ``[...]``, as bytes; few enough to lie in two pages of a mapped file."""
    flat = sample.reshape(-1)
    start = max(0, len(flat) // 2 - PIECE // 2)
    return flat[start : start + PIECE].tobytes()


def _shows_something(sample: np.ndarray) -> bool:
    return bool(sample.min() < sample.max())
