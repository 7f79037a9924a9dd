"""Judges predictions by the metrics of their objective, with intervals."""

from __future__ import annotations

from medgraft.benchmarks.metrics.bootstrap import Estimate, estimates
from medgraft.metric import Predictions
from medgraft.metric.judging import judged


def evaluate(p: Predictions, *, resamples: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """All numbers of an objective with their intervals.

    Args:
        p: Test predictions.
        resamples: Bootstrap resamples; 0 leaves the intervals out.
        seed: Of the resampling.
    """
    numbers = judged(p)
    return estimates(numbers.statistics, p, resamples, seed, numbers.metrics)
