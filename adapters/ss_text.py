"""SS-Text: class prompts moved towards the training images of the class, in closed form.

Silva-Rodriguez et al., "Full Conformal Adaptation of Medical Vision-Language Models", IPMI 2025, and for sets that are
not balanced (SS-Text+, the weighting by shots) "Few-Shot, Now for Real: Medical VLMs Adaptation without Balanced Sets
or Validation", MICCAI 2025 (arXiv 2506.17500); code ``jusiro/SS-Text``, ``solvers/sstext.py``. With unit features
``x_i`` ``[N, C]``, one-hot classes ``Y``, unit text prototypes ``t_k`` and ``tau = 1 / scale``:

    w_k = t_k + (1 / N) (1 / lambda_k) sum_i Y_ik x_i / tau

``lambda_k`` is ``1 / count_k`` ("shots"), the mean zero-shot probability of the true class ("performance") or a number,
and never below 1e-3. A class is predicted by ``scale cos(x, w_k)``.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from medgraft.adapter import AdapterConfig
from medgraft.adapter.support_adapter import SupportAdapter
from medgraft.adapter.support_set import SupportSet
from medgraft.adapters.parts.unit_prototypes import cosine_logits, true_class_probability
from medgraft.errors import ConfigError

LEAST_WEIGHT = 1e-3
"""``lambda_k`` at least, as in the authors' code: a class of over 1,000 images counts as one of 1,000."""

Weighting = Literal["shots", "performance", "fixed"]


def ss_text_prototypes(
    features: Tensor,
    labels: Tensor,
    text: Tensor,
    scale: float,
    weighting: str | float = "shots",
    repel: bool = False,
) -> Tensor:
    """Prototypes of SS-Text, equation in the module's docstring; predictions are ``scale`` times the cosine with them.

    Args:
        features: Unit features of the training images, ``[N, C]``.
        labels: Their classes, ``int64 [N]``; a class may have none, and keeps its text prototype then.
        text: Unit text prototypes, ``[K, C]``.
        scale: Multiplier of the cosine, ``1 / tau``.
        weighting: ``"shots"`` (``lambda_k = 1 / count_k``), ``"performance"`` (``lambda_k`` the mean zero-shot
            probability of the true class; a class without images takes the mean of the others) or ``lambda`` itself.
        repel: Push prototypes from their common mean: ``w_k`` less the unit vector of ``2 w_k - mean_j w_j``, before
            lengths are made one.

    Returns:
        Unit vectors ``[K, C]``, in the type of ``features``.

    Raises:
        ConfigError: There is no image, or the weighting is unknown.

    Example:
        >>> eye = torch.eye(2, dtype=torch.float64)
        >>> ss_text_prototypes(eye[:1], torch.tensor([0]), eye, 100.0)
        tensor([[1., 0.],
                [0., 1.]], dtype=torch.float64)
    """
    if not len(features):
        raise ConfigError("SS-Text was given 0 training images; give at least one")
    one_hot = F.one_hot(labels.long(), len(text)).to(features.dtype)
    strength = _strength(features, one_hot, text, scale, weighting).clamp(min=LEAST_WEIGHT)
    moved = text + (one_hot.T @ features) * scale / (len(features) * strength[:, None])
    if repel:
        moved = moved - F.normalize(2 * moved - moved.mean(dim=0), dim=-1)
    return F.normalize(moved, dim=-1)


def _strength(features: Tensor, one_hot: Tensor, text: Tensor, scale: float, weighting: str | float) -> Tensor:
    """``lambda`` of each class, ``[K]``; infinite for a class without images."""
    if weighting == "shots":
        return 1 / one_hot.sum(dim=0)
    if weighting == "performance":
        return true_class_probability(features, one_hot, text, scale)
    if isinstance(weighting, str):
        raise ConfigError(f"weighting {weighting!r} of SS-Text is unknown; choose 'shots', 'performance' or a number")
    return torch.full((len(text),), float(weighting), dtype=features.dtype, device=features.device)


class SsText(SupportAdapter):
    """The closed form; nothing is trained, and a saved one holds one vector per class."""

    title = "SS-Text: class prompts moved towards the class's images, in closed form"
    paper = (
        "Silva-Rodriguez et al., Full Conformal Adaptation of Medical Vision-Language Models, IPMI 2025, and Few-Shot, "
        "Now for Real, MICCAI 2025 (arXiv 2506.17500)"
    )
    licence = "Apache-2.0"
    formula = (
        r"w_k = t_k + \frac{1}{N} \frac{1}{\lambda_k} \sum_i Y_{ik}\, \frac{x_i}{\tau}, \quad z_k = "
        r"\frac{1}{\tau} \cos(x, w_k)"
    )
    train_defaults = MappingProxyType({"epochs": 0})
    kept = ("prototypes", "scale")
    reads_prompts = True

    class Config(AdapterConfig):
        """Options.

        Attributes:
            weighting: Of text against images: by the number of images of the class, by what zero-shot prediction is
                worth on them, or the same for all.
            text_weight: ``lambda`` of the weighting ``fixed``.
            repel: Push prototypes from their common mean.
        """

        weighting: Weighting = "shots"
        text_weight: float = Field(0.1, gt=0)
        repel: bool = False

    config: Config

    def fit_support(self, support: SupportSet) -> None:
        """Makes the prototypes ``[K, C]``, in float64."""
        text, scale = self.classes_of(support)
        config = self.config
        weighting = config.text_weight if config.weighting == "fixed" else config.weighting
        features = support.features.double()
        made = ss_text_prototypes(features, support.targets, text.double(), scale, weighting, config.repel)
        self.hold(prototypes=made.to(support.features.dtype), scale=torch.tensor(scale))

    def support_logits(self, features: Tensor) -> Tensor:
        """``scale`` times the cosine, ``[B, C] -> [B, K]``."""
        return cosine_logits(features, self.held("prototypes"), self.held("scale"))
