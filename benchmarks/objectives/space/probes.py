"""What is read off a space of several modalities: linear probes, and matching by confounds alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from medgraft.anchored_losses import common_width
from medgraft.metric import Array

STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""Inverse strengths of L2 that a probe chooses from."""
FOLDS = 3
MOST = 4


@dataclass(frozen=True)
class Embedded:
    """Samples in the space.

    Attributes:
        z: Modality -> embeddings, ``float64 [n, K]``.
        features: Modality -> the features that they are made of, ``[n, dim]``.
        present: Which samples have which modality, ``bool [n, M]``.
        common: Width of the common part.
    """

    z: dict[str, Array]
    features: dict[str, Array]
    present: Array
    common: int

    @classmethod
    def of(cls, scores: Array, present: Array, dims: Mapping[str, int], width: int, share: float) -> Embedded:
        """Takes apart what :meth:`AnchoredObjective.scores` put side by side.

        Args:
            scores: ``float64 [n, M * width + sum of dims]``.
            present: ``bool [n, M]``.
            dims: Modality -> width of its features, ``M`` of them.
            width: Of an embedding.
            share: Of it that is common.
        """
        count = len(dims)
        z = np.split(scores[:, : count * width], count, axis=1)
        features = np.split(scores[:, count * width :], np.cumsum(list(dims.values()))[:-1], axis=1)
        common = common_width(width, share)
        return cls(dict(zip(dims, z, strict=True)), dict(zip(dims, features, strict=True)), present, common)

    def embeddings(self) -> Array:
        """Embeddings side by side, 0 where a modality is missing, ``[n, M * K]``."""
        rows = [np.where(self.present[:, k, None], each, 0.0) for k, each in enumerate(self.z.values())]
        return np.concatenate(rows, axis=1)

    def has(self, names: Sequence[str]) -> Array:
        """Samples with all of some modalities, ``bool [n]``."""
        places = [list(self.z).index(name) for name in names]
        return np.asarray(self.present[:, places].all(axis=1))

    def fused(self, names: Sequence[str]) -> Array:
        """Mean of the unit common parts of those of some modalities that a sample has, ``[n, K_c]``; 0 of none."""
        total, count = np.zeros((len(self.present), self.common)), np.zeros((len(self.present), 1))
        for k, (name, rows) in enumerate(self.z.items()):
            if name in names:
                part = rows[:, : self.common]
                unit = part / np.maximum(np.linalg.norm(part, axis=1, keepdims=True), 1e-12)
                total += np.where(self.present[:, k, None], unit, 0.0)
                count += self.present[:, k, None]
        return total / np.maximum(count, 1)


def fit_probes(train: Embedded, test: Embedded, targets: Array, subjects: Array, classes: int) -> dict[str, Array]:
    """Logistic regressions on the parts of each modality, and one on the fused common parts, asked of every subset.

    The latter is fitted on whatever modalities each training sample has, and asked at test time as if only those of a
    subset were there: no part of it is fitted again.

    Args:
        train: Training samples, ``m``.
        test: Test samples, ``n``.
        targets: Classes of the training samples, ``int64 [m]``.
        subjects: Of the training samples, ``[m]``; folds keep them together.
        classes: Number of classes ``C``.

    Returns:
        ``probe_common_pet``, ``subset_volume+pet`` and so on, probabilities ``float64 [n, C]``; NaN in the rows of
        samples of which a probe cannot be asked.
    """
    names, told = list(train.z), dict[str, Array]()
    for name in names:
        here, there = train.has([name]), test.has([name])
        common, width = train.common, train.z[name].shape[1]
        parts = {"common": slice(common), "specific": slice(common, width), "both": slice(width)}
        for part, columns in parts.items() if common < width else [("common", parts["common"])]:
            fit = _regression(train.z[name][here, columns], targets[here], subjects[here])
            told[f"probe_{part}_{name}"] = _asked(fit, test.z[name][:, columns], there, classes)
    fused = _regression(train.fused(names), targets, subjects)
    for subset in subsets_of(names):
        told[f"subset_{'+'.join(subset)}"] = _asked(fused, test.fused(subset), test.has(subset), classes)
    return told


def subsets_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """Subsets of modalities, none left out up to :data:`MOST`; of more those of one, all, and all but one.

    Example:
        >>> subsets_of(["a", "b"])
        [('a',), ('b',), ('a', 'b')]
    """
    count = len(names)
    sizes = range(1, count + 1) if count <= MOST else (1, count - 1, count)
    return [subset for size in sizes for subset in combinations(names, size)]


def _regression(values: Array, targets: Array, subjects: Array) -> Any:
    """A regression on ``[m, D]`` with the strength of L2 of lowest log-loss over folds of people, else 1."""
    from sklearn.dummy import DummyClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    kinds = np.unique(targets)
    if len(kinds) < 2:
        return DummyClassifier(strategy="prior").fit(values, targets)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000, class_weight="balanced"))
    folds = min(FOLDS, *(len(np.unique(subjects[targets == kind])) for kind in kinds))
    with threadpool_limits(1):
        if folds < 2:
            return model.fit(values, targets)
        grid = {"logisticregression__C": STRENGTHS}
        search = GridSearchCV(model, grid, scoring="neg_log_loss", cv=StratifiedGroupKFold(folds))
        return search.fit(values, targets, groups=subjects)


def _asked(fit: Any, values: Array, there: Array, classes: int) -> Array:
    """Probabilities ``[n, C]``: 0 of a class that the fit has not seen, NaN where a sample is not ``there``."""
    rows = np.where(there[:, None], 0.0, np.nan) + np.zeros((len(values), classes))
    if there.any():
        rows[np.ix_(there, np.asarray(fit.classes_, np.int64))] = fit.predict_proba(values[there])
    return rows


def match_confounds(train: Embedded, test: Embedded, confounds: Array) -> dict[str, Array]:
    """What each modality's features say of the confounds, by ridge regressions.

    Two scans are matched by the distance of these, which is as far as one gets with a space that holds age, sex, site
    and head size and nothing else of the person. A regression shrinks what it cannot tell.

    Args:
        train: Training samples, ``m``.
        test: Test samples, ``n``.
        confounds: Of the training samples, standardised, ``float64 [m, F]``.

    Returns:
        ``matched_pet`` and so on, ``float64 [n, F]``.
    """
    from sklearn.linear_model import RidgeCV
    from threadpoolctl import threadpool_limits

    told: dict[str, Array] = {}
    with threadpool_limits(1):
        for name in train.features:
            here = train.has([name])
            model = RidgeCV(alphas=np.logspace(0, 5, 11)).fit(train.features[name][here], confounds[here])
            told[f"matched_{name}"] = np.asarray(model.predict(test.features[name])).reshape(len(test.present), -1)
    return told
