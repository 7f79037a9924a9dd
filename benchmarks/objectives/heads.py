"""The linear head that classes, labels and numbers share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from medgraft.objective import Outputs


def scale_of(embeddings: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation ``[dim]`` of ``[n, dim]``, by which a head standardises; of one row the deviation is 1.

    A deviation counts as a hundredth of their root mean square at least: a column that barely varies in these
    samples, such as a voxel at the brain's edge, would otherwise outweigh all others in the next one.
    """
    deviation = embeddings.std(dim=0, unbiased=len(embeddings) > 1)
    floor = 0.01 * deviation.square().mean().sqrt()
    return embeddings.mean(dim=0), deviation.clamp(min=floor) if floor > 1e-6 else torch.ones_like(deviation)


class Head(nn.Module):
    """Standardises the embeddings as they were before training, then one linear map, zero at the start.

    The statistics are fitted once on training samples through the fresh graft and stay fixed, so that features of any
    scale (grey values, unit vectors, layer-normed tokens) meet the same learning rate.

    Args:
        dim: Width of the joined embeddings.
        outputs: Classes or labels.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, dim: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("deviation", torch.ones(dim))
        self.linear = nn.Linear(dim, outputs)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def fit_scale(self, embeddings: Tensor) -> None:
        """Takes mean and deviation from ``[n, dim]``; see :func:`scale_of`."""
        mean, deviation = scale_of(embeddings)
        self.mean.copy_(mean)
        self.deviation.copy_(deviation)

    def forward(self, embeddings: Tensor) -> Tensor:
        """``[B, dim]`` -> logits ``[B, outputs]``."""
        return self.linear((embeddings - self.mean) / self.deviation)

    def folded(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight ``float64 [outputs, dim]`` and bias ``[outputs]`` of the same map on embeddings as they are."""
        parts = (self.linear.weight, self.linear.bias, self.mean, self.deviation)
        weight, bias, mean, deviation = (part.detach().double().cpu().numpy() for part in parts)
        return weight / deviation, bias - (weight / deviation) @ mean

    @torch.no_grad()
    def take(self, weight: np.ndarray, bias: np.ndarray) -> None:
        """Becomes the linear map of weight ``[outputs, dim]`` and bias ``[outputs]`` on embeddings as they are.

        The statistics stay; the map is folded into :attr:`linear` behind them.
        """
        mean, deviation = (part.double().cpu().numpy() for part in (self.mean, self.deviation))
        self.linear.weight.copy_(torch.from_numpy(weight * deviation))
        self.linear.bias.copy_(torch.from_numpy(bias + weight @ mean))


def joined(outputs: Outputs, inputs: tuple[str, ...]) -> Tensor:
    """Pooled embeddings of the modalities side by side, ``[B, sum of widths]``."""
    return torch.cat([outputs[name].pooled.float() for name in inputs], dim=-1)


def linear_head(sample: Outputs, inputs: tuple[str, ...], outputs: int) -> Head:
    """A head that fits the features of ``sample``, scaled by them."""
    embeddings = joined(sample, inputs)
    head = Head(embeddings.shape[-1], outputs)
    head.fit_scale(embeddings.detach())
    return head
