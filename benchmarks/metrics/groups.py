"""Metrics in groups of test subjects: by sex, age band, site, scanner, view; the worst group, and the gap.

The interval of a group is made as that of a whole test set, of the group's own subjects. That of the gap between the
best and the worst group is made of those (:func:`medgraft.benchmarks.metrics.student.range_interval`): it begins at 0
unless some two groups are told apart, since the gap of groups that do not differ is never negative and only by chance
0. Where people are in several groups, as with views of one person, what they have in common makes it too wide.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medgraft.benchmarks.metrics.bootstrap import Estimate
from medgraft.benchmarks.metrics.intervals import Uncertainty, over_seeds
from medgraft.benchmarks.metrics.resampling import subject_bootstrap
from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.benchmarks.metrics.student import level_of_pairs, range_interval
from medgraft.benchmarks.metrics.weighted import once
from medgraft.metric import Array, Metric, WeightedStatistic

FEWEST = 20
"""Test subjects that a group needs; smaller ones are joined, or left out by name where they are too few together."""

MOST_VALUES = 8
"""Numbers with more different values than this are put into bands: quarters of the training subjects."""

MOST_GROUPS = 50
"""An attribute with more different words is no attribute: names of files, free text."""

DIGITS = 6

OTHERS, UNKNOWN = "others", "unknown"


class Further(BaseModel):
    """A further metric by the same groups, short: value, and lower and upper end of its interval.

    Attributes:
        groups: Name of a group -> the metric in it.
        worst: Name of the group where it is worst; empty where it is undefined.
        gap: Between the best and the worst group.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    groups: dict[str, tuple[float | None, float | None, float | None]]
    worst: str = ""
    gap: tuple[float | None, float | None, float | None]


