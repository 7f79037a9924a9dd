"""Metrics of predicted risk, where for some subjects it is only known that nothing had happened until they left.

``p.scores`` are risks ``[n, 1]``, higher where the event is expected sooner; ``p.targets`` are times ``[n]`` to the
event or to the last visit. Further columns: ``event`` ``[n]``, 1 where the event was seen; ``censoring`` ``[n]``, the
share of subjects that is still followed just before that time (:func:`followed`, from training subjects); ``horizons``
``[n, H]``, the same times in every row, at which the area under the curve is asked.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.weighted import mean_of
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic


class Concordance(Metric):
    """``c_index``: of all pairs whose order of events is known, the share in which the earlier one had the higher risk.

    Harrell et al., "Evaluating the yield of medical tests", JAMA 247, 1982. A pair is comparable if the one with the
    shorter time had the event, or if both times are equal and one of them had it; equal risks count half.
    """

    title = "concordance"
    numbers = ("c_index",)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        risk, time, event = p.scores[:, 0], p.targets, p.columns["event"].astype(bool)
        sooner = time[:, None] < time[None]
        tied = (time[:, None] == time[None]) & ~event[None]
        comparable = event[:, None] & (sooner | tied)
        order = (risk[:, None] > risk[None]) + 0.5 * (risk[:, None] == risk[None])
        concordant = (comparable * order).astype(np.float64)
        pairs = comparable.astype(np.float64)

        def c_index(weights: Array) -> Array:
            total = ((weights @ pairs) * weights).sum(axis=1)
            right = ((weights @ concordant) * weights).sum(axis=1)
            return np.divide(right, total, out=np.full(len(weights), np.nan), where=total > 0)

        return {"c_index": c_index}


class TimeDependentAuc(Metric):
    """``auc_at_<h>``: those with an event until ``h`` against those without one at ``h``; ``auc_time``: their mean.

    The cumulative case and dynamic control area of Uno et al., "Evaluating prediction rules for t-year survivors with
    censored regression models", JASA 102, 2007: a case counts by one over the share of subjects that would still have
    been followed at its time, so that those who left early are made up for by those who stayed.
    """

    title = "AUC at a time"
    numbers = ("auc_time",)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        horizons = p.columns["horizons"][0]
        parts = {f"auc_at_{horizon:g}": _at(p, float(horizon)) for horizon in horizons}
        return {"auc_time": mean_of(list(parts.values())), **parts}


def _at(p: Predictions, horizon: float) -> WeightedStatistic:
    risk, time, event = p.scores[:, 0], p.targets, p.columns["event"].astype(bool)
    share = p.columns["censoring"].astype(float)
    case = event & (time <= horizon) & (share > 0)
    counts = np.divide(1.0, share, out=np.zeros(len(time)), where=case)
    control = (time > horizon).astype(float)
    order = (risk[:, None] > risk[None]) + 0.5 * (risk[:, None] == risk[None])

    def auc(weights: Array) -> Array:
        cases, controls = weights * counts, weights * control
        right = ((cases @ order) * controls).sum(axis=1)
        total = cases.sum(axis=1) * controls.sum(axis=1)
        return np.divide(right, total, out=np.full(len(weights), np.nan), where=total > 0)

    return auc


def followed(time: Array, event: Array, at: Array) -> Array:
    """Kaplan and Meier's estimate of the share of subjects still followed just before each time ``at``, ``[m]``.

    Censoring is the event here, and an event that is seen at the same time comes first (Kaplan and Meier,
    "Nonparametric estimation from incomplete observations", JASA 53, 1958).

    Args:
        time: ``float [n]``, times to event or censoring.
        event: ``bool [n]``, whether the event was seen.
        at: ``float [m]``.

    Example:
        >>> followed(np.array([1.0, 2.0, 3.0, 4.0]), np.array([True, False, True, False]), np.array([1, 2, 3, 4.5]))
        array([1.        , 1.        , 0.66666667, 0.        ])
    """
    left = np.unique(time[~event])
    at_risk = np.array([((time > t) | ((time == t) & ~event)).sum() for t in left])
    leaving = np.array([((time == t) & ~event).sum() for t in left])
    share = np.concatenate([[1.0], np.cumprod(1 - leaving / np.maximum(at_risk, 1))])
    return share[np.searchsorted(left, at, side="left")]
