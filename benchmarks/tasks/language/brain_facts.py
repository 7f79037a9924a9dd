"""What ADNI's tables say about a brain: its ventricles, hippocampi and whole volume against those of healthy people.

ADNIMERGE has volumes that FreeSurfer measured (``Ventricles``, ``Hippocampus``, ``WholeBrain`` and ``ICV`` in mm3). As
shares of the intracranial volume they are told in standard deviations from the cognitively normal people that are
trained on: loss, or widening, of one, two and three of them is mild, moderate and severe. Nothing else is said, since
no field says it: no side, no lobe, no lesion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from medgraft.benchmarks.metrics.texts.statements import Statement
from medgraft.errors import DataError

HEALTHY, FEWEST = "CN", 5
LIMITS = (1.0, 2.0, 3.0)
"""Standard deviations from which a change is small, moderate and large."""

SIZES = ("small", "moderate", "large")


@dataclass(frozen=True)
class Measure:
    """One volume and what its change is called.

    Attributes:
        column: Column of the table, mm3.
        finding: Name of the finding, see :mod:`medgraft.benchmarks.metrics.texts.statements`.
        sign: 1 where more of it is the finding, -1 where less is.
        present: Wordings where it is there, with the degree as adverb or adjective.
        absent: Wordings where it is not.
    """

    column: str
    finding: str
    sign: int
    present: tuple[str, ...]
    absent: tuple[str, ...]


_ADVERBS = ("mildly", "moderately", "severely")
_ADJECTIVES = ("mild", "moderate", "severe")
MEASURES = (
    Measure(
        "Ventricles",
        "enlarged ventricles",
        1,
        ("The ventricles are {adverb} enlarged.", "{Adjective} ventricular enlargement."),
        ("The ventricles are of normal size.", "No ventricular enlargement."),
    ),
    Measure(
        "Hippocampus",
        "hippocampal atrophy",
        -1,
        ("{Adjective} hippocampal atrophy.", "There is {adjective} atrophy of the hippocampi."),
        ("No hippocampal atrophy.", "The hippocampi are of normal volume."),
    ),
    Measure(
        "WholeBrain",
        "brain atrophy",
        -1,
        ("{Adjective} generalized brain atrophy.", "There is {adjective} global atrophy."),
        ("No generalized brain atrophy.", "No global atrophy."),
    ),
)


def shares_of(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """Column of each measure -> its share of the intracranial volume, ``[n]``; NaN where a field is missing."""
    return {each.column: frame[each.column].to_numpy(float) / frame["ICV"].to_numpy(float) for each in MEASURES}


def norms_of(frame: pd.DataFrame, train: np.ndarray) -> dict[str, tuple[float, float]]:
    """Column -> mean and standard deviation of the share among healthy people that are trained on, one visit each.

    Args:
        frame: The table, first visits first within a subject.
        train: Training rows ``[m]``.

    Raises:
        DataError: No measure is told of :data:`FEWEST` healthy people.
    """
    rows = frame.iloc[train]
    healthy = rows[rows["dx"] == HEALTHY].drop_duplicates("subject")
    norms = {}
    for column, share in shares_of(healthy).items():
        told = share[np.isfinite(share)]
        if len(told) >= FEWEST and told.std(ddof=1) > 0:
            norms[column] = (float(told.mean()), float(told.std(ddof=1)))
    if not norms:
        raise DataError(
            f"fewer than {FEWEST} cognitively normal training subjects have volumes of regions; they stand in "
            "ADNIMERGE (Ventricles, Hippocampus, WholeBrain, ICV)"
        )
    return norms


def statements_at(
    shares: Mapping[str, np.ndarray], norms: Mapping[str, tuple[float, float]], row: int
) -> list[Statement]:
    """What the fields of one row say, a statement for each measure that they tell.

    Args:
        shares: See :func:`shares_of`.
        norms: See :func:`norms_of`.
        row: Number of the row.
    """
    said = []
    for each in MEASURES:
        value = shares[each.column][row]
        if each.column not in norms or not np.isfinite(value):
            continue
        mean, deviation = norms[each.column]
        step = int(np.searchsorted(LIMITS, each.sign * (value - mean) / deviation, side="right"))
        size = SIZES[step - 1] if step else ""
        said.append(Statement(each.finding, step > 0, size=size))
    return said


def worded(statements: Sequence[Statement], numbers: Sequence[int]) -> str:
    """Statements in sentences, whose order and wording the numbers choose; there is one number for each, at least.

    Example:
        >>> worded([Statement("brain atrophy", True, size="small"), Statement("enlarged ventricles", False)], [1, 0])
        'The ventricles are of normal size. There is mild global atrophy.'
    """
    by_finding = {each.finding: each for each in MEASURES}
    order = sorted(range(len(statements)), key=lambda i: (numbers[i], i))
    sentences = []
    for i in order:
        measure, said = by_finding[statements[i].finding], statements[i]
        pool = measure.present if said.present else measure.absent
        step = SIZES.index(said.size) if said.present else 0
        words = {"adverb": _ADVERBS[step], "adjective": _ADJECTIVES[step], "Adjective": _ADJECTIVES[step].capitalize()}
        sentences.append(pool[numbers[i] % len(pool)].format(**words))
    return " ".join(sentences)
