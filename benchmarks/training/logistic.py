"""Logistic regressions of a head: a softmax over exclusive classes, or a sigmoid.

Solved by scikit-learn's L-BFGS (Pedregosa et al., "Scikit-learn", JMLR 2011) to convergence.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medgraft.benchmarks.training.linear_problems import MOST_ITERATIONS, Array, LinearProblem

UNSEEN_LOGIT = -20.0
"""Logit of a class that no training sample has: its probability is 1e-9 where the other logits are about 0."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Logistic(LinearProblem):
    """One softmax or one sigmoid of a head.

    ``outputs``: one is a sigmoid, several are a softmax. ``values``: ``int64 [n]``, place within ``outputs`` of each
    sample's class; 0 or 1 for a sigmoid.
    """

    regression: ClassVar[str] = "logistic regression"
    loss_name: ClassVar[str] = "log-loss"

    @property
    def trainable(self) -> bool:
        """Whether the samples have two classes at least, without which there is nothing to tell apart."""
        return len(np.unique(self.values[self.rows])) > 1

    def strata(self) -> Array:
        """The classes, ``int64 [n]``."""
        return self.values

    def judgeable(self, inside: Array, outside: Array) -> Array:
        """``bool [m]``, samples of a class that the fit has seen."""
        return np.isin(self.values[outside], self.values[inside])

    def losses(self, outputs: Array) -> Array:
        """Negative log-likelihood of each sample that counts, in nats.

        Args:
            outputs: Logits ``[n, outputs of the head]``.
        """
        logits, actual = outputs[np.ix_(self.rows, np.array(self.outputs))], self.values[self.rows]
        if len(self.outputs) == 1:
            return np.logaddexp(0, logits[:, 0]) - actual * logits[:, 0]
        return np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(logits)), actual]

    def constant(self) -> Array:
        """Logits ``[outputs]`` where training samples have one class or none.

        A sigmoid says the share of positives, with one more sample of either kind (Laplace's rule of succession).
        """
        seen = self.values[self.rows]
        if len(self.outputs) == 1:
            positive = (seen.sum() + 1) / (len(seen) + 2)
            return np.array([np.log(positive / (1 - positive))])
        present = np.isin(np.arange(len(self.outputs)), seen)
        return np.where(present | ~present.any(), 0.0, UNSEEN_LOGIT)

    def solve(
        self, columns: Array, candidates: Sequence[float], tolerance: float, weights: Array | None = None
    ) -> Iterator[tuple[Array, Array]]:
        """See :meth:`LinearProblem.solve`."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression

        y = self.values[self.rows]
        model = LogisticRegression(solver="lbfgs", tol=tolerance, max_iter=MOST_ITERATIONS, warm_start=True)
        for C in candidates:
            with warnings.catch_warnings(record=True) as raised:
                warnings.simplefilter("always", ConvergenceWarning)
                model.set_params(C=C).fit(columns, y, weights)
            for warning in raised:
                logger.warning("a head with C = %g: %s", C, str(warning.message).splitlines()[0])
            weight, bias, seen = np.asarray(model.coef_), np.asarray(model.intercept_), np.asarray(model.classes_)
            yield _spread(weight, bias, seen, len(self.outputs))


def _spread(weight: Array, bias: Array, seen: Array, K: int) -> tuple[Array, Array]:
    """scikit-learn's coefficients on the outputs of the problem: one row for two classes is a sigmoid's."""
    if K == 1:
        return weight, bias
    if len(seen) == 2:
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    rows, biases = np.zeros((K, weight.shape[1])), np.full(K, UNSEEN_LOGIT)
    rows[seen], biases[seen] = weight, bias
    return rows, biases
