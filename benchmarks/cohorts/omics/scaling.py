"""Which genes are read, and on which scale; both learnt from training samples alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgraft.errors import DataError

LEAST_SEEN = 0.8
"""Share of the training samples that must have a number of a gene."""


@dataclass(frozen=True)
class GeneScaling:
    """The genes of largest variance among some samples, with their means and deviations there.

    Attributes:
        columns: ``int64 [g]``, columns of the table, ascending.
        mean: ``float64 [g]``.
        deviation: ``float64 [g]``, over 0.
    """

    columns: np.ndarray
    mean: np.ndarray
    deviation: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, most: int) -> GeneScaling:
        """Chooses and measures.

        Args:
            values: Of training samples, ``[n, P]``, ``nan`` where missing.
            most: Genes to choose; all that vary, where there are fewer.

        Raises:
            DataError: No gene varies that most of the samples have.

        Example:
            >>> scaling = GeneScaling.of(np.array([[1.0, 5.0, 3.0], [3.0, 5.0, 9.0]]), most=1)
            >>> scaling.columns.tolist(), scaling.apply(np.array([[1.0, 5.0, 9.0]])).tolist()
            ([2], [[1.0]])
        """
        seen = np.isfinite(values)
        usable = np.flatnonzero(seen.mean(axis=0) >= LEAST_SEEN)
        variance = np.nanvar(values[:, usable].astype(float), axis=0)
        usable, variance = usable[variance > 0], variance[variance > 0]
        if not len(usable):
            raise DataError(
                f"no gene has a number in {LEAST_SEEN:.0%} of the training samples and varies among them; nothing is "
                "left to read"
            )
        columns = np.sort(usable[np.argsort(-variance, kind="stable")[:most]])
        chosen = values[:, columns].astype(float)
        return cls(columns, np.nanmean(chosen, axis=0), np.nanstd(chosen, axis=0))

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Values of any samples, ``[n, P]``, as ``float32 [n, g]``; missing ones stay ``nan``."""
        return ((values[:, self.columns] - self.mean) / self.deviation).astype(np.float32)
