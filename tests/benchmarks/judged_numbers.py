"""Numbers of some predictions, and their statistics."""

from __future__ import annotations

from medgraft.judging import judged, values
from medgraft.metric import Predictions, WeightedStatistic


def points(p: Predictions) -> tuple[dict[str, float], dict[str, WeightedStatistic]]:
    return values(p), judged(p).statistics
