"""Which metrics judge some predictions, and what they say of them."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import NamedTuple

from medgraft import plugins
from medgraft.metric import Metric, Predictions, WeightedStatistic, value_of
from medgraft.objective import Objective, objective_class


class Judged(NamedTuple):
    """The numbers that metrics give for some predictions.

    Attributes:
        statistics: Name of each number -> its statistic.
        metrics: Name of each number -> the metric that it is of.
    """

    statistics: dict[str, WeightedStatistic]
    metrics: dict[str, Metric]


def objective_of(p: Predictions) -> type[Objective]:
    """The objective that some predictions are of; without a name their targets tell classes from labels."""
    return objective_class(p.objective or ("multiclass" if p.targets.ndim == 1 else "multilabel"))


@functools.cache
def metric(name: str) -> Metric:
    """A metric by its name.

    Raises:
        UnknownNameError: No installed plugin has the name; near ones are suggested.
    """
    return plugins.load(plugins.find("metric", name))()


def metric_of(number: str, metrics: Iterable[str]) -> Metric:
    """The first of some metrics that gives a number; where none does, one from 0 to 1 of which more is better."""
    return next((each for each in map(metric, metrics) if number in each.numbers), Metric())


def judged(p: Predictions) -> Judged:
    """Statistics of the metrics of the objective, and of those that the task asks for beside them."""
    result = Judged({}, {})
    for name in (*objective_of(p).judged_by(p), *p.variants):
        each = metric(name)
        for number, statistic in each.statistics(p).items():
            result.statistics[number], result.metrics[number] = statistic, each
    return result


def values(p: Predictions) -> dict[str, float]:
    """Name of each number -> its value on the predictions themselves, ``nan`` where it is undefined."""
    return {name: value_of(statistic, len(p.targets)) for name, statistic in judged(p).statistics.items()}
