"""Prototypes: a class is the mean of its training images' unit features.

Wang et al., "SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning", 2019 (arXiv 1911.04623):
nearest class mean of features of unit length (``L2N``), or of features less the mean of all training features and then
of unit length (``CL2N``, option ``centre``). As ``solvers/ss.py`` of ``jusiro/SS-Text``: ``w_k = sum_i Y_ik x_i /
count_k``, logits ``scale cos(x, w_k)``.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medgraft.adapter import AdapterConfig
from medgraft.adapter.support_adapter import SupportAdapter
from medgraft.adapter.support_set import SupportSet

PLAIN_SCALE = 1 / 0.07
"""Multiplier of the cosine where the encoder has none of its own; that which CLIP starts from."""


class Prototypes(SupportAdapter):
    """Nearest class mean by the cosine; nothing is trained.

    A class without a training image has the cosine -1 with everything, where the published code divides by 0. Of labels
    that do not exclude each other, each has two prototypes, of those who have it and of those who have not, and its
    logit is the difference of the two.
    """

    title = "Prototypes (SimpleShot): the nearest mean of a class's features"
    paper = (
        "Wang et al., SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning, 2019 (arXiv "
        "1911.04623)"
    )
    licence = "Apache-2.0"
    formula = r"w_k = \frac{1}{n_k} \sum_{i:\, y_i = k} x_i, \quad z_k = s \cos(x, w_k)"
    train_defaults = MappingProxyType({"epochs": 0})
    search = MappingProxyType({"centre": (False, True)})
    kept = ("prototypes", "absent", "mean", "scale")

    class Config(AdapterConfig):
        """Options.

        Attributes:
            centre: Take the mean of all training features off every feature first (``CL2N``).
            scale: Multiplier of the cosine, which only matters for how sure predictions are; ``None`` takes the
                encoder's own, and 1 / 0.07 where it has none.
        """

        centre: bool = False
        scale: float | None = Field(None, gt=0)

    config: Config

    def fit_support(self, support: SupportSet) -> None:
        """Makes the means ``[K, D]``, in float64; of labels those of who has them, and of who has them not."""
        features = support.features.double()
        mean = features.mean(dim=0) if self.config.centre else torch.zeros_like(features[0])
        unit = F.normalize(features - mean, dim=-1)
        scale = self.config.scale or support.scale or PLAIN_SCALE
        made = {"mean": mean, "scale": unit.new_tensor(scale)}
        if support.targets.ndim == 1:
            made["prototypes"] = _means(support.one_hot().double(), unit)
        else:
            present, absent = support.present_absent().double()
            made |= {"prototypes": _means(present, unit), "absent": _means(absent, unit)}
        self.hold(**{name: value.to(support.features.dtype) for name, value in made.items()})

    def support_logits(self, features: Tensor) -> Tensor:
        """``scale`` times the cosine, or the difference of two, ``[B, D] -> [B, K]``."""
        mean = self.held("mean")
        unit = F.normalize(features.to(mean.dtype) - mean, dim=-1)
        cosine = _cosine(unit, self.held("prototypes"))
        if self.absent is not None:
            cosine = cosine - _cosine(unit, self.held("absent"))
        return self.held("scale") * cosine

    absent: Tensor | None


def _means(members: Tensor, unit: Tensor) -> Tensor:
    """Mean ``[K, D]`` of unit features ``[n, D]`` by membership ``[n, K]``; zeros where there is no member."""
    return members.T @ unit / members.sum(dim=0).clamp(min=1)[:, None]


def _cosine(unit: Tensor, prototypes: Tensor) -> Tensor:
    """``[B, D]`` and ``[K, D]`` -> ``[B, K]``; -1 with a prototype of zeros, which stands for no member."""
    return torch.where(prototypes.any(dim=-1), unit @ F.normalize(prototypes, dim=-1).T, -1.0)
