"""Regressions that fit a linear head exactly, and the losses by which their strengths of L2 are compared.

A head is one or several independent regressions on the same features: a softmax over exclusive classes, a sigmoid per
label, a number, a risk. Each is a :class:`LinearProblem`, solved to convergence on standardised features, so that the
same data give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

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


@dataclass(frozen=True)
class LinearProblem:
    """One regression of a head; a base for those of objectives.

    Attributes:
        name: Label or question, for reports; empty for the one regression of a task.
        outputs: Numbers of the head's outputs that take part.
        rows: ``bool [n]``, samples that count.
        values: ``[n, ...]``, what a prediction is compared with; read where ``rows`` is true.
        regression: What it is called, for reports.
        loss_name: What :meth:`losses` are, for reports.
    """

    name: str
    outputs: tuple[int, ...]
    rows: Array
    values: Array
    regression: ClassVar[str] = "regression"
    loss_name: ClassVar[str] = "loss"

    def part(self, rows: Array) -> Self:
        """The problem on some samples, numbered as ``rows``, ``[m]``, are."""
        return replace(self, rows=self.rows[rows], values=self.values[rows])

    def joined(self, others: Sequence[LinearProblem]) -> Self:
        """The problem on the samples of several, one after the other."""
        return replace(
            self,
            rows=np.concatenate([each.rows for each in others]),
            values=np.concatenate([each.values for each in others]),
        )

    @property
    def trainable(self) -> bool:
        """Whether the samples that count have anything to learn from."""
        return bool(self.rows.any())

    def strata(self) -> Array:
        """``int64 [n]``, by which folds are stratified."""
        return np.zeros(len(self.rows), np.int64)

    def judgeable(self, inside: Array, outside: Array) -> Array:
        """``bool [m]``, which of the samples ``outside``, ``[m]``, a fit on ``inside`` can be judged on."""
        return np.ones(len(outside), bool)

    def losses(self, outputs: Array) -> Array:
        """Loss of each sample that counts.

        Args:
            outputs: ``[n, outputs of the head]``.
        """
        raise TypeError(f"{type(self).__name__} must implement losses()")

    def constant(self) -> Array:
        """Outputs ``[K]`` of a problem that is not trainable: what can honestly be said without features."""
        return np.zeros(len(self.outputs))

    def solve(
        self, columns: Array, candidates: Sequence[float], tolerance: float, weights: Array | None = None
    ) -> Iterator[tuple[Array, Array]]:
        """Weight ``[outputs, D]`` and bias ``[outputs]`` for each candidate, in their order.

        Args:
            columns: ``[m, D]`` of the ``m`` samples that count, standardised.
            candidates: Inverse strengths of L2, ascending, so that each fit may start from the one before it.
            tolerance: See :data:`EXACT`.
            weights: ``[m]`` weights of the samples, ``None`` for 1.
        """
        raise TypeError(f"{type(self).__name__} must implement solve()")


def mean_loss(problems: Sequence[LinearProblem], logits: Array) -> float:
    """Mean loss of outputs ``[n, K]`` over all that counts in any of the problems, ``nan`` where nothing does."""
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
        """What was solved on :attr:`columns`, ``[K, C]`` and ``[K]``, as a head on the features, scaler folded in."""
        whole = weight if self.rotation is None else weight @ self.rotation
        folded = whole / self.scale
        return Linear(folded, bias - folded @ self.mean)


def fit_heads(
    features: Array,
    problems: Sequence[LinearProblem],
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
        if not problem.trainable:
            bias[:, problem.outputs] = problem.constant()
            continue
        key = problem.rows.tobytes()
        if key not in bases:
            bases[key] = Standardised(features[problem.rows], np.float64 if tolerance <= EXACT else np.float32)
        sample_weights = None if weights is None else weights[problem.rows]
        for i, (rows, offset) in enumerate(problem.solve(bases[key].columns, candidates, tolerance, sample_weights)):
            unfolded = bases[key].unfold(rows, offset)
            weight[i, problem.outputs], bias[i, problem.outputs] = unfolded.weight, unfolded.bias
    return [Linear(weight[i], bias[i]) for i in range(len(candidates))]
