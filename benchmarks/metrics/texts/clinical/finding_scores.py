"""Clinical F1: findings that generated reports assert against those that hold, each report's labels as for CheXpert.

A finding of a report is positive where some statement asserts it, else uncertain where one doubts it, else negative
(Irvin et al., AAAI 2019). Two conventions, by name: plain numbers take uncertain for negative, on both sides
("positive only", Smit et al., "CheXbert", EMNLP 2020); those that end in ``_uncertain_positive`` take it for positive.
Sides, sizes and places do not count here; see :mod:`.hallucination`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.benchmarks.metrics.texts.clinical.truth import Truth, texts_and_truths
from medgraft.benchmarks.metrics.texts.labeller.findings import NO_FINDING
from medgraft.benchmarks.metrics.texts.statements import statements_of
from medgraft.benchmarks.metrics.weighted import mean_of, share, slug, weighted_f1
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

AS_POSITIVE = "_uncertain_positive"


class FindingF1(Metric):
    """``clinical_f1_*`` from 0 to 1: micro, macro over findings, by sample, and ``clinical_f1_of_<finding>``.

    The macro mean is over findings that some sample has; F1 by sample is 1 where neither side has a finding, as in
    reports that rightly say so. ``clinical_precision_micro`` and ``clinical_recall_micro`` are of all decisions.
    """

    title = "clinical F1"
    numbers = (
        "clinical_f1_micro",
        "clinical_f1_macro",
        "clinical_f1_by_sample",
        "clinical_precision_micro",
        "clinical_recall_micro",
        f"clinical_f1_micro{AS_POSITIVE}",
        f"clinical_f1_macro{AS_POSITIVE}",
    )

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        labels = [(said(text), held(truth)) for text, truth in texts_and_truths(p)]
        findings = sorted({name for pair in labels for each in pair for name in each})
        plain, lenient = (of_labels(labels, findings, doubted=doubted) for doubted in (False, True))
        each = [weighted_f1(plain[0][:, k], plain[1][:, k]) for k in range(len(findings))]
        each_lenient = [weighted_f1(lenient[0][:, k], lenient[1][:, k]) for k in range(len(findings))]
        hits, asserted, true = (matrix.sum(axis=1).astype(float) for matrix in (plain[0] & plain[1], *plain))
        by_finding = {
            f"clinical_f1_of_{slug(name)}": each[k] for k, name in enumerate(findings) if plain[1][:, k].any()
        }
        return {
            "clinical_f1_micro": micro_f1(*plain),
            "clinical_f1_macro": mean_of(each),
            "clinical_f1_by_sample": weighted_mean(_by_sample(hits, asserted + true)),
            "clinical_precision_micro": _precision(hits, asserted, true),
            "clinical_recall_micro": share(hits, true),
            f"clinical_f1_micro{AS_POSITIVE}": micro_f1(*lenient),
            f"clinical_f1_macro{AS_POSITIVE}": mean_of(each_lenient),
            **by_finding,
        }


def said(text: str) -> dict[str, bool]:
    """Findings that a text asserts (true) or doubts (false).

    Example:
        >>> said("Left effusion. Possible pneumonia. No pneumothorax.")
        {'pleural effusion': True, 'pneumonia': False}
    """
    found: dict[str, bool] = {}
    for each in statements_of(text):
        if each.present and each.finding != NO_FINDING:
            found[each.finding] = found.get(each.finding, False) or each.certain
    return found


def held(truth: Truth) -> dict[str, bool]:
    """Findings that are there (true) or in doubt (false)."""
    found: dict[str, bool] = {}
    for each in truth.present:
        found[each.finding] = found.get(each.finding, False) or each.certain
    return found


def of_labels(
    labels: list[tuple[dict[str, bool], dict[str, bool]]], findings: list[str], *, doubted: bool
) -> tuple[Array, Array]:
    """Decisions and truths as ``bool [n, findings]``.

    Args:
        labels: Of each sample what is said and what holds: finding -> whether it is certain.
        findings: Their names.
        doubted: Whether what is doubted is positive.
    """

    def matrix(side: int) -> Array:
        rows = [[pair[side].get(name, None) for name in findings] for pair in labels]
        return np.array([[v is True or (doubted and v is False) for v in row] for row in rows], bool).reshape(
            len(labels), len(findings)
        )

    return matrix(0), matrix(1)


def micro_f1(decided: Array, true: Array) -> WeightedStatistic:
    """F1 of all decisions ``bool [n, findings]`` together; undefined where nothing is there."""
    hits, errors = (decided & true).sum(axis=1).astype(float), (decided ^ true).sum(axis=1).astype(float)
    positive = true.sum(axis=1).astype(float)

    def statistic(weights: Array) -> Array:
        total = weights @ (2 * hits + errors)
        return np.divide(weights @ (2 * hits), total, out=np.full(len(weights), np.nan), where=weights @ positive > 0)

    return statistic


def _by_sample(hits: Array, total: Array) -> Array:
    return np.divide(2 * hits, total, out=np.ones(len(hits)), where=total > 0)


def _precision(hits: Array, asserted: Array, true: Array) -> WeightedStatistic:
    """Share of assertions that are right; 0 where nothing is asserted, undefined where nothing is there."""
    ratio = share(hits, asserted)

    def statistic(weights: Array) -> Array:
        return np.where(weights @ true > 0, np.nan_to_num(ratio(weights)), np.nan)

    return statistic
