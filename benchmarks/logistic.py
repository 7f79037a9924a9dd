"""Logistic regressions that fit a linear head exactly, and the losses by which their strengths of L2 are compared.

A head is one or several independent regressions on the same features: a softmax over exclusive classes, a sigmoid per
label, a softmax per question. Each is a :class:`Problem`. They are solved by scikit-learn's L-BFGS (Pedregosa et al.,
"Scikit-learn", JMLR 2011) on standardised features, to convergence, so that the same data give the same bits.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

CANDIDATES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Inverse strengths of L2, ``C`` in ``C * sum of losses + |w|^2 / 2``, smallest first."""

EXACT, COARSE = 1e-6, 1e-3
"""Largest entry of the mean loss's gradient at which a fit ends: of a head that is kept, and of one that is only
compared with others. The latter is fitted in single precision too; its loss is right to three digits, and those of
candidates differ in the second."""

MOST_ITERATIONS = 10_000

UNSEEN_LOGIT = -20.0
"""Logit of a class that no training sample has: its probability is 1e-9 where the other logits are about 0."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Problem:
    """One softmax or one sigmoid of a head.

    Attributes:
        name: Label or question, for reports; empty for the one softmax of a task.
        outputs: Numbers of the head's outputs that take part. One is a sigmoid, several are a softmax.
        rows: ``bool [n]``, samples that count.
        classes: ``int64 [n]``, place within ``outputs`` of each sample's class; 0 or 1 for a sigmoid. Read where
            ``rows`` is true.
    """

    name: str
    outputs: tuple[int, ...]
    rows: Array
    classes: Array

    def losses(self, logits: Array) -> Array:
        """Negative log-likelihood of each sample that counts, in nats.

        Args:
            logits: ``[n, outputs of the head]``.
        """
        own, actual = logits[np.ix_(self.rows, np.array(self.outputs))], self.classes[self.rows]
        if len(self.outputs) == 1:
            return np.logaddexp(0, own[:, 0]) - actual * own[:, 0]
        return np.logaddexp.reduce(own, axis=1) - own[np.arange(len(own)), actual]


def mean_loss(problems: Sequence[Problem], logits: Array) -> float:
    """Mean over everything that counts in any of the problems, ``nan`` where nothing does."""
    each = np.concatenate([problem.losses(logits) for problem in problems])
    return float(each.mean()) if len(each) else float("nan")


@dataclass(frozen=True)
class Linear:
    """A head in double precision that reads features as they are.

    Attributes:
        weight: ``[K, D]``.
        bias: ``[K]``.
    """

    weight: Array
    bias: Array

    def __call__(self, features: Array) -> Array:
        """``[n, D]`` -> logits ``[n, K]``."""
        return features @ self.weight.T + self.bias


class Standardised:
    """Features of training samples, each column at mean 0 and deviation 1, rotated where they are many.

    The L2 penalty does not see a rotation, and a solution is a sum of samples; so of far more columns than samples only
    the plane in which the samples lie is searched. The solution is the same.

    Args:
        features: ``float64 [n, D]``.
        kind: Precision of :attr:`columns`, in which is solved.
    """

    def __init__(self, features: Array, kind: type[np.floating[Any]] = np.float64) -> None:
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(features)
        self.mean, self.scale = np.asarray(scaler.mean_), np.asarray(scaler.scale_)
        self.columns: Array = np.asarray(scaler.transform(features))
        self.rotation: Array | None = None
        if features.shape[1] > 2 * features.shape[0]:  # of fewer, the rotation takes longer than it saves
            left, size, self.rotation = np.linalg.svd(self.columns, full_matrices=False)
            self.columns = left * size
        self.columns = self.columns.astype(kind)

    def unfold(self, weight: Array, bias: Array) -> Linear:
        """What was solved on :attr:`columns` as a head on the features themselves: the scaler is folded in."""
        whole = weight if self.rotation is None else weight @ self.rotation
        folded = whole / self.scale
        return Linear(folded, bias - folded @ self.mean)


def is_trainable(problem: Problem) -> bool:
    """Whether its samples have two classes at least, without which there is nothing to tell apart."""
    return len(np.unique(problem.classes[problem.rows])) > 1


def constant(problem: Problem) -> Array:
    """Logits ``[outputs]`` where training samples have one class or none: what can honestly be said without features.

    A sigmoid says the share of positives, with one more sample of either kind (Laplace's rule of succession).
    """
    seen = problem.classes[problem.rows]
    if len(problem.outputs) == 1:
        positive = (seen.sum() + 1) / (len(seen) + 2)
        return np.array([np.log(positive / (1 - positive))])
    present = np.isin(np.arange(len(problem.outputs)), seen)
    return np.where(present | ~present.any(), 0.0, UNSEEN_LOGIT)


def solve(
    columns: Array, problem: Problem, candidates: Sequence[float], tolerance: float, weights: Array | None = None
) -> Iterator[tuple[Array, Array]]:
    """Weight ``[outputs, D]`` and bias ``[outputs]`` for each candidate, in their order.

    Args:
        columns: ``[m, D]`` of the ``m`` samples that count, standardised.
        problem: What to solve; it has two classes at least.
        candidates: Inverse strengths of L2, ascending, so that each fit starts from the one before it.
        tolerance: See :data:`EXACT`.
        weights: ``[m]`` weights of the samples, ``None`` for 1.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    y = problem.classes[problem.rows]
    model = LogisticRegression(solver="lbfgs", tol=tolerance, max_iter=MOST_ITERATIONS, warm_start=True)
    for C in candidates:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", ConvergenceWarning)
            model.set_params(C=C).fit(columns, y, weights)
        for warning in told:
            logger.warning("a head with C = %g: %s", C, str(warning.message).splitlines()[0])
        weight, bias, seen = np.asarray(model.coef_), np.asarray(model.intercept_), np.asarray(model.classes_)
        yield _spread(weight, bias, seen, len(problem.outputs))


def _spread(weight: Array, bias: Array, seen: Array, K: int) -> tuple[Array, Array]:
    """scikit-learn's coefficients on the outputs of the problem: one row for two classes is a sigmoid's."""
    if K == 1:
        return weight, bias
    if len(seen) == 2:
        weight, bias = np.concatenate([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    rows, biases = np.zeros((K, weight.shape[1])), np.full(K, UNSEEN_LOGIT)
    rows[seen], biases[seen] = weight, bias
    return rows, biases


def fit_heads(
    features: Array,
    problems: Sequence[Problem],
    candidates: Sequence[float] = CANDIDATES,
    weights: Array | None = None,
    tolerance: float = EXACT,
) -> list[Linear]:
    """A head for each candidate, fitted to all problems.

    Args:
        features: ``float64 [n, D]`` of the training samples.
        problems: The head's regressions; together they have every output.
        candidates: Inverse strengths of L2, ascending.
        weights: ``[n]`` weights of the samples, ``None`` for 1.
        tolerance: See :data:`EXACT`.
    """
    K = 1 + max(max(problem.outputs) for problem in problems)
    weight, bias = np.zeros((len(candidates), K, features.shape[1])), np.zeros((len(candidates), K))
    bases: dict[bytes, Standardised] = {}  # labels that count on the same samples share one
    for problem in problems:
        if not is_trainable(problem):
            bias[:, problem.outputs] = constant(problem)
            continue
        key = problem.rows.tobytes()
        if key not in bases:
            bases[key] = Standardised(features[problem.rows], np.float64 if tolerance <= EXACT else np.float32)
        own = None if weights is None else weights[problem.rows]
        for i, (rows, offset) in enumerate(solve(bases[key].columns, problem, candidates, tolerance, own)):
            unfolded = bases[key].unfold(rows, offset)
            weight[i, problem.outputs], bias[i, problem.outputs] = unfolded.weight, unfolded.bias
    return [Linear(weight[i], bias[i]) for i in range(len(candidates))]
