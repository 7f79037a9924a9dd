"""Answers by the kind of their question, such as ``closed:plane`` and ``open:organ``: each kind by itself.

What stands before a colon is a kind of its own, of all questions that share it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medgraft.benchmarks.metrics.texts.agreement import Agreement
from medgraft.benchmarks.metrics.texts.bleu import Bleu
from medgraft.benchmarks.metrics.texts.columns import texts_of
from medgraft.benchmarks.metrics.texts.rouge import Rouge
from medgraft.benchmarks.metrics.weighted import mean_of, slug
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

KIND = "kind"
"""Column with the kind of each question."""

WITHIN: tuple[tuple[Metric, tuple[str, ...]], ...] = (
    (Agreement(), ("exact_match", "token_f1")),
    (Bleu(), ("bleu_1_by_sample",)),
    (Rouge(), ("rouge_1",)),
)


class AnswersByKind(Metric):
    """``exact_match_of_<kind>`` and so on, and ``exact_match_over_kinds``, the unweighted mean over kinds."""

    title = "answers by kind of question"
    numbers = ("exact_match_over_kinds", "token_f1_over_kinds")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; ``p`` has the column ``kind``."""
        whole = {
            number: statistic
            for metric, numbers in WITHIN
            for number, statistic in metric.statistics(p).items()
            if number in numbers
        }
        kinds = texts_of(p.columns[KIND])
        named = by_kind(whole, kinds)
        finest = [slug_of(kind) for kind in sorted(set(kinds))]
        overall = {
            f"{number}_over_kinds": mean_of([named[f"{number}_of_{kind}"] for kind in finest])
            for number in ("exact_match", "token_f1")
        }
        return overall | named


def by_kind(statistics: Mapping[str, WeightedStatistic], kinds: Sequence[str]) -> dict[str, WeightedStatistic]:
    """``<number>_of_<kind>`` for each number and kind, and for what stands before a colon where several kinds share it.

    Args:
        statistics: Name -> statistic of weights ``[R, n]``, undefined where all weights are 0.
        kinds: Kind of each sample, ``[n]``.
    """
    rows: dict[str, Array] = {}
    for kind in sorted({*kinds, *(kind.split(":")[0] for kind in kinds if ":" in kind)}):
        mask = np.array([each == kind or each.startswith(f"{kind}:") for each in kinds])
        rows[slug_of(kind)] = mask
    return {
        f"{number}_of_{kind}": _of_rows(statistic, mask)
        for number, statistic in statistics.items()
        for kind, mask in rows.items()
    }


def slug_of(kind: str) -> str:
    """A kind as it stands in the name of a number.

    Example:
        >>> slug_of("closed:left or right")
        'closed_left_or_right'
    """
    return slug(kind.replace(":", "_"))


def _of_rows(statistic: WeightedStatistic, mask: Array) -> WeightedStatistic:
    """A statistic of the samples ``mask``, ``bool [n]``, as a function of all samples' weights ``[R, n]``."""

    def whole(weights: Array) -> Array:
        part = weights * mask
        values = statistic(part)
        return np.where(part.sum(axis=1) > 0, values, np.nan)

    return whole
