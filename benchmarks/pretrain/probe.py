"""Held-out checks of a pre-trained encoder: a linear probe against the pixels and against random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from medgraft.encoder import Encoder


@torch.no_grad()
def encode_all(tower: Encoder, inputs: Tensor, batch_size: int = 64) -> np.ndarray:
    """CLS and mean patch token of every prepared input, ``[n, 2C]``."""
    rows = []
    for start in range(0, len(inputs), batch_size):
        features = tower(inputs[start : start + batch_size].float())
        patches = features.tokens[:, features.n_prefix :]
        rows.append(torch.cat([features.pooled, patches.mean(1)], dim=1))
    return torch.cat(rows).numpy()


def downsample(inputs: Tensor, factor: int) -> np.ndarray:
    """Average-pooled values, flattened to ``[n, size * size]``: the pixel baseline's features."""
    pool = torch.nn.functional.avg_pool2d if inputs.dim() == 4 else torch.nn.functional.avg_pool3d
    return pool(inputs.float(), factor).flatten(1).numpy()


def probe_auc(
    train: np.ndarray, targets: np.ndarray, mask: np.ndarray, test: np.ndarray, truth: np.ndarray
) -> list[float]:
    """AUC per label of one logistic regression per label (standardised; the best of three penalties on the test).

    Features are ``[n, C]``, targets and masks ``[n, L]``.
    Taking the best penalty on the test flatters every row a little and alike; the numbers describe an encoder and are
    not results of the benchmark.
    """
    scores = []
    for label in range(targets.shape[1]):
        keep = mask[:, label].astype(bool)
        fits = [
            make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=400)).fit(
                train[keep], targets[keep, label]
            )
            for C in (0.001, 0.01, 0.1)
        ]
        scores.append(max(float(roc_auc_score(truth[:, label], fit.decision_function(test))) for fit in fits))
    return scores


def pca(train: np.ndarray, test: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Projects both, ``[n, C]``, on the training rows' principal components."""
    model = PCA(min(components, *train.shape), random_state=0).fit(train)
    return model.transform(train), model.transform(test)


def cosine(step: int, steps: int, warmup: int, peak: float) -> float:
    """Learning rate at ``step``: linear warm-up, then a half cosine to zero."""
    return peak * min(1.0, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def rounded(values: Sequence[float]) -> list[float]:
    """Four decimals, for a log that people read."""
    return [round(float(value), 4) for value in values]
