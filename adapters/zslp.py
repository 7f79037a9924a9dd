"""ZS-LP: a linear probe that starts from the class prompts and keeps the cosine and its scale.

The probe that Silva-Rodriguez et al. hold to the text in "A Closer Look at the Few-Shot Adaptation of Large Vision-
Language Models", CVPR 2024 (arXiv 2312.12730), without the hold: prototypes ``w_k`` from ``t_k``, logits ``scale cos(x,
w_k)``, mean cross-entropy; the solver is that of ``jusiro/SS-Text``, ``solvers/gd.py``.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from pydantic import Field
from torch import Tensor

from medgraft.adapter import AdapterConfig
from medgraft.adapter.support_adapter import SupportAdapter
from medgraft.adapter.support_set import SupportSet
from medgraft.adapters.parts.unit_prototypes import cosine_logits, descended_prototypes


class ZsLp(SupportAdapter):
    """Prototypes by full-batch gradient descent, momentum 0.9 and half a cosine to 0, in float64 and without a seed.

    The published solver takes the first 5,000 images of a random order in each epoch; this one takes all. A class
    without images is pushed away by the others' images alone.
    """

    title = "ZS-LP: a linear probe that starts from class prompts"
    paper = (
        "Silva-Rodriguez et al., A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models, CVPR 2024 "
        "(arXiv 2312.12730)"
    )
    licence = "Apache-2.0"
    formula = r"z_k = s \cos(x, w_k), \quad w_k \text{ trained from } t_k"
    train_defaults = MappingProxyType({"epochs": 0})
    search = MappingProxyType({"steps": (50, 100, 200, 300, 600), "rate": (0.01, 0.03, 0.1, 0.3, 1.0)})
    kept = ("prototypes", "scale")
    trained = ("prototypes",)
    reads_prompts = True

    class Config(AdapterConfig):
        """Options; the defaults are those of the published solver.

        Attributes:
            steps: Full-batch steps.
            rate: Learning rate of the first.
        """

        steps: int = Field(300, ge=1)
        rate: float = Field(0.1, gt=0)

    config: Config

    def penalty(self, features: Tensor, one_hot: Tensor, text: Tensor, scale: float) -> Tensor | None:
        """How much each class is held to its prompt, ``[K]``, for features ``[n, D]``; ``None`` for not at all."""
        return None

    @property
    def adaptive(self) -> bool:
        """Whether the penalty moves behind each step."""
        return False

    def fit_support(self, support: SupportSet) -> None:
        """Trains the prototypes ``[K, D]``."""
        text, scale = self.classes_of(support)
        features, one_hot, text = support.features.double(), support.one_hot().double(), text.double()
        penalty, steps, rate = self.penalty(features, one_hot, text, scale), self.config.steps, self.config.rate
        made = descended_prototypes(
            features, one_hot, text, scale, penalty, steps=steps, rate=rate, adaptive=self.adaptive
        )
        self.hold(prototypes=made.to(support.features.dtype), scale=torch.tensor(scale))

    def support_logits(self, features: Tensor) -> Tensor:
        """``scale`` times the cosine, ``[B, D] -> [B, K]``."""
        return cosine_logits(features, self.held("prototypes"), self.held("scale"))
