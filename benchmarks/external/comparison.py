"""At home and in another cohort: both with intervals, and the difference with its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.metrics.bootstrap import Estimate, estimates, left_out_of
from medgraft.benchmarks.metrics.intervals import RESAMPLES, intervals_over_seeds
from medgraft.benchmarks.metrics.resampling import subject_bootstrap
from medgraft.benchmarks.metrics.student import Ends, independent_difference, quantile
from medgraft.benchmarks.metrics.weighted import mean_of
from medgraft.metric import Metric, Predictions, WeightedStatistic, value_of
from medgraft.metric.judging import judged


@dataclass(frozen=True)
class Compared:
    """Numbers of one graft in two cohorts, by name.

    Attributes:
        home: Of its own test split.
        away: Of the other cohort.
        drop: By how much it is worse there, in the metric's own unit; negative where it is better.
    """

    home: dict[str, Estimate]
    away: dict[str, Estimate]
    drop: dict[str, Estimate]


def compare(home: Predictions, away: Predictions) -> Compared:
    """All numbers that both predictions give.

    Args:
        home: Of the graft's own test split.
        away: Of the other cohort.
    """
    ours, theirs = judged(home), judged(away)
    names = [name for name in ours.statistics if name in theirs.statistics]
    sides = [
        estimates({name: each.statistics[name] for name in names}, p, RESAMPLES, metrics=each.metrics)
        for each, p in ((ours, home), (theirs, away))
    ]
    drops = {name: _drop(ours.metrics[name], sides[0][name], sides[1][name]) for name in names}
    return Compared(sides[0], sides[1], drops)


def drop_over_seeds(seeds: Sequence[tuple[Predictions, Predictions]], name: str) -> tuple[Ends, Ends, Ends]:
    """Intervals of the means over seeds of one number at home, away, and of the difference.

    Subjects at home and away are not the same; seeds are, so they count once, by their differences.

    Args:
        seeds: Of each seed the predictions at home and away; each side has the same samples for all.
        name: Of the number.

    Returns:
        Ends at home, away, and of the drop.
    """
    both = [(judged(home), judged(away)) for home, away in seeds]
    metric = both[0][0].metrics[name]
    with_seeds: list[Ends] = []
    without: list[Ends] = []
    values: list[np.ndarray] = []
    for side, p in enumerate(seeds[0]):
        statistics = [pair[side].statistics[name] for pair in both]
        values.append(np.array([value_of(each, len(p.targets)) for each in statistics]))
        with_seeds.append(_ends([{name: each} for each in statistics], p, {name: metric})[name])
        without.append(_ends([{name: mean_of(statistics)}], p, {name: metric})[name])
    differences, S = values[0] - values[1], len(seeds)
    spread = quantile(S - 1) * math.sqrt(float(differences.var(ddof=1)) / S) if S > 1 else 0.0
    means = float(values[0].mean()), float(values[1].mean())
    return with_seeds[0], with_seeds[1], _worse_by(metric, means, (without[0], without[1]), spread)


def _ends(each: Sequence[dict[str, WeightedStatistic]], p: Predictions, metrics: dict[str, Metric]) -> dict[str, Ends]:
    drawn = [subject_bootstrap(statistics, p.groups, RESAMPLES) for statistics in each]
    return intervals_over_seeds(each, drawn, left_out_of(p), metrics)


def _drop(metric: Metric, home: Estimate, away: Estimate) -> Estimate:
    """By how much a number is worse away."""
    found = Estimate(value=None, ci_low=None, ci_high=None, n=away.n, n_subjects=away.n_subjects)
    if home.value is None or away.value is None:
        return found
    each = (home.ci_low, home.ci_high), (away.ci_low, away.ci_high)
    low, high = _worse_by(metric, (home.value, away.value), each, 0.0)
    value = home.value - away.value if metric.higher_is_better else away.value - home.value
    return found.model_copy(update={"value": value, "ci_low": low, "ci_high": high})


def _worse_by(metric: Metric, values: tuple[float, float], each: tuple[Ends, Ends], spread: float) -> Ends:
    """Interval of the drop from those at home and away; ``spread`` is the half of one over seeds."""
    if not metric.higher_is_better:
        values, each = (values[1], values[0]), (each[1], each[0])
    width = metric.bounds[1] - metric.bounds[0]
    return independent_difference(values, each, (-width, width), spread)
