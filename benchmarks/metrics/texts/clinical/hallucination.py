"""How much of generated reports is made up, how much is missed, and how their sentences stand to what holds.

Rates are of statements, pooled over reports, or of reports; see :mod:`.judging` for what is right and wrong, and
``docs/hallucination.md`` for definitions with examples. What holds is the column ``truth`` of a task that knows it,
else what the labeller reads out of the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.benchmarks.metrics.texts.clinical.judging import (
    CONTRADICTED,
    ENTAILED,
    NEUTRAL,
    PLACE,
    SIDE,
    SIZE,
    UNSUPPORTED,
    Judgement,
    Verdict,
    judge,
)
from medgraft.benchmarks.metrics.texts.clinical.truth import texts_and_truths
from medgraft.benchmarks.metrics.weighted import share
from medgraft.metric import Metric, Predictions, WeightedStatistic


def judgements(p: Predictions) -> list[Judgement]:
    """What the truth says of each generated report."""
    return [judge(text, truth) for text, truth in texts_and_truths(p)]


class Hallucination(Metric):
    """Shares of what is asserted, denied or there that are wrong, from 0 to 1; less is better.

    ``hallucination_rate``: of assertions, those that the truth contradicts or does not support;
    ``hallucinated_reports``: of reports, those with at least one such assertion or a length that no field supports;
    ``contradicted_findings`` and ``unsupported_findings``: of assertions, those of a finding that is known to be
    absent, and those of one that the truth does not name; ``wrong_side``, ``wrong_size`` and ``wrong_place``: of
    assertions that give a detail which the truth gives, too, those that differ; ``wrong_numbers``: of lengths, those
    without a field within the tolerance; ``missed_findings``: of findings that are there, those that the report does
    not name as there; ``false_denials``: of denials, those of what is there.
    """

    title = "hallucination"
    higher_is_better = False
    numbers = (
        "hallucination_rate",
        "hallucinated_reports",
        "contradicted_findings",
        "unsupported_findings",
        "wrong_side",
        "wrong_size",
        "wrong_place",
        "wrong_numbers",
        "missed_findings",
        "false_denials",
    )

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        judged = judgements(p)
        asserted = _counts(judged, lambda v: v.asserted)
        shares = {
            "hallucination_rate": share(_counts(judged, lambda v: v.made_up), asserted),
            "hallucinated_reports": weighted_mean(np.array([float(made_up(each)) for each in judged])),
            "contradicted_findings": share(_counts(judged, lambda v: _no_such(v, CONTRADICTED)), asserted),
            "unsupported_findings": share(_counts(judged, lambda v: _no_such(v, UNSUPPORTED)), asserted),
        }
        for detail in (SIDE, SIZE, PLACE):
            shares[f"wrong_{detail}"] = share(
                _counts(judged, lambda v, detail=detail: v.asserted and detail in v.wrong),
                _counts(judged, lambda v, detail=detail: v.asserted and detail in v.compared),
            )
        return shares | {
            "wrong_numbers": share([each.wrong_lengths for each in judged], [each.lengths for each in judged]),
            "missed_findings": share([len(each.missed) for each in judged], [len(each.findable) for each in judged]),
            "false_denials": share(
                _counts(judged, lambda v: v.denied and v.verdict == CONTRADICTED), _counts(judged, lambda v: v.denied)
            ),
        }


class HallucinationCounts(Metric):
    """Means over reports of ``hallucinations_per_report``, ``missed_per_report`` and ``statements_per_report``."""

    title = "hallucinations per report"
    higher_is_better = False
    bounds = (0.0, float("inf"))
    numbers = ("hallucinations_per_report", "missed_per_report", "statements_per_report")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        judged = judgements(p)
        counts = (
            _counts(judged, lambda v: v.made_up),
            [len(each.missed) for each in judged],
            [len(each.verdicts) for each in judged],
        )
        return {name: weighted_mean(np.array(each, float)) for name, each in zip(self.numbers, counts, strict=True)}


class Entailment(Metric):
    """Shares of sentences: ``sentences_entailed`` by the truth; those ``neutral`` and ``contradicted`` fill up to 1."""

    title = "entailment"
    numbers = ("sentences_entailed", "sentences_neutral", "sentences_contradicted")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        judged = judgements(p)
        total = [len(each.sentences) for each in judged]
        kinds = (ENTAILED, NEUTRAL, CONTRADICTED)
        return {
            name: share([each.sentences.count(kind) for each in judged], total)
            for name, kind in zip(self.numbers, kinds, strict=True)
        }


def made_up(judgement: Judgement) -> bool:
    """Whether a report asserts anything that does not hold, or gives a length that no field supports."""
    return bool(judgement.wrong_lengths) or any(each.made_up for each in judgement.verdicts)


def _counts(judged: Sequence[Judgement], which: Callable[[Verdict], bool]) -> list[float]:
    return [float(sum(map(which, each.verdicts))) for each in judged]


def _no_such(verdict: Verdict, kind: str) -> bool:
    """Whether it asserts a finding of which nothing is there, contradicted or unsupported."""
    return verdict.asserted and verdict.verdict == kind and not verdict.wrong
