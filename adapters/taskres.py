"""TaskRes: the embedding of each class's prompts, and a residual of the task's own that is trained.

Yu et al., "Task Residual for Tuning Vision-Language Models", CVPR 2023 (arXiv 2211.10277), equation 4: prototypes
``t_k + alpha r_k`` with ``r`` zero at the start, logits ``scale cos(x, t_k + alpha r_k)``.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from pydantic import Field
from torch import Tensor

from medgraft.adapter import AdapterConfig
from medgraft.adapter.support_adapter import SupportAdapter
from medgraft.adapter.support_set import SupportSet
from medgraft.adapters.parts.unit_prototypes import cosine_logits


class TaskRes(SupportAdapter):
    """Residuals ``[K, D]`` on the unit embeddings of the classes' prompts, trained with the harness's steps.

    Nothing changes before the first step: a fresh one is zero-shot prediction. The authors add to embeddings whose
    length is not yet one.
    """

    title = "TaskRes: a trained residual on the embedding of each class's prompts"
    paper = "Yu et al., Task Residual for Tuning Vision-Language Models, CVPR 2023 (arXiv 2211.10277)"
    licence = "Apache-2.0"
    formula = r"z_k = s \cos(x,\, t_k + \alpha\, r_k)"
    train_defaults = MappingProxyType({"lr": 0.002, "epochs": 100})
    search = MappingProxyType({"alpha": (0.1, 0.3, 1.0, 2.0, 4.0)})
    kept = ("residual", "text", "scale")
    trained = ("residual",)
    reads_prompts = True

    class Config(AdapterConfig):
        """Options.

        Attributes:
            alpha: Factor of the residual, which the authors' scripts set for each data set.
        """

        alpha: float = Field(1.0, gt=0)

    config: Config

    def fit_support(self, support: SupportSet) -> None:
        """Takes the prompts ``[K, D]`` and makes residuals of zeros."""
        text, scale = self.classes_of(support)
        self.hold(residual=torch.zeros_like(text), text=text, scale=torch.tensor(scale))

    def support_logits(self, features: Tensor) -> Tensor:
        """``scale`` times the cosine, ``[B, D] -> [B, K]``."""
        prototypes = self.held("text") + self.config.alpha * self.held("residual")
        return cosine_logits(features, prototypes, self.held("scale"))
