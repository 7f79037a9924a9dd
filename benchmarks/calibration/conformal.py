"""Split-conformal sets: of each sample the classes that cannot be excluded, so that nine in ten sets hold the right.

Vovk et al., "Algorithmic learning in a random world", 2005; Angelopoulos and Bates, "A gentle introduction to conformal
prediction", 2021. Each validation sample gets a score, by MAPIE, that says how strange its right class is. The
threshold is the ``ceil((n + 1) * coverage)``-th smallest of the ``n`` scores; a class that is no stranger is in a set:

- ``lac`` (Sadinle et al., JASA 114, 2019): the score is ``1 - p`` of the right class. Smallest sets; may be empty.
- ``aps`` (Romano et al., NeurIPS 2020): the score is the sum of the probabilities of the likelier classes and a random
  share of the right one's. A set holds the likeliest classes until their sum passes the threshold, the one that passes
  it included, so that no set is empty and prediction draws no random number.

``by_class`` takes a threshold for each class from its own samples (Mondrian conformal prediction), so that rare classes
are covered as often as others. A label that does not exclude others is a question of its own with two answers, and its
set says present, absent, both or neither.

The promise is for samples that are exchangeable with the validation samples: of the same population, and not used to
choose anything that the scores depend on. Where the head or the temperature was chosen on them, it holds approximately;
the coverage of test samples, beside it, shows how far.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medgraft.benchmarks.metrics.calibration import outcomes, weighted_mean
from medgraft.benchmarks.metrics.weighted import masked, mean_of, once, slug
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

Method = Literal["lac", "aps"]
COVERAGE = 0.9
ABSENT, PRESENT = 0, 1
SEED = 0


class SetRule(BaseModel):
    """How sets are made of probabilities.

    Attributes:
        method: The score.
        coverage: Share of the sets that should hold the right class.
        by_class: Each class has a threshold of its own.
        thresholds: Of the classes, or of each label absent and present, in turn; ``None`` where there were too few
            validation samples, so that the class is in every set.
        samples: Validation samples that each threshold is from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    method: Method = "lac"
    coverage: float = Field(COVERAGE, gt=0, lt=1)
    by_class: bool = False
    thresholds: tuple[float | None, ...]
    samples: tuple[int, ...]


def strangeness(probabilities: Array, targets: Array, method: Method) -> Array:
    """Conformity scores of samples, ``float64 [n]``, higher where the right class was less expected.

    Args:
        probabilities: ``float64 [n, K]``.
        targets: ``int64 [n]``.
        method: Which score.
    """
    from mapie.conformity_scores import APSConformityScore, LACConformityScore

    if method == "lac":
        scores = LACConformityScore().get_conformity_scores(targets, probabilities, y_enc=targets)
    else:
        # MAPIE sees two classes as one column; with a third one of probability 0 the sums are the same.
        more = np.pad(probabilities, ((0, 0), (0, 1)))
        aps = APSConformityScore()
        aps.set_external_attributes(classes=np.arange(more.shape[1]), random_state=SEED)
        scores = aps.get_conformity_scores(targets, more, y_enc=targets)
    return np.asarray(scores, np.float64).reshape(-1)


def threshold(scores: Array, coverage: float) -> float | None:
    """The ``ceil((n + 1) * coverage)``-th smallest of ``n`` scores ``[n]``; ``None`` where there are too few for one.

    Example:
        >>> threshold(np.arange(1.0, 20.0), 0.9), threshold(np.arange(1.0, 9.0), 0.9)
        (18.0, None)
    """
    rank = math.ceil((len(scores) + 1) * Fraction(str(coverage)))  # 20 * 0.9 is 18, and not a little more
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else None


def members(probabilities: Array, thresholds: tuple[float | None, ...], method: Method) -> Array:
    """Which classes are in each sample's set, ``bool [n, K]``.

    Args:
        probabilities: ``float64 [n, K]``.
        thresholds: Of the ``K`` classes.
        method: Which score.
    """
    limits = np.array([np.inf if each is None else each for each in thresholds])
    if method == "lac":
        return 1 - probabilities <= limits
    order = np.fliplr(np.argsort(probabilities, axis=1))
    ordered = np.take_along_axis(probabilities, order, axis=1)
    before = np.empty_like(ordered)
    np.put_along_axis(before, order, np.cumsum(ordered, axis=1) - ordered, axis=1)
    return before <= limits


def _thresholds(
    p: Array, targets: Array, method: Method, coverage: float, *, by_class: bool
) -> tuple[list[float | None], list[int]]:
    K = p.shape[1]
    scores = strangeness(p, targets, method) if len(targets) else np.zeros(0)
    parts = [scores[targets == k] for k in range(K)] if by_class else [scores] * K
    return [threshold(part, coverage) for part in parts], [len(part) for part in parts]


