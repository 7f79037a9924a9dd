"""Two rows on the same test subjects: the difference, its interval, tests, and how many subjects would tell."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medgraft.benchmarks.metrics.bootstrap import left_out_of
from medgraft.benchmarks.metrics.intervals import RESAMPLES
from medgraft.benchmarks.metrics.resampling import subject_bootstrap
from medgraft.benchmarks.metrics.spread import LeftOut
from medgraft.benchmarks.metrics.student import LEVEL, quantile
from medgraft.benchmarks.statistics.delong import delong_p
from medgraft.benchmarks.statistics.evidence import same_subjects
from medgraft.benchmarks.statistics.pairs import differences, measured
from medgraft.benchmarks.statistics.permutation import permutation_p
from medgraft.errors import ConfigError, DataError
from medgraft.metric import Metric, Predictions, WeightedStatistic
from medgraft.metric.judging import judged

POWER = 0.8
"""Chance of seeing a difference that is there, for the number of subjects that it takes."""

MOST_SUBJECTS = 10_000_000


@dataclass(frozen=True)
class Comparison:
    """First row less second row, in one number.

    Attributes:
        number: Its name.
        higher_is_better: How it is read.
        first: Mean over the seeds of the first row.
        second: Of the second row.
        difference: First less second, in the metric's own unit.
        low: Lower end of its 95% interval; ``None`` where some class has one subject.
        high: Upper end.
        p_value: Two-sided, of no difference, over subjects and seeds.
        permutation: Of the paired permutation test, over subjects for the seeds as trained; ``None`` where the rows'
            predictions cannot be swapped.
        delong: Of DeLong's paired test (Obuchowski's with several samples per subject), likewise; ``None`` but for the
            AUC of two classes.
        n_subjects: Test subjects.
        seeds: Of the first row and of the second.
        needed: Test subjects that would show a difference of this size in 80% of test sets, at 5%; ``None`` where there
            is no difference to be shown, or the seeds alone blur it.
        deviation: Standard deviation of the difference.
        freedom: Its degrees of freedom.
    """

    number: str
    higher_is_better: bool
    first: float
    second: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    permutation: float | None
    delong: float | None
    n_subjects: int
    seeds: tuple[int, int]
    needed: int | None
    deviation: float
    freedom: float

    @property
    def gain(self) -> float:
        """By how much the first row is better; negative where it is worse."""
        return self.difference if self.higher_is_better else -self.difference

    def within(self, margin: float) -> tuple[bool, float]:
        """Whether the first row is shown to be worse than the second by less than a margin, and the p-value of that.

        The test of non-inferiority at one-sided 2.5%: it is shown where the worse end of the 95% interval lies within
        the margin (Piaggio et al., "Reporting of noninferiority and equivalence randomized trials", JAMA 308, 2012).

        Args:
            margin: In the metric's own unit, above 0.
        """
        from scipy.special import stdtr

        if not math.isfinite(self.deviation):
            return False, 1.0
        if self.deviation == 0:
            return self.gain > -margin, 0.0 if self.gain > -margin else 1.0
        p_value = float(stdtr(self.freedom, -(self.gain + margin) / self.deviation))
        return p_value < (1 - LEVEL) / 2, p_value


def compare_predictions(first: Sequence[Predictions], second: Sequence[Predictions], number: str) -> Comparison:
    """The seeds of one row against those of another.

    Args:
        first: Predictions of the seeds of one row.
        second: Of the other.
        number: Name of the number.

    Raises:
        DataError: They are of other test samples or subjects, or do not give the number.
    """
    if not same_subjects([*first, *second]):
        raise DataError(f"the rows were tested on other samples or subjects, so their {number} cannot be paired")
    seen = [[judged(p) for p in side] for side in (first, second)]
    if any(number not in each.statistics for side in seen for each in side):
        raise DataError(f"the predictions of one of the rows give no {number}")
    metric = seen[0][0].metrics[number]
    sides = [[each.statistics[number] for each in side] for side in seen]
    left_out = left_out_of(first[0])
    rows = [measured(side, left_out) for side in sides]
    if any(np.isnan(row.values).any() for row in rows):
        raise DataError(f"{number} is undefined on the test subjects")
    found = differences(rows, [(0, 1)], left_out)
    jackknife = float(found.over_subjects[0])
    over_subjects = max(jackknife, _resampled(sides, left_out, rows[0].influences - rows[1].influences))
    over_seeds = rows[0].over_seeds + rows[1].over_seeds
    if math.isnan(jackknife):
        over_subjects = math.nan
    deviation, freedom = math.sqrt(over_subjects + over_seeds), float(found.freedom[0])
    difference = float(found.value[0])
    low, high = _ends(difference, deviation, freedom, metric)
    return Comparison(
        number=number,
        higher_is_better=metric.higher_is_better,
        first=rows[0].value,
        second=rows[1].value,
        difference=difference,
        low=low,
        high=high,
        p_value=_p_value(difference, deviation, freedom),
        permutation=permutation_p(first, second, number),
        delong=_delong(first, second, number),
        n_subjects=left_out.n_subjects,
        seeds=(len(first), len(second)),
        needed=subjects_needed(difference, over_subjects * left_out.n_subjects, over_seeds),
        deviation=deviation,
        freedom=freedom,
    )


def checked_margin(margin: float) -> float:
    """The margin.

    Raises:
        ConfigError: It is none.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ConfigError(f"--margin {margin:g} is no margin; give a number above 0, in the metric's own unit")
    return margin


