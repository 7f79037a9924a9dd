"""A linear head on the frozen features that says which findings a text may assert.

One logistic regression for each finding that training texts assert; what a text does not mention is absent, as for the
labels of CheXpert (Irvin et al., AAAI 2019). The strength of L2 and the threshold of each are those that are best on
validation samples.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medgraft.benchmarks.metrics.classification import best_thresholds
from medgraft.benchmarks.metrics.texts.labeller.findings import NO_FINDING
from medgraft.benchmarks.metrics.texts.statements import Statement
from medgraft.errors import CheckpointError, DataError

Array = NDArray[np.float64]
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
"""``C`` of scikit-learn's logistic regression: the smaller, the more the head is held back."""
ALWAYS = 30.0
"""Logit of a finding that every training text asserts."""


def found_in(statements: Sequence[Statement]) -> set[str]:
    """Findings that some statements assert, doubtful ones among them; that there is none is no finding."""
    return {each.finding for each in statements if each.present and each.finding != NO_FINDING}


@dataclass(frozen=True)
class FindingHead:
    """Linear maps from features to logits of findings.

    Attributes:
        names: The ``F`` findings.
        weight: ``[F, D]``.
        bias: ``[F]``.
        thresholds: Probability from which a finding counts as supported, ``[F]``.
    """

    names: tuple[str, ...]
    weight: Array
    bias: Array
    thresholds: Array

    @classmethod
    def fit(
        cls,
        features: np.ndarray,
        statements: Sequence[Sequence[Statement]],
        val_features: np.ndarray,
        val_statements: Sequence[Sequence[Statement]],
    ) -> FindingHead:
        """Fits it on training samples.

        Args:
            features: ``[n, D]`` of training samples.
            statements: What the text of each says.
            val_features: ``[m, D]`` of validation samples; may be empty, and then 0.5 is every threshold.
            val_statements: What their texts say.

        Raises:
            DataError: No training text asserts any finding.
        """
        asserted = [found_in(each) for each in statements]
        names = tuple(sorted(set().union(*asserted)))
        if not names:
            raise DataError(
                "no training text asserts a finding, so no head can support any; leave out supported= and abstain="
            )
        centre, scale = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
        scale = np.where(scale > 0, scale, 1.0)
        x, y = (features - centre) / scale, np.array([[name in each for name in names] for each in asserted])
        val_found = [found_in(each) for each in val_statements]
        val_y = np.array([[name in each for name in names] for each in val_found]).reshape(-1, len(names))
        val_x = (val_features - centre) / scale if len(val_features) else np.zeros((0, x.shape[1]))
        maps = [_fitted(x, y[:, k], val_x, val_y[:, k]) for k in range(len(names))]
        weight = np.array([w for w, _ in maps]) / scale
        bias = np.array([b for _, b in maps]) - weight @ centre
        head = cls(names, weight, bias, np.full(len(names), 0.5))
        if not len(val_x):
            return head
        return cls(names, weight, bias, best_thresholds(head.probabilities(val_features), val_y))

    def probabilities(self, features: np.ndarray) -> Array:
        """Probability of each finding, ``[B, D] -> [B, F]``."""
        from scipy.special import expit

        return expit(features.astype(np.float64) @ self.weight.T + self.bias)

    def supports(self, finding: str, probabilities: Array) -> bool:
        """Whether a finding may be asserted; one that no training text asserts may not.

        Args:
            finding: Its name.
            probabilities: Of one sample, ``[F]``.
        """
        if finding not in self.names:
            return False
        k = self.names.index(finding)
        return bool(probabilities[k] >= self.thresholds[k])

    def confidence(self, statement: Statement, probabilities: Array) -> float:
        """Probability that a statement about one sample is right, by its finding alone, from 0 to 1.

        That there is no finding is as sure as the likeliest finding is unlikely.

        Args:
            statement: It.
            probabilities: Of the sample, ``[F]``.
        """
        if statement.finding == NO_FINDING:
            return float(1 - probabilities.max())
        if statement.finding not in self.names:
            return 0.0 if statement.present else 1.0
        p = float(probabilities[self.names.index(statement.finding)])
        return p if statement.present else 1 - p

    def arrays(self) -> dict[str, np.ndarray]:
        """It as arrays for a file, weight ``[F, D]``, bias and thresholds ``[F]``; names are not among them."""
        return {"weight": self.weight, "bias": self.bias, "thresholds": self.thresholds}

    @classmethod
    def of(cls, names: Sequence[str], arrays: Mapping[str, np.ndarray]) -> FindingHead:
        """The head of :meth:`arrays`, ``[F, D]`` and ``[F]``.

        Raises:
            CheckpointError: They are none.
        """
        parts = [arrays.get(name) for name in ("weight", "bias", "thresholds")]
        if any(part is None or len(part) != len(names) for part in parts):
            raise CheckpointError("the head of findings is damaged; keep the graft again")
        return cls(tuple(names), *(np.asarray(part, np.float64) for part in parts))


def _fitted(x: Array, y: NDArray[np.bool_], val_x: Array, val_y: NDArray[np.bool_]) -> tuple[Array, float]:
    """Weights ``[D]`` and bias of one finding, of the strength with the lowest log-loss on validation samples."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    if y.all():
        return np.zeros(x.shape[1]), ALWAYS
    best: tuple[float, Array, float] | None = None
    for strength in STRENGTHS if len(val_x) else (0.1,):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model = LogisticRegression(C=strength, max_iter=500).fit(x, y)
        w, b = model.coef_[0], float(model.intercept_[0])
        logits = val_x @ w + b
        loss = float(np.logaddexp(0, np.where(val_y, -logits, logits)).mean()) if len(val_x) else 0.0
        if best is None or loss < best[0]:
            best = (loss, w, b)
    assert best is not None
    return best[1], best[2]