class Groups(BaseModel):
    """The metrics by the groups of one attribute.

    Attributes:
        metric: Name of the primary one.
        groups: Name of a group -> the metric in it.
        worst: Name of the group where it is worst; empty where it is undefined.
        gap: Between the best and the worst group.
        joined: Groups that are together in ``others`` -> their test subjects.
        left_out: Groups that are too small -> their test subjects.
        further: Name of each other overall metric -> it in the same groups.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    metric: str
    groups: dict[str, Estimate]
    worst: str = ""
    gap: Estimate
    joined: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)
    further: dict[str, Further] = Field(default_factory=dict)

    def of(self, metric: str) -> Groups | None:
        """The same of another metric, with no further ones; ``None`` where it is not known."""
        if metric == self.metric:
            return self
        if (short := self.further.get(metric)) is None:
            return None

        def estimate(numbers: tuple[float | None, ...], like: Estimate) -> Estimate:
            value, low, high = numbers
            return like.model_copy(update={"value": value, "ci_low": low, "ci_high": high, "undefined_share": 0.0})

        groups = {
            name: estimate(short.groups[name], each) for name, each in self.groups.items() if name in short.groups
        }
        changed = {"metric": metric, "groups": groups, "worst": short.worst, "gap": estimate(short.gap, self.gap)}
        return self.model_copy(update={**changed, "further": {}})


def words_of(values: Any, train: Array) -> Array | None:
    """The group of each sample as a word, ``[n]``; ``None`` where an attribute gives no groups.

    Args:
        values: ``[n]`` words or numbers; missing ones are ``None`` or ``nan``.
        train: ``int64 [m]`` training samples, whose quarters bands of numbers are.

    Example:
        >>> words_of([61.0, 70.5, None], np.array([0, 1])).tolist()
        ['61', '70.5', 'unknown']
    """
    column = np.asarray(values, dtype=object)
    missing = np.array([value is None or value != value or str(value).strip() == "" for value in column], bool)
    if missing.all():
        return None
    try:
        numbers = np.array([np.nan if gone else float(v) for v, gone in zip(column, missing, strict=True)])
    except (TypeError, ValueError):
        numbers = None
    if numbers is not None and len(np.unique(numbers[~missing])) > MOST_VALUES:
        words = _bands(numbers, train, missing)
    else:
        words = np.array([_word(value) for value in column], dtype=object)
    words[missing] = UNKNOWN
    return words.astype(str) if 2 <= len(set(words[~missing])) <= MOST_GROUPS else None


def _word(value: Any) -> str:
    if isinstance(value, (float, np.floating)) and value == value and float(value).is_integer():
        return str(int(value))
    return " ".join(str(value).split())[:60]


def _bands(numbers: Array, train: Array, missing: Array) -> Array:
    seen = numbers[train][~missing[train]]
    ends = np.unique(np.quantile(seen if len(seen) else numbers[~missing], [0.25, 0.5, 0.75]))
    between = [f"{a:g} to {b:g}" for a, b in itertools.pairwise(ends)]
    names = [f"below {ends[0]:g}", *between, f"from {ends[-1]:g}"]
    return np.array(names, dtype=object)[np.searchsorted(ends, numbers, side="right").clip(max=len(names) - 1)]


def metrics_by_groups(
    of_rows: Callable[[Array], Mapping[str, WeightedStatistic]],
    metrics: Mapping[str, Metric],
    subjects: Array,
    words: Array,
    *,
    strata: Callable[[Array], Sequence[Array]] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Groups | None:
    """Metrics in each group; ``None`` where fewer than two groups are large enough.

    Each group's metrics read the group's samples alone, so that all groups together cost what all samples do.

    Args:
        of_rows: Numbers of samples ``int64 [m]`` -> name of each metric -> its statistic of weights ``[R, m]``.
        metrics: Name of each number that is wanted -> its metric, the primary one first.
        subjects: ``int64 [n]`` subject number of each sample, from 0.
        words: ``[n]`` group of each sample.
        strata: Numbers of samples ``int64 [m]`` -> ways to divide them into classes, each ``int64 [m]``, see
            :meth:`medgraft.objective.Objective.strata`; ``None`` for numbers without classes.
        resamples: Bootstrap resamples.
        seed: Of the resampling.
    """
    masks, joined, left_out = _large_enough(words, subjects)
    if len(masks) < 2:
        return None
    rows = {group: np.flatnonzero(mask) for group, mask in masks.items()}
    parts = {group: _defined(of_rows, metrics, each) for group, each in rows.items()}
    wanted = {
        f"{group} {name}": once(_within(parts[group].get(name), each))
        for group, each in rows.items()
        for name in metrics
    }
    drawn = subject_bootstrap(wanted, subjects, resamples, seed)
    known: dict[str, dict[str, Uncertainty]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for group, each in rows.items():
        own = LeftOut(np.unique(subjects[each], return_inverse=True)[1], strata(each) if strata else ())
        by_name = {name: drawn[f"{group} {name}"] for name in metrics}
        of_group = {name: metrics[name] for name in parts[group]}
        known[group] = over_seeds([parts[group]], [by_name], own, of_group)
        sizes[group] = len(each), own.n_subjects
    whole = len(subjects), int(subjects.max()) + 1
    found = [
        _groups(name, metric, {group: each.get(name) for group, each in known.items()}, sizes, whole)
        for name, metric in metrics.items()
    ]
    primary, *others = [each.model_copy(update={"joined": joined, "left_out": left_out}) for each in found]
    return primary.model_copy(update={"further": {each.metric: _short(each) for each in others}})


def _groups(
    name: str,
    metric: Metric,
    known: Mapping[str, Uncertainty | None],
    sizes: Mapping[str, tuple[int, int]],
    whole: tuple[int, int],
) -> Groups:
    """One metric by groups, of each and of the whole the samples and the subjects."""
    defined = {group: each for group, each in known.items() if each is not None and np.isfinite(each.value)}
    estimates = {group: _estimate(defined.get(group), sizes[group]) for group in known}
    values = {group: each.value for group, each in defined.items()}
    worst = (min if metric.higher_is_better else max)(values, key=lambda group: values[group]) if values else ""
    return Groups(metric=name, groups=estimates, worst=worst, gap=_gap(list(defined.values()), metric, whole))


def _estimate(known: Uncertainty | None, size: tuple[int, int]) -> Estimate:
    """The metric of a group, undefined where there is no statistic."""
    low, high = known.ends() if known is not None else (None, None)
    value = None if known is None else known.value
    return Estimate(value=value, ci_low=low, ci_high=high, n=size[0], n_subjects=size[1])


def _defined(
    of_rows: Callable[[Array], Mapping[str, WeightedStatistic]], metrics: Mapping[str, Metric], rows: Array
) -> Mapping[str, WeightedStatistic]:
    """The metrics of a group; none where one cannot be made of so few classes or samples."""
    try:
        statistics = of_rows(rows)
    except (ValueError, ArithmeticError):
        return {}
    return {name: statistics[name] for name in metrics if name in statistics}


def _short(groups: Groups) -> Further:
    def numbers(each: Estimate) -> tuple[float | None, float | None, float | None]:
        low, value, high = (
            None if end is None else round(end, DIGITS) for end in (each.ci_low, each.value, each.ci_high)
        )
        return value, low, high

    by_group = {name: numbers(each) for name, each in groups.groups.items()}
    return Further(groups=by_group, worst=groups.worst, gap=numbers(groups.gap))


def _within(statistic: WeightedStatistic | None, rows: Array) -> WeightedStatistic:
    """The statistic of some samples ``int64 [m]`` as a function of the weights of all; ``None`` is undefined."""
    if statistic is None:
        return lambda weights: np.full(len(weights), np.nan)
    return lambda weights: statistic(np.take(weights, rows, axis=1))


def _large_enough(words: Array, subjects: Array) -> tuple[dict[str, Array], dict[str, int], dict[str, int]]:
    """Group -> its samples ``bool [n]``, small groups joined; those that were joined, and those left out."""
    counts = {word: len(np.unique(subjects[words == word])) for word in sorted(set(words.tolist()))}
    small = {word: count for word, count in counts.items() if count < FEWEST}
    masks = {word: words == word for word in counts if word not in small}
    together = np.isin(words, list(small))
    if len(small) > 1 and len(np.unique(subjects[together])) >= FEWEST:
        return {**masks, OTHERS: together}, small, {}
    return masks, {}, small


def _gap(known: Sequence[Uncertainty], metric: Metric, size: tuple[int, int]) -> Estimate:
    """Between the best and the worst of the groups in which the metric is defined."""
    n, n_subjects = size
    if len(known) < 2:
        return Estimate(value=None, ci_low=None, ci_high=None, n=n, n_subjects=n_subjects)
    values, level = [each.value for each in known], level_of_pairs(len(known))
    each, together = [one.ends() for one in known], [one.ends(level) for one in known]
    low, high = range_interval(values, each, together, metric.bounds[1] - metric.bounds[0])
    return Estimate(value=max(values) - min(values), ci_low=low, ci_high=high, n=n, n_subjects=n_subjects)
