"""ROUGE of generated texts: means over samples of F1 of words and of longest common subsequences.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", ACL workshop 2004, by Google's ``rouge-score`` with its
own words and without stemming.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.benchmarks.metrics.texts.columns import pairs_of
from medgraft.metric import Metric, Predictions, WeightedStatistic

KINDS = {"rouge_l": "rougeL", "rouge_1": "rouge1", "rouge_2": "rouge2"}


class Rouge(Metric):
    """``rouge_l``, ``rouge_1`` and ``rouge_2``, from 0 to 1."""

    title = "ROUGE"
    numbers = tuple(KINDS)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        from rouge_score.rouge_scorer import RougeScorer
        from rouge_score.tokenizers import DefaultTokenizer

        scorer = RougeScorer(list(KINDS.values()), tokenizer=DefaultTokenizer(use_stemmer=False))
        scores = [scorer.score(reference, text) for text, reference in pairs_of(p)]
        return {
            name: weighted_mean(np.array([score[kind].fmeasure for score in scores])) for name, kind in KINDS.items()
        }
