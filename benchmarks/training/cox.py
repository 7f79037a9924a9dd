"""Proportional hazards of a head that predicts a risk (Cox, "Regression models and life-tables", JRSS B 34, 1972)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from medgraft.benchmarks.training.linear_problems import MOST_ITERATIONS, Array, LinearProblem


@dataclass(frozen=True)
class Cox(LinearProblem):
    """One risk of a head. ``values``: ``float64 [n, 2]``, time and whether the event was seen (1) or not (0)."""

    regression: ClassVar[str] = "Cox regression"
    loss_name: ClassVar[str] = "negative log partial likelihood"

    @property
    def trainable(self) -> bool:
        """Whether an event was seen while someone else was still at risk."""
        time, event = self.values[self.rows].T
        return bool((event > 0).any() and len(time) > 1 and time[event > 0].min() < time.max())

    def strata(self) -> Array:
        """``int64 [n]``, whether the event was seen."""
        return self.values[:, 1].astype(np.int64)

    def losses(self, outputs: Array) -> Array:
        """Each event's part of the negative log partial likelihood, ``[n]``; 0 for those without one."""
        time, event = self.values[self.rows].T
        return partial_likelihood(outputs[self.rows, self.outputs[0]], time, event)[0]

    def solve(
        self, columns: Array, candidates: Sequence[float], tolerance: float, weights: Array | None = None
    ) -> Iterator[tuple[Array, Array]]:
        """See :meth:`LinearProblem.solve`; by L-BFGS. Views of a sample count as samples of their own."""
        from scipy.optimize import minimize

        x = columns.astype(np.float64)
        time, event = self.values[self.rows].T
        sample_weights = np.ones(len(x)) if weights is None else weights
        start = np.zeros(x.shape[1])
        for C in candidates:

            def loss(w: Array, C: float = C) -> tuple[float, Array]:
                losses, slope = partial_likelihood(x @ w, time, event, sample_weights)
                return C * float(losses.sum()) + 0.5 * float(w @ w), C * (x.T @ slope) + w

            options = {
                "maxiter": MOST_ITERATIONS,
                "gtol": tolerance * max(1.0, C * float((sample_weights * event).sum())),
            }
            start = minimize(loss, start, jac=True, method="L-BFGS-B", options={**options, "ftol": 0.0}).x
            yield start[None].copy(), np.zeros(1)


def partial_likelihood(risk: Array, time: Array, event: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Each sample's part of the negative log partial likelihood, and the sum's gradient by the risks.

    Events at one time have the same risk set, all who are followed until then (Breslow, JRSS B 34, 1972).

    Args:
        risk: ``float64 [n]``.
        time: ``float64 [n]``, to the event or to the last visit.
        event: ``float64 [n]``, 1 where the event was seen.
        weights: ``float64 [n]``, ``None`` for 1.

    Returns:
        ``[n]`` losses, 0 without an event, and ``[n]`` gradient.

    Example:
        >>> losses, _ = partial_likelihood(np.zeros(3), np.array([1.0, 2, 3]), np.array([1.0, 1, 0]))
        >>> losses.round(3)  # log 3 and log 2
        array([1.099, 0.693, 0.   ])
    """
    sample_weights = np.ones(len(risk)) if weights is None else weights
    order = np.argsort(-time, kind="stable")  # latest first, so that a risk set is what came before
    _, first = np.unique(-time[order], return_index=True)
    sizes = np.diff(np.append(first, len(order)))
    ends, starts = np.repeat(first + sizes - 1, sizes), np.repeat(first, sizes)  # of each group of equal times
    with np.errstate(divide="ignore"):  # the logarithm of a weight of 0, or of no event
        raised = risk[order] + np.log(sample_weights[order])
        seen = np.log(sample_weights[order] * event[order])
    total = np.logaddexp.accumulate(raised)[ends]
    # Of all events until a sample's own time, the logarithm of its summed shares of their risk sets.
    shares = np.logaddexp.accumulate((seen - total)[::-1])[::-1][starts]
    losses, slope = np.zeros(len(risk)), np.zeros(len(risk))
    losses[order] = np.exp(seen) * (total - risk[order])
    slope[order] = np.exp(raised + shares) - np.exp(seen)
    return losses, slope
