"""CLAP: a linear probe from the class prompts, each class held to its prompt by how well the prompt alone predicts it.

Silva-Rodriguez et al., "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models", CVPR 2024 (arXiv
2312.12730): cross-entropy and ``mean_k lambda_k |w_k - t_k|^2``, squares summed over the width, ``lambda_k`` the mean
zero-shot probability of the true class on the class's training images. Code ``jusiro/CLAP``; the solver and a class
without images, which takes the mean ``lambda`` of the others, are those of ``jusiro/SS-Text``, ``solvers/gd.py``.
"""

from __future__ import annotations

from types import MappingProxyType

from torch import Tensor

from medgraft.adapters.parts.unit_prototypes import true_class_probability
from medgraft.adapters.zslp import ZsLp


class Clap(ZsLp):
    """ZS-LP with the penalty; see :class:`medgraft.adapters.zslp.ZsLp`."""

    title = "CLAP: a linear probe that is held to class prompts"
    paper = (
        "Silva-Rodriguez et al., A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models, CVPR 2024 "
        "(arXiv 2312.12730)"
    )
    licence = "Apache-2.0"
    formula = r"\mathcal{L} = \mathrm{CE} + \frac{1}{K} \sum_k \lambda_k \lVert w_k - t_k \rVert^2"
    train_defaults = MappingProxyType({"epochs": 0})

    class Config(ZsLp.Config):
        """Options: those of ZS-LP, and below.

        Attributes:
            adaptive: Move ``lambda`` behind each step as the paper's augmented Lagrangian does, where the authors' runs
                of few shots keep it.
        """

        adaptive: bool = False

    config: Config

    @property
    def adaptive(self) -> bool:
        """As the option says."""
        return self.config.adaptive

    def penalty(self, features: Tensor, one_hot: Tensor, text: Tensor, scale: float) -> Tensor:
        """Mean zero-shot probability of the true class, ``[K]``, of features ``[n, D]``."""
        return true_class_probability(features, one_hot, text, scale)
