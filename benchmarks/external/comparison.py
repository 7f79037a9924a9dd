"""At home and in another cohort: both with intervals, and the difference with its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.metrics.bootstrap import Estimate, estimate_of
from medgraft.benchmarks.metrics.intervals import RESAMPLES, seed_interval
from medgraft.benchmarks.metrics.resampling import centre, subject_bootstrap
from medgraft.benchmarks.metrics.student import Ends
from medgraft.judging import Judged, judged
from medgraft.metric import Array, Metric, Predictions, value_of

HOME_SEED, AWAY_SEED = 0, 1
"""Persons at home and away are not the same, so they are drawn independently of each other."""


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
    drawn = [_drawn(each, p, names, seed) for each, p, seed in ((ours, home, HOME_SEED), (theirs, away, AWAY_SEED))]
    result = Compared({}, {}, {})
    for name in names:
        sign = _sign(ours.metrics[name])
        values = [value_of(each.statistics[name], len(p.targets)) for each, p in ((ours, home), (theirs, away))]
        parts = [
            estimate_of(value, by_name[name], len(p.targets), _subjects(p))
            for value, by_name, p in zip(values, drawn, (home, away), strict=True)
        ]
        result.home[name], result.away[name] = parts
        difference = sign * (drawn[0][name] - drawn[1][name])
        result.drop[name] = estimate_of(sign * (values[0] - values[1]), difference, parts[1].n, parts[1].n_subjects)
    return result


def drop_over_seeds(seeds: Sequence[tuple[Predictions, Predictions]], name: str) -> tuple[Ends, Ends, Ends]:
    """Intervals of the means over seeds of one number at home, away, and of the difference.

    Args:
        seeds: Of each seed the predictions at home and away; each side has the same samples for all.
        name: Of the number.

    Returns:
        Ends at home, away, and of the drop.
    """
    both = [(judged(home), judged(away)) for home, away in seeds]
    metric = both[0][0].metrics[name]
    low, high = metric.bounds
    sides: list[Array] = []
    values: list[Array] = []
    for side, seed in enumerate((HOME_SEED, AWAY_SEED)):
        statistics = {str(s): pair[side].statistics[name] for s, pair in enumerate(both)}
        groups, n = seeds[0][side].groups, len(seeds[0][side].targets)
        by_seed = subject_bootstrap(statistics, groups, RESAMPLES, seed)
        drawn = [by_seed[str(s)] for s in range(len(both))]
        if metric.centred:
            drawn = [
                _centred(rows, pair[side], seeds[s][side], name)
                for s, (rows, pair) in enumerate(zip(drawn, both, strict=True))
            ]
        sides.append(np.stack(drawn))
        values.append(np.array([value_of(statistic, n) for statistic in statistics.values()]))
    sign = _sign(metric)
    width = high - low
    return (
        seed_interval(sides[0], values[0], metric.bounds),
        seed_interval(sides[1], values[1], metric.bounds),
        seed_interval(sign * (sides[0] - sides[1]), sign * (values[0] - values[1]), (-width, width)),
    )


def _drawn(each: Judged, p: Predictions, names: Sequence[str], seed: int) -> Mapping[str, Array]:
    drawn = subject_bootstrap({name: each.statistics[name] for name in names}, p.groups, RESAMPLES, seed)
    return {name: _centred(rows, each, p, name) if each.metrics[name].centred else rows for name, rows in drawn.items()}


def _centred(drawn: Array, each: Judged, p: Predictions, name: str) -> Array:
    """Resamples ``[R]`` of a number whose interval is centred, see :class:`medgraft.metric.Metric`."""
    return centre(drawn, value_of(each.statistics[name], len(p.targets)), each.metrics[name].bounds)


def _sign(metric: Metric) -> int:
    return 1 if metric.higher_is_better else -1


def _subjects(p: Predictions) -> int:
    return int(p.groups.max()) + 1
