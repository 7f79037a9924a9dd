"""Statistics that published code calls AUC and that are not the AUC of the definition, under names of their own.

They exist so that a number printed by that code can be compared with; no board ranks by them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from medgraft.benchmarks.metrics import Predictions, WeightedStatistic, mean_defined, mean_of, safe_auc, weighted_auc
from medgraft.errors import UnknownNameError

Variant = Callable[[Predictions], tuple[float, WeightedStatistic | None]]


def auc_flattened(p: Predictions) -> tuple[float, WeightedStatistic]:
    """AUROC of all ``n * K`` class probabilities against the one-hot targets, as one binary problem.

    The training code of ACE-LoRA (Aydin et al., 2026) reports this for its two-class sets. It compares probabilities of
    different classes, which the AUROC of the positive class does not.
    """
    K = p.scores.shape[1]
    actual, scores = (p.targets[:, None] == np.arange(K)).ravel(), p.scores.ravel()
    flat = weighted_auc(scores, actual)
    return safe_auc(actual, scores), lambda weights: flat(np.repeat(weights, K, axis=1))


def auc_rescaled(p: Predictions) -> tuple[float, WeightedStatistic | None]:
    """Macro AUROC of labels after each image's ``exp(cosine)`` was rescaled to 0..1 over the labels.

    The training code of ACE-LoRA validates so on NIH ChestX-ray14. The rescaling changes the order of images within a
    label, which is what an AUROC measures. ``p.scores`` are ``(1 + cosine) / 2``; the mask is respected.
    """
    similarity = np.exp(2 * p.scores - 1)
    low, high = similarity.min(axis=1, keepdims=True), similarity.max(axis=1, keepdims=True)
    scores = (similarity - low) / np.maximum(high - low, 1e-12)
    mask = np.ones(p.targets.shape, bool) if p.mask is None else p.mask.astype(bool)
    aucs, parts = [], []
    for k in range(p.scores.shape[1]):
        keep, actual = mask[:, k], p.targets[:, k].astype(bool)
        aucs.append(safe_auc(actual[keep], scores[keep, k]))
        if not np.isnan(aucs[-1]):
            part = weighted_auc(scores[keep, k], actual[keep])
            parts.append(lambda weights, part=part, keep=keep: part(weights[:, keep]))
    return mean_defined(aucs), mean_of(parts) if parts else None


VARIANTS: dict[str, Variant] = {"auc_flattened": auc_flattened, "auc_rescaled": auc_rescaled}


def variant_points(p: Predictions) -> tuple[dict[str, float], dict[str, WeightedStatistic]]:
    """Point values and weighted statistics of the variants that ``p`` asks for.

    Raises:
        UnknownNameError: There is no variant of that name.
    """
    points: dict[str, float] = {}
    weighted: dict[str, WeightedStatistic] = {}
    for name in p.variants:
        if name not in VARIANTS:
            raise UnknownNameError("variant of a metric", name, VARIANTS)
        points[name], statistic = VARIANTS[name](p)
        if statistic is not None:
            weighted[name] = statistic
    return points, weighted
