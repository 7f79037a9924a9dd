"""Numbers of some predictions, and their statistics."""

from __future__ import annotations

from medgraft.metric import Predictions, WeightedStatistic
from medgraft.metric.judging import judged, values


def points(p: Predictions) -> tuple[dict[str, float], dict[str, WeightedStatistic]]:
    return values(p), judged(p).statistics
