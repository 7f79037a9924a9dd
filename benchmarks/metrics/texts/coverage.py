"""How much of what was generated is still stated after counter-measures.

Selective prediction: a number of wrong statements means little without the share that was stated at all (El-Yaniv and
Wiener, "On the Foundations of Noise-free Selective Classification", JMLR 11, 2010).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.texts.columns import GENERATED, texts_of
from medgraft.benchmarks.metrics.texts.statements import statements_of
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

DRAFT = "draft"
"""Column of the texts as the language model wrote them, where counter-measures changed them."""


class StatementCoverage(Metric):
    """``statement_coverage``: statements of the drafts that the final texts still make, from 0 to 1."""

    title = "statements kept"
    numbers = ("statement_coverage",)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; undefined where no draft states anything."""
        pairs = zip(texts_of(p.columns[DRAFT]), texts_of(p.columns[GENERATED]), strict=True)
        sets = [(set(statements_of(draft)), set(statements_of(text))) for draft, text in pairs]
        kept = np.array([len(draft & text) for draft, text in sets], float)
        all_of = np.array([len(draft) for draft, _ in sets], float)

        def share(weights: Array) -> Array:
            total = weights @ all_of
            with np.errstate(invalid="ignore"):
                return np.where(total > 0, weights @ kept / np.where(total > 0, total, 1), np.nan)

        return {"statement_coverage": share}
