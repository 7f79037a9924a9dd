"""Ridge regression of a head that predicts a number (Hoerl and Kennard, Technometrics 12, 1970)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medgraft.benchmarks.training.linear_problems import Array, LinearProblem


@dataclass(frozen=True)
class Ridge(LinearProblem):
    """One number of a head. ``values``: ``float64 [n]``, in the unit of the head's output."""

    regression: ClassVar[str] = "ridge regression"
    loss_name: ClassVar[str] = "half squared error"

    def losses(self, outputs: Array) -> Array:
        """Half the squared error of each sample that counts, ``[n]``."""
        return 0.5 * np.square(outputs[self.rows, self.outputs[0]] - self.values[self.rows])

    def solve(
        self, columns: Array, candidates: Sequence[float], tolerance: float, weights: Array | None = None
    ) -> Iterator[tuple[Array, Array]]:
        """See :meth:`LinearProblem.solve`; in closed form, so ``tolerance`` is not asked."""
        from sklearn.linear_model import Ridge as Solver

        y = self.values[self.rows]
        for C in candidates:
            model = Solver(alpha=1 / C, solver="cholesky").fit(columns.astype(np.float64), y, weights)
            yield np.atleast_2d(model.coef_), np.atleast_1d(model.intercept_)
