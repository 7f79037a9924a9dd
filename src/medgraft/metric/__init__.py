"""Metrics: what each is made of, and which judge some predictions."""

from medgraft.metric.base import (
    Array,
    Metric,
    Predictions,
    WeightedStatistic,
    exactly,
    value_of,
)

__all__ = [
    "Array",
    "Metric",
    "Predictions",
    "WeightedStatistic",
    "exactly",
    "value_of",
]
