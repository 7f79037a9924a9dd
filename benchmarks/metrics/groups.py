"""One metric in groups of test subjects: by sex, age band, site, scanner, view; the worst group, and the gap.

All groups share one set of resamples of the subjects, so that the gap between the best and the worst has an interval of
its own: it is the gap of each resample. A gap is never negative, so with few subjects its interval lies above 0 also
where groups do not differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medgraft.benchmarks.metrics.bootstrap import Estimate, interval, subject_bootstrap
from medgraft.metric import Array, WeightedStatistic, value_of

FEWEST = 20
"""Test subjects that a group needs; smaller ones are joined, or left out by name where they are too few together."""

MOST_VALUES = 8
"""Numbers with more different values than this are put into bands: quarters of the training subjects."""

MOST_GROUPS = 50
"""An attribute with more different words is no attribute: names of files, free text."""

OTHERS, UNKNOWN = "others", "unknown"


class Groups(BaseModel):
    """One metric by the groups of one attribute.

    Attributes:
        metric: Its name.
        groups: Name of a group -> the metric in it.
        worst: Name of the group where it is worst; empty where it is undefined.
        gap: Between the best and the worst group.
        joined: Groups that are together in ``others`` -> their test subjects.
        left_out: Groups that are too small -> their test subjects.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    metric: str
    groups: dict[str, Estimate]
    worst: str = ""
    gap: Estimate
    joined: dict[str, int] = Field(default_factory=dict)
    left_out: dict[str, int] = Field(default_factory=dict)


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


def by_groups(
    name: str,
    statistic: WeightedStatistic,
    subjects: Array,
    words: Array,
    *,
    higher_is_better: bool = True,
    resamples: int = 1000,
    seed: int = 0,
) -> Groups | None:
    """A metric in each group; ``None`` where fewer than two groups are large enough.

    Args:
        name: Of the metric.
        statistic: Weights ``[R, n]`` of test samples -> the metric ``[R]``.
        subjects: ``int64 [n]`` subject number of each sample, from 0.
        words: ``[n]`` group of each sample.
        higher_is_better: Whether more of the metric is better.
        resamples: Bootstrap resamples.
        seed: Of the resampling.
    """
    masks, joined, left_out = _large_enough(words, subjects)
    if len(masks) < 2:
        return None
    masked = {group: _within(statistic, mask) for group, mask in masks.items()}
    drawn = subject_bootstrap(masked, subjects, resamples, seed)
    groups: dict[str, Estimate] = {}
    for group, mask in masks.items():
        value = value_of(masked[group], len(words))
        low, high, share = interval(drawn[group]) if np.isfinite(value) else (None, None, 0.0)
        count = len(np.unique(subjects[mask]))
        groups[group] = Estimate(
            value=float(value) if np.isfinite(value) else None,
            ci_low=low,
            ci_high=high,
            n=int(mask.sum()),
            n_subjects=count,
            undefined_share=round(share, 4),
        )
    known = {group: each.value for group, each in groups.items() if each.value is not None}
    worst = (min if higher_is_better else max)(known, key=lambda group: known[group]) if known else ""
    gap = _gap(known, drawn, len(words), int(subjects.max()) + 1)
    return Groups(metric=name, groups=groups, worst=worst, gap=gap, joined=joined, left_out=left_out)


def _within(statistic: WeightedStatistic, mask: Array) -> WeightedStatistic:
    """The statistic of the samples ``bool [n]`` alone."""
    return lambda weights: statistic(weights * mask)


def _large_enough(words: Array, subjects: Array) -> tuple[dict[str, Array], dict[str, int], dict[str, int]]:
    """Group -> its samples ``bool [n]``, small groups joined; those that were joined, and those left out."""
    counts = {word: len(np.unique(subjects[words == word])) for word in sorted(set(words.tolist()))}
    small = {word: count for word, count in counts.items() if count < FEWEST}
    masks = {word: words == word for word in counts if word not in small}
    together = np.isin(words, list(small))
    if len(small) > 1 and len(np.unique(subjects[together])) >= FEWEST:
        return {**masks, OTHERS: together}, small, {}
    return masks, {}, small


def _gap(known: Mapping[str, float], drawn: Mapping[str, Array], n: int, n_subjects: int) -> Estimate:
    if len(known) < 2:
        return Estimate(value=None, ci_low=None, ci_high=None, n=n, n_subjects=n_subjects)
    each = np.stack([drawn[group] for group in known])
    low, high, share = interval(each.max(axis=0) - each.min(axis=0))
    value = max(known.values()) - min(known.values())
    return Estimate(value=value, ci_low=low, ci_high=high, n=n, n_subjects=n_subjects, undefined_share=round(share, 4))
