"""A graft with its objective as one function of one image or volume, which the methods of explanation look into."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import Encoder
from medgraft.features import Features
from medgraft.grafting import Grafted
from medgraft.objective import Objective


class Scorer(nn.Module):
    """``[B, C, *size]`` -> what the objective decides by, ``[B, K]``; other modalities of the sample stay as they are.

    Args:
        grafted: Adapters attached, in evaluation mode.
        objective: With what it learnt.
        context: Of the objective, see :meth:`medgraft.objective.Objective.context`.
        modality: Of the image or volume.
        others: The sample's other modalities, each prepared, ``[1, ...]``.
        autocast: Makes the context to run the graft in, as for its predictions.
    """

    def __init__(
        self,
        grafted: Grafted,
        objective: Objective,
        context: Any,
        modality: str,
        others: Mapping[str, Tensor] | None = None,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        self.autocast = autocast
        self.grafted, self.objective, self.context = grafted, objective, context
        self.modality, self.others = modality, dict(others or {})

    @property
    def tower(self) -> Encoder:
        """The tower that reads the image or volume."""
        return self.grafted.towers()[self.modality]

    def features(self, x: Tensor) -> dict[str, Features]:
        """Features of all modalities for prepared images or volumes ``[B, C, *size]``."""
        order = self.objective.inputs if self.modality in self.objective.inputs else (self.modality,)
        rows = {name: value.expand(x.shape[0], *value.shape[1:]) for name, value in self.others.items()}
        rows[self.modality] = x
        with self.autocast():
            return self.grafted.encode({name: rows[name] for name in order if name in rows})

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`Scorer`; ``float32 [B, K]`` or wider."""
        features = self.features(x)
        with self.autocast():
            decision = self.objective.decision(self.grafted, features, self.context)
        return decision if decision.dtype == torch.float64 else decision.float()

    def evidence(self, x: Tensor) -> Tensor:
        """The log odds of each class, ``float64 [B, K]``, where scores are probabilities; else the scores.

        They grow as the probability does and go on where that is nearly 0 or 1.
        """
        decision = self(x).double()
        if self.objective.activation == "identity":
            return decision
        p = self.objective.activated(decision)
        return torch.logit(p, eps=1e-15)
