"""Areas under the curve of linear probes on a space of several modalities.

Columns: ``probe_<part>_<modality>`` and ``subset_<modality>+<modality>``, probabilities ``float64 [n, C]``, NaN in the
rows of samples of which a probe cannot be asked.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from medgraft.benchmarks.metrics.weighted import masked, mean_of, slug, weighted_auc
from medgraft.metric import Array, Metric, Predictions, WeightedStatistic

PARTS = ("common", "specific", "both")


class SpaceProbes(Metric):
    """``probe_common``, ``probe_specific``, ``probe_both``: macro AUC of probes on a part, mean over modalities.

    Then ``probe_common_pet`` and so on of each modality, and ``subset_volume_pet`` and so on of one probe on the fused
    common parts, where only these modalities are there at test time.
    """

    title = "linear probes of the space"
    numbers = tuple(f"probe_{part}" for part in PARTS)

    def statistics(self, p: Predictions) -> Mapping[str, WeightedStatistic]:
        """See :class:`medgraft.metric.Metric`."""
        single: dict[str, WeightedStatistic] = {}
        by_part: dict[str, list[WeightedStatistic]] = {}
        for name, scores in p.columns.items():
            kind, _, rest = name.partition("_")
            if kind not in ("probe", "subset"):
                continue
            asked = np.asarray(np.isfinite(scores).all(axis=1))
            statistic = masked(_macro(scores[asked], p.targets[asked]), asked)
            single[f"{kind}_{slug(rest.replace('+', '_'))}"] = statistic
            if kind == "probe":
                by_part.setdefault(f"probe_{rest.partition('_')[0]}", []).append(statistic)
        return {**{name: mean_of(parts) for name, parts in by_part.items()}, **single}


def _macro(scores: Array, targets: Array) -> WeightedStatistic:
    """Mean over classes of the area under the curve, ``[m, C]`` and ``[m]``; of two classes both have the same one."""
    classes = range(scores.shape[1]) if scores.shape[1] > 2 else [1]
    return mean_of([weighted_auc(scores[:, k], np.asarray(targets == k)) for k in classes])
