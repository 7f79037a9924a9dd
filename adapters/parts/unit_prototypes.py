"""What methods share that compare unit features with one vector per class."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

MOMENTUM = 0.9
"""Of gradient descent on features of the training set, as in every published solver."""


def cosine_logits(features: Tensor, prototypes: Tensor, scale: Tensor | float) -> Tensor:
    """``scale`` times the cosine of features ``[B, D]`` and prototypes ``[K, D]``, ``[B, K]``."""
    return scale * (F.normalize(features.to(prototypes.dtype), dim=-1) @ F.normalize(prototypes, dim=-1).T)


def true_class_probability(features: Tensor, one_hot: Tensor, prototypes: Tensor, scale: float) -> Tensor:
    """Mean zero-shot probability of the true class, by class, ``[K]``.

    A class without a sample gets the mean of the others, as in the code of Silva-Rodriguez et al.

    Args:
        features: Unit features ``[n, D]``.
        one_hot: Their classes ``[n, K]``.
        prototypes: Of the classes ``[K, D]``.
        scale: Multiplier of the cosine.
    """
    probabilities = torch.softmax(cosine_logits(features, prototypes, scale), dim=-1)
    counts = one_hot.sum(dim=0)
    by_class = (one_hot * probabilities).sum(dim=0) / counts  # 0 / 0 where a class has no sample
    return torch.where(counts > 0, by_class, by_class[counts > 0].mean())


def descended_prototypes(
    features: Tensor,
    one_hot: Tensor,
    start: Tensor,
    scale: float,
    penalty: Tensor | None = None,
    *,
    steps: int = 300,
    rate: float = 0.1,
    adaptive: bool = False,
) -> Tensor:
    """Prototypes trained by cross-entropy over ``scale`` times the cosine, full batch, from a start.

    The loss is ``CE + mean_k lambda_k |w_k - w_k(0)|^2``, squares summed over ``D``. The rate falls by half a cosine.

    Args:
        features: Unit features ``[n, D]``.
        one_hot: Their classes ``[n, K]``.
        start: Prototypes ``[K, D]``.
        scale: Multiplier of the cosine.
        penalty: ``lambda``, ``[K]``; ``None`` for none.
        steps: Full-batch steps.
        rate: Of the first step.
        adaptive: Move ``lambda`` behind each step as an augmented Lagrangian does: by its distance times that of the
            step before, which is 0 in front of the first.

    Returns:
        ``[K, D]``, not of unit length.
    """
    w = start.detach().clone()
    velocity, strength, last = torch.zeros_like(w), penalty, torch.zeros_like(w[:, 0])
    for step in range(steps):
        length = w.norm(dim=-1, keepdim=True)
        unit = w / length
        cosine = features @ unit.T
        error = scale * (torch.softmax(scale * cosine, dim=-1) - one_hot) / len(features)
        # Of the cosine only what turns a prototype counts: d cos / d w = (x - cos u) / |w|.
        gradient = (error.T @ features - (error * cosine).sum(dim=0)[:, None] * unit) / length
        if strength is not None:
            gradient = gradient + 2 * strength[:, None] * (w - start) / len(w)
        velocity = MOMENTUM * velocity + gradient
        w = w - 0.5 * rate * (1 + math.cos(math.pi * step / steps)) * velocity
        if adaptive and strength is not None:
            distance = (w - start).square().sum(dim=-1)
            strength, last = strength + last * distance, distance
    return w
