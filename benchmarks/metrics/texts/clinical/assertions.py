"""What abstention and vetoes do to assertions alone: how many are false, and how many are still made.

A rate over all statements hides both, since most statements of a report deny something and most denials are right.
Selective prediction asks for the two together: the risk of what is still said, and the coverage (El-Yaniv and Wiener,
"On the Foundations of Noise-free Selective Classification", JMLR 11, 2010).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medgraft.benchmarks.metrics.texts.clinical.judging import SUPPORTED, Judgement, Verdict, judge
from medgraft.benchmarks.metrics.texts.clinical.truth import truths_of
from medgraft.benchmarks.metrics.texts.columns import GENERATED, texts_of
from medgraft.benchmarks.metrics.texts.coverage import DRAFT
from medgraft.benchmarks.metrics.weighted import share
from medgraft.metric import Metric, Predictions, WeightedStatistic


class FalseAssertions(Metric):
    """Shares of the findings that reports assert, that is say without doubt to be there; from 0 to 1, less is better.

    ``false_assertions``: of those of the final texts, the ones of which nothing is there, contradicted or unsupported,
    pooled over reports; a wrong side or size of a finding that is there does not count, as abstention decides about
    findings. ``false_assertions_of_drafts``: the same of the texts as the language model wrote them. Without
    counter-measures both are of the same texts.
    """

    title = "false assertions"
    higher_is_better = False
    numbers = ("false_assertions", "false_assertions_of_drafts")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; undefined where nothing is asserted."""
        return {
            name: share([sum(map(_false, each)) for each in asserted], [len(each) for each in asserted])
            for name, asserted in zip(self.numbers, _asserted(p), strict=True)
        }


class AssertionCoverage(Metric):
    """``assertion_coverage``: findings asserted by the drafts that the final texts still assert, from 0 to 1."""

    title = "assertions kept"
    numbers = ("assertion_coverage",)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; undefined where no draft asserts anything."""
        final, drafts = ([{each.statement for each in of_text} for of_text in texts] for texts in _asserted(p))
        kept = [len(before & after) for before, after in zip(drafts, final, strict=True)]
        return {"assertion_coverage": share(kept, [len(before) for before in drafts])}


def _asserted(p: Predictions) -> tuple[list[list[Verdict]], list[list[Verdict]]]:
    """Assertions of each final text, and of each draft; where there are no drafts, of the final text again."""
    truths = truths_of(p)

    def of(column: str) -> list[list[Verdict]]:
        judged: Sequence[Judgement] = [judge(*pair) for pair in zip(texts_of(p.columns[column]), truths, strict=True)]
        return [[verdict for verdict in each.verdicts if verdict.asserted] for each in judged]

    return of(GENERATED), of(DRAFT if DRAFT in p.columns else GENERATED)


def _false(verdict: Verdict) -> bool:
    return verdict.verdict != SUPPORTED and not verdict.wrong
