"""Intervals of means over seeds, and classes that too few test subjects have for any interval.

What a 95% interval of a board contains: other test subjects from the same population, and other seeds of the same
training. What it does not contain: another cohort, another split into training and test, another choice of
hyper-parameters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from medgraft.benchmarks.metrics import LEVEL, Array, Predictions, points, subject_bootstrap

Ends = tuple[float | None, float | None]

FEW = 10
"""Test subjects of a class below which an interval is too narrow: simulated coverage falls under nine in ten."""

RESAMPLES = 1000


def pooled_intervals(each: Sequence[Predictions], names: Iterable[str]) -> dict[str, Ends]:
    """Intervals of the mean over seeds, which resample subjects and seeds.

    Args:
        each: Predictions of two seeds at least on one test split.
        names: Metrics wanted.
    """
    found = [points(p) for p in each]
    wanted = [name for name in names if all(name in weighted for _, weighted in found)]
    parts = {(s, name): weighted[name] for s, (_, weighted) in enumerate(found) for name in wanted}
    drawn = subject_bootstrap({f"{s} {name}": part for (s, name), part in parts.items()}, each[0].groups, RESAMPLES)
    return {
        name: seed_interval(
            np.stack([drawn[f"{s} {name}"] for s in range(len(each))]),
            np.array([values[name] for values, _ in found]),
        )
        for name in wanted
    }


def seed_interval(by_seed: Array, values: Array, seed: int = 0) -> Ends:
    """Interval of a mean over seeds from the resamples of each seed.

    Two levels: each of the ``R`` resamples of the subjects, which are the same for all ``S`` seeds, is averaged over
    ``S - 1`` seeds drawn with replacement. ``S`` draws would make the spread of seeds too small by ``(S - 1) / S``;
    with ``S - 1`` its variance is unbiased (Rao and Wu, "Resampling inference with complex survey data", JASA 83,
    1988). Three seeds say little of their own spread, so the ends are moved outwards from the mean by the ratio of
    Student's quantile to the normal one, at the degrees of freedom of a sum of two variances of which only the seeds'
    is uncertain (Satterthwaite, Biometrics Bulletin 2, 1946). Seeds that agree move nothing.

    Args:
        by_seed: ``[S, R]``, ``nan`` where undefined.
        values: ``[S]`` point values of a metric between 0 and 1, or a difference of two.
        seed: Of the draws.

    Returns:
        Lower and upper end; ``None`` where no resample or some seed's value is undefined.
    """
    from scipy import stats

    S, R = by_seed.shape
    if np.isnan(values).any():
        return None, None
    chosen = np.random.default_rng([seed, 41]).integers(S, size=(max(1, S - 1), R))
    drawn = by_seed[chosen, np.arange(R)].mean(axis=0)
    drawn = drawn[~np.isnan(drawn)]
    if not len(drawn):
        return None, None
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    between = float(values.var(ddof=1)) / S if S > 1 else 0.0
    if between > 0:
        freedom = (S - 1) * (max(float(drawn.var()), between) / between) ** 2
        wider = stats.t.ppf((1 + LEVEL) / 2, freedom) / stats.norm.ppf((1 + LEVEL) / 2)
        low, high = (values.mean() + (end - values.mean()) * wider for end in (low, high))
    floor, ceiling = (-1.0 if values.min() < 0 or drawn.min() < 0 else 0.0), 1.0
    return float(max(low, floor)), float(min(high, ceiling))


def joined_interval(values: Sequence[float], lows: Sequence[float], highs: Sequence[float]) -> Ends:
    """Interval of a mean over seeds where only each seed's own value and ends are at hand.

    The mean distance of the ends, and Student's interval of the seeds' mean, in quadrature. The former is a little too
    wide, since what seeds make of the same subjects is not quite the same.
    """
    from scipy import stats

    mean, S = float(np.mean(values)), len(values)
    spread = float(stats.t.ppf((1 + LEVEL) / 2, S - 1) * np.std(values, ddof=1) / np.sqrt(S)) if S > 1 else 0.0
    below, above = mean - float(np.mean(lows)), float(np.mean(highs)) - mean
    return max(mean - float(np.hypot(below, spread)), min(0.0, *lows)), min(mean + float(np.hypot(above, spread)), 1.0)


def few_subjects(p: Predictions) -> dict[str, int]:
    """Classes that fewer than :data:`FEW` test subjects have, with how many do.

    Of a label, the rarer of those who have it and those who have not; of masks and boxes likewise.
    """
    if p.objective == "detection":
        has = np.any(p.targets[:, :, 2] >= 0, axis=1)
        counts = {p.classes[0]: min(_subjects(p, np.asarray(has)), _subjects(p, np.asarray(~has)))}
    elif p.objective == "segmentation":
        counts = {p.classes[0]: min(_subjects(p, p.targets > 0), _subjects(p, p.targets == 0))}
    elif p.targets.ndim == 1:
        counts = {name: _subjects(p, p.targets == k) for k, name in enumerate(p.classes)}
    else:
        known = np.ones(p.targets.shape, bool) if p.mask is None else p.mask.astype(bool)
        has = p.targets.astype(bool)
        counts = {
            name: min(_subjects(p, known[:, k] & has[:, k]), _subjects(p, known[:, k] & ~has[:, k]))
            for k, name in enumerate(p.classes)
        }
    return {name: count for name, count in counts.items() if count < FEW}


def _subjects(p: Predictions, rows: Array) -> int:
    return len(np.unique(p.groups[rows]))
