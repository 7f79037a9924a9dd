"""k nearest neighbours among the frozen features of the training set, as DINO evaluates encoders.

Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination", CVPR 2018, and Caron et al.,
"Emerging Properties in Self-Supervised Vision Transformers", ICCV 2021 (arXiv 2104.14294), appendix on k-NN: each of
the ``k`` training features that are nearest by the cosine ``s_i`` votes for its class with the weight ``exp(s_i / T)``,
``T`` = 0.07.
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


class Knn(SupportAdapter):
    """Weighted vote of the nearest training samples; nothing is trained.

    The probability of a class is its share of the votes. Of labels that do not exclude each other, each is put to the
    vote among the samples in which it counts. A saved one holds the features of its training samples.
    """

    title = "k nearest neighbours among frozen features, weighted as by DINO"
    paper = (
        "Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021 (arXiv 2104.14294), after "
        "Wu et al., CVPR 2018"
    )
    licence = "Apache-2.0"
    formula = r"p(k \mid x) \propto \sum_{i \in N(x),\, y_i = k} \exp\left(\frac{\cos(x, x_i)}{T}\right)"
    train_defaults = MappingProxyType({"epochs": 0})
    search = MappingProxyType({"k": (1, 5, 10, 20, 50), "temperature": (0.01, 0.03, 0.07, 0.2, 0.5)})
    kept = ("keys", "votes", "counted")
    export_refusal = "it holds the features of every training sample, which are not to leave with a model"

    class Config(AdapterConfig):
        """Options; the defaults are those that the paper reports.

        Attributes:
            k: Neighbours; all of them where there are fewer.
            temperature: ``T``: the smaller, the more the nearest count.
        """

        k: int = Field(20, ge=1)
        temperature: float = Field(0.07, gt=0)

    config: Config

    keys: Tensor | None
    counted: Tensor | None

    def fit_support(self, support: SupportSet) -> None:
        """Keeps unit features ``[n, D]`` and what each votes for, ``[n, K]``; of labels also who counts."""
        self.hold(keys=F.normalize(support.features, dim=-1))
        if support.targets.ndim == 1:
            self.hold(votes=support.one_hot())
            return
        present, absent = support.present_absent()
        self.hold(votes=present, counted=present + absent)

    def support_logits(self, features: Tensor) -> Tensor:
        """Logarithm of the share of the votes ``[B, K]``, or its log-odds ``[B, L]``, for features ``[B, D]``."""
        keys, votes = self.held("keys"), self.held("votes")
        cosine = F.normalize(features.to(keys.dtype), dim=-1) @ keys.T
        if self.counted is None:
            return torch.log(self._vote(cosine, votes))
        logits = []
        for k, rows in enumerate(self.counted.bool().T):
            both = torch.stack([votes[rows, k], 1 - votes[rows, k]], dim=-1)
            shares = self._vote(cosine[:, rows], both) if rows.any() else cosine.new_full((len(cosine), 2), 0.5)
            logits.append(shares[:, 0].log() - shares[:, 1].log())
        return torch.stack(logits, dim=-1)

    def _vote(self, cosine: Tensor, votes: Tensor) -> Tensor:
        """Share of the votes ``[B, K]``, by cosines ``[B, n]`` with samples that vote for ``[n, K]``."""
        nearest = cosine.topk(min(self.config.k, cosine.shape[1]), dim=1)
        # Less the largest, which changes no share: a small temperature would overflow.
        weights = torch.exp((nearest.values - nearest.values[:, :1]) / self.config.temperature)
        shares = weights / weights.sum(dim=1, keepdim=True)
        return torch.einsum("bn,bnk->bk", shares, votes[nearest.indices].to(shares.dtype))
