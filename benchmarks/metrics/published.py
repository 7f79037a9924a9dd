"""Statistics that published code calls AUC and that are not the AUC of the definition, under names of their own.

They exist so that a number printed by that code can be compared with; no board ranks by them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.weighted import masked, mean_of, weighted_auc
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic


class AucFlattened(Metric):
    """AUROC of all ``n * K`` class probabilities against the one-hot targets, as one binary problem.

    The training code of ACE-LoRA (Aydin et al., 2026) reports this for its two-class sets. It compares probabilities of
    different classes, which the AUROC of the positive class does not.
    """

    numbers = ("auc_flattened",)
    title = "AUC of all classes' probabilities as one problem"

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`."""
        K = p.scores.shape[1]
        flat = weighted_auc(p.scores.ravel(), (p.targets[:, None] == np.arange(K)).ravel())

        def statistic(weights: Array) -> Array:
            return flat(np.repeat(weights, K, axis=1))

        return {"auc_flattened": statistic}


class AucRescaled(Metric):
    """Macro AUROC of labels after each image's ``exp(cosine)`` was rescaled to 0..1 over the labels.

    The training code of ACE-LoRA validates so on NIH ChestX-ray14. The rescaling changes the order of images within a
    label, which is what an AUROC measures. ``p.scores`` are ``(1 + cosine) / 2``; the mask is respected.
    """

    numbers = ("auc_rescaled",)
    title = "AUC after rescaling within each image"

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`Metric`."""
        similarity = np.exp(2 * p.scores - 1)
        low, high = similarity.min(axis=1, keepdims=True), similarity.max(axis=1, keepdims=True)
        scores = (similarity - low) / np.maximum(high - low, 1e-12)
        mask = np.ones(p.targets.shape, bool) if p.mask is None else p.mask.astype(bool)
        parts = []
        for k in range(p.scores.shape[1]):
            keep, actual = mask[:, k], p.targets[:, k].astype(bool)
            parts.append(masked(weighted_auc(scores[keep, k], actual[keep]), keep))
        return {"auc_rescaled": mean_of(parts)}
