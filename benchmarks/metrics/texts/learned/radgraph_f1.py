"""RadGraph-F1: entities and relations that a trained model finds in both reports, and how many agree.

Delbrouck et al., "Improving the Factual Correctness of Radiology Report Generation with Semantic Rewards", Findings of
EMNLP 2022, section 3.2: an F1 of sets for each pair of reports, then the mean over pairs. ``e`` compares entities
(their words and labels), ``er`` also whether an entity is in a relation, ``er_bar`` also the relations themselves. It
is not the RadGraph F1 of Yu et al., 2023, which is a mean of two other ones.
"""

from __future__ import annotations

from collections.abc import Mapping

from medgraft.benchmarks.metrics.calibration import weighted_mean
from medgraft.metric import Metric, Predictions, WeightedStatistic

COLUMN = "radgraph_f1"
"""Column of the three F1 of each text, ``float64 [n, 3]``, in the order of :attr:`RadGraphF1.numbers`."""


class RadGraphF1(Metric):
    """``radgraph_f1_e``, ``radgraph_f1_er`` and ``radgraph_f1_er_bar``, means over samples, 0 to 1."""

    title = "RadGraph F1"
    numbers = ("radgraph_f1_e", "radgraph_f1_er", "radgraph_f1_er_bar")

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; ``p`` has the column that :func:`.radgraph_model.radgraph_f1` makes."""
        scores = p.columns[COLUMN]
        return {name: weighted_mean(scores[:, k]) for k, name in enumerate(self.numbers)}