def subjects_needed(difference: float, variance: float, over_seeds: float = 0.0) -> int | None:
    """Test subjects with which a difference is found in 80% of test sets, two-sided at 5%.

    ``(z_.975 + z_.8)^2 * variance / difference^2``, with the part that seeds make taken off first, since
    no number of subjects makes it smaller.

    Args:
        difference: To be shown.
        variance: Of the paired difference, per subject.
        over_seeds: Variance of the difference over seeds.

    Returns:
        ``None`` where no number of subjects would do.

    Example:
        >>> subjects_needed(0.5, 1.0), subjects_needed(0.0, 1.0), subjects_needed(0.1, 1.0, over_seeds=1.0)
        (32, None, None)
    """
    from scipy.special import ndtri

    each = (difference / (ndtri((1 + LEVEL) / 2) + ndtri(POWER))) ** 2 - over_seeds
    if not math.isfinite(variance) or difference == 0 or each <= 0 or variance / each > MOST_SUBJECTS:
        return None
    return max(2, math.ceil(variance / each))


def _resampled(sides: Sequence[Sequence[WeightedStatistic]], left_out: LeftOut, influences: np.ndarray) -> float:
    """Variance of the difference over resamples of the subjects, the same ones for all seeds of both rows."""
    parts = {f"{side} {s}": part for side, parts in enumerate(sides) for s, part in enumerate(parts)}
    drawn = subject_bootstrap(parts, left_out.groups, RESAMPLES)
    means = [np.mean([drawn[f"{side} {s}"] for s in range(len(sides[side]))], axis=0) for side in (0, 1)]
    difference = means[0] - means[1]
    difference = difference[~np.isnan(difference)]
    n, inflation = left_out.n_subjects, float(left_out.spread(influences).inflation)
    return float(difference.var()) * inflation * (n + 1) / n if len(difference) else 0.0


def _ends(difference: float, deviation: float, freedom: float, metric: Metric) -> tuple[float | None, float | None]:
    if not math.isfinite(deviation):
        return None, None
    half, width = quantile(freedom) * deviation, metric.bounds[1] - metric.bounds[0]
    return max(difference - half, -width), min(difference + half, width)


def _p_value(difference: float, deviation: float, freedom: float) -> float | None:
    from scipy.special import stdtr

    if not math.isfinite(deviation):
        return None
    if deviation == 0:
        return 1.0 if difference == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(difference) / deviation))


def _delong(first: Sequence[Predictions], second: Sequence[Predictions], number: str) -> float | None:
    """DeLong's test where the number is the area under one curve: of two classes whose scores are each other's rest."""
    p = first[0]
    if number != "auc_macro" or p.targets.ndim != 1 or len(p.classes) != 2 or p.answers:
        return None
    if any(not np.allclose(each.scores.sum(axis=1), 1.0, atol=1e-6) for each in (*first, *second)):
        return None
    columns = [np.stack([each.scores[:, 1] for each in side], axis=1) for side in (first, second)]
    found = delong_p(columns[0], columns[1], p.targets == 1, p.groups)
    return None if math.isnan(found) else found