def calibrate(p: Predictions, method: Method = "lac", coverage: float = COVERAGE, *, by_class: bool = False) -> SetRule:
    """The rule of sets from predictions of validation samples.

    Args:
        p: Of classes that exclude each other, or of labels.
        method: The score.
        coverage: Share of the sets that should hold the right class.
        by_class: Take a threshold for each class.
    """
    if p.targets.ndim == 1:
        limits, samples = _thresholds(p.scores, p.targets, method, coverage, by_class=by_class)
    else:
        happened, counts = outcomes(p)
        limits, samples = [], []
        for k in range(len(p.classes)):
            rows = counts[:, k]
            two = two_answers(p.scores[rows, k])
            some, many = _thresholds(two, happened[rows, k].astype(int), method, coverage, by_class=by_class)
            limits, samples = limits + some, samples + many
    return SetRule(
        method=method, coverage=coverage, by_class=by_class, thresholds=tuple(limits), samples=tuple(samples)
    )


def two_answers(scores: Array) -> Array:
    """Probabilities ``[n, 2]`` that a label is absent and present, from that of present, ``[n]``."""
    return np.stack([1 - scores, scores], axis=1)


def sets(rule: SetRule, scores: Array, *, labels: bool) -> Array:
    """The sets of samples: ``bool [n, K]`` of classes, or ``[n, L, 2]`` of labels, absent and present.

    Args:
        rule: What :func:`calibrate` gave.
        scores: Probabilities ``[n, K]``.
        labels: They are those of labels.
    """
    if not labels:
        return members(scores, rule.thresholds, rule.method)
    pairs = [rule.thresholds[2 * k : 2 * k + 2] for k in range(scores.shape[1])]
    each = [members(two_answers(scores[:, k]), pair, rule.method) for k, pair in enumerate(pairs)]
    return np.stack(each, axis=1)


class SetSize(Metric):
    """Mean number of answers in a set, which has no upper bound of its own."""

    numbers = ("set_size",)
    bounds = (0.0, math.inf)
    higher_is_better = False


def set_metrics(names: Iterable[str]) -> dict[str, Metric]:
    """The metric of each number of :func:`set_statistics`: all but the size are shares."""
    return {name: SetSize() if name in SetSize.numbers else Metric() for name in names}


def set_statistics(rule: SetRule, p: Predictions) -> dict[str, WeightedStatistic]:
    """Numbers of the sets of test samples.

    ``coverage``, the share that holds the right answer; ``set_size``, the mean number of answers; ``set_empty`` and
    ``set_single``, the shares of sets with none and with one; ``coverage_<class>``, the coverage of the samples of a
    class. Of labels all are means over the labels, with ``coverage_present`` and ``coverage_absent`` (and so for each
    label) of the samples that have it and have it not.

    Args:
        rule: Of the sets.
        p: Predictions of test samples.
    """
    labels = p.targets.ndim == 2
    inside, (happened, counts) = sets(rule, p.scores, labels=labels), outcomes(p)
    if not labels:
        size, covered = inside.sum(axis=1), np.take_along_axis(inside, p.targets[:, None], axis=1)[:, 0]
        by_class = {f"coverage_{slug(name)}": _mean_where(covered, p.targets == k) for k, name in enumerate(p.classes)}
        everyone = np.ones(len(size), bool)
        return {**_sizes([size], [everyone]), "coverage": _mean_where(covered, everyone), **by_class}
    covered = np.where(happened > 0, inside[..., PRESENT], inside[..., ABSENT])
    rows = {"": counts, "_present": counts & (happened > 0), "_absent": counts & (happened == 0)}
    each = {
        end: [_mean_where(covered[:, k], where[:, k]) for k in range(len(p.classes))] for end, where in rows.items()
    }
    numbers: dict[str, WeightedStatistic] = _sizes(list(inside.sum(axis=2).T), list(counts.T))
    numbers |= {f"coverage{end}": mean_of(parts) for end, parts in each.items()}
    for end, parts in each.items():
        numbers |= {f"coverage_{slug(name)}{end}": part for name, part in zip(p.classes, parts, strict=True)}
    return numbers


def _sizes(sizes: list[Array], where: list[Array]) -> dict[str, WeightedStatistic]:
    facts = {"set_size": sizes, "set_empty": [size == 0 for size in sizes], "set_single": [size == 1 for size in sizes]}
    return {
        name: mean_of([_mean_where(column, rows) for column, rows in zip(columns, where, strict=True)])
        for name, columns in facts.items()
    }


def _mean_where(values: Array, where: Array) -> WeightedStatistic:
    part = weighted_mean(values[where].astype(float))
    return once(part if where.all() else masked(part, where))
