"""The contract of a metric plugin: a named object with one definition, a function of sample weights.

Weights of one give the value that is reported, and resampled weights its interval. Metrics are found by their names in
the entry-point group ``medgraft.metrics``; an objective names those that judge it, a task may ask for more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
WeightedStatistic = Callable[[Array], Array]
"""Weights ``float64 [R, n]`` -> the statistic of each resample, ``[R]``, ``nan`` where it is undefined."""


@dataclass(frozen=True)
class Predictions:
    """Test predictions.

    Attributes:
        scores: ``float64 [n, K]``: class probabilities, or a probability per label. What they are for other
            objectives, each says itself.
        targets: ``int64 [n]`` class indices, or ``[n, K]`` labels, or what the objective says.
        groups: ``int64 [n]`` anonymous subject numbers.
        classes: ``K`` names.
        mask: ``[n, K]`` true where a label counts, or ``None``.
        thresholds: ``[K]`` decision thresholds of multi-label scores, or ``None``.
        objective: Name of the objective; empty for classes or labels, which the targets tell apart.
        variants: Further metrics by name.
        asked: ``int64 [n]``, number of the question that each sample asks, or ``None``.
        questions: Their names.
        answers: Classes that answer each question; only these compete for its samples.
        columns: Further columns ``[n, ...]`` of objectives that need them.
    """

    scores: Array
    targets: Array
    groups: Array
    classes: tuple[str, ...]
    mask: Array | None = None
    thresholds: Array | None = None
    objective: str = ""
    variants: tuple[str, ...] = ()
    asked: Array | None = None
    questions: tuple[str, ...] = ()
    answers: tuple[tuple[int, ...], ...] = ()
    columns: Mapping[str, Array] = field(default_factory=dict[str, Array])

    def of(self, rows: Array) -> Predictions:
        """Those of some samples, ``int64 [m]`` or ``bool [n]``, with their subjects numbered anew."""
        _, groups = np.unique(self.groups[rows], return_inverse=True)
        return replace(
            self,
            scores=self.scores[rows],
            targets=self.targets[rows],
            groups=groups,
            mask=None if self.mask is None else self.mask[rows],
            asked=None if self.asked is None else self.asked[rows],
            columns={name: column[rows] for name, column in self.columns.items()},
        )


class Metric:
    """A metric plugin: a name, and what it makes of predictions.

    Attributes:
        api_version: Version of this contract that the plugin was written for.
        version: Raised whenever its definition changes what it says of the same predictions; a board never shows two
            versions in one table.
        title: A few words for a reader of the board.
        numbers: Names of the overall numbers that it gives, those by class left out.
        bounds: Smallest and largest possible value, at which intervals end.
        higher_is_better: How a board ranks by it.
        over_samples: Those of ``numbers`` in which each sample counts alike, whatever its class, as in an accuracy. The
            others at their bound, as an AUC of 1, rest on the test subjects of the rarest class.
        centred: Ends of its intervals are moved so that the mean of the resamples is the value. For errors that are
            sums of absolute differences: resamples add noise of their own, and may all lie above the value.
    """

    api_version: ClassVar[int] = 1
    version: ClassVar[int] = 1
    title: ClassVar[str] = ""
    numbers: ClassVar[tuple[str, ...]] = ()
    bounds: ClassVar[tuple[float, float]] = (0.0, 1.0)
    higher_is_better: ClassVar[bool] = True
    over_samples: ClassVar[tuple[str, ...]] = ()
    centred: ClassVar[bool] = False

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """Name of each number that the metric gives -> its statistic; the overall ones first, then those by class.

        Args:
            p: Predictions of ``n`` samples.
        """
        raise TypeError(f"{type(self).__name__} must implement statistics()")


def value_of(statistic: WeightedStatistic, n: int) -> float:
    """The statistic of ``n`` samples themselves, ``nan`` where it is undefined."""
    return float(statistic(np.ones((1, n)))[0])


def exactly(value: float, statistic: WeightedStatistic) -> WeightedStatistic:
    """A statistic that gives ``value``, from a library, for weights of one: its own differs in the last bit."""

    def exact(weights: Array) -> Array:
        return np.array([value]) if len(weights) == 1 and (weights == 1).all() else statistic(weights)

    return exact
