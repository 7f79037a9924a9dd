"""CheXbert-F1: labels that a trained labeller gives the generated reports against those it gives the references.

Smit et al., "CheXbert: Combining Automatic Labelers and Expert Annotations for Accurate Radiology Report Labeling Using
BERT", EMNLP 2020. F1 of 14 labels, and of the 5 that most papers report, micro and macro, in two conventions: uncertain
as positive, as the package ``f1chexbert`` does, and ``_positive_only``. Macro means count a label that no reference has
as 0, as scikit-learn does there.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.texts.clinical.finding_scores import micro_f1
from medgraft.benchmarks.metrics.weighted import weighted_f1
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

GENERATED_LABELS, REFERENCE_LABELS = "chexbert_generated", "chexbert_reference"
"""Columns ``int64 [n, 14]`` of :data:`NAMES`: 0 not mentioned, 1 positive, 2 negative, 3 uncertain."""

NAMES = (
    *("Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation"),
    *("Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    *("Support Devices", "No Finding"),
)
"""In the order of the model's heads; "No Finding" is only 0 or 1."""
FIVE = ("Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion")
POSITIVE, UNCERTAIN = 1, 3
CONVENTIONS = {"": (POSITIVE, UNCERTAIN), "_positive_only": (POSITIVE,)}


class ChexbertF1(Metric):
    """``chexbert_f1_micro_14``, ``_macro_14``, ``_micro_5`` and ``_macro_5``, each with ``_positive_only``, 0 to 1."""

    title = "CheXbert F1"
    numbers = tuple(
        f"chexbert_f1_{kind}_{count}{convention}"
        for convention in CONVENTIONS
        for count in (14, 5)
        for kind in ("micro", "macro")
    )

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`; ``p`` has both columns of labels."""
        said, meant = p.columns[GENERATED_LABELS], p.columns[REFERENCE_LABELS]
        five = [NAMES.index(name) for name in FIVE]
        found: dict[str, WeightedStatistic] = {}
        for convention, classes in CONVENTIONS.items():
            for count, labels in ((14, list(range(14))), (5, five)):
                decided, true = np.isin(said[:, labels], classes), np.isin(meant[:, labels], classes)
                found[f"chexbert_f1_micro_{count}{convention}"] = micro_f1(decided, true)
                found[f"chexbert_f1_macro_{count}{convention}"] = _macro(decided, true)
        return {name: found[name] for name in self.numbers}


def _macro(decided: Array, true: Array) -> WeightedStatistic:
    each = [weighted_f1(decided[:, k], true[:, k]) for k in range(true.shape[1])]
    return lambda weights: np.mean([np.nan_to_num(f1(weights)) for f1 in each], axis=0)
