"""Keeps the best epoch's parameters, for recipes with ``keep: lowest_loss``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass
class BestWeights:
    """The parameters of the epoch with the lowest mean training loss.

    Attributes:
        parameters: What is trained.
        lowest: Lowest loss so far.
    """

    parameters: list[torch.nn.Parameter]
    lowest: float = math.inf
    _kept: list[Tensor] = field(default_factory=list)

    def after_epoch(self, loss: float) -> None:
        """Takes a copy if ``loss`` is the lowest so far."""
        if loss < self.lowest:
            self.lowest, self._kept = loss, [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the copy back."""
        for parameter, kept in zip(self.parameters, self._kept, strict=True):
            parameter.copy_(kept)

    def state(self) -> dict[str, Any]:
        """What is kept, for another process."""
        return {"lowest": self.lowest, "kept": self._kept}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on with what another process kept.

        Args:
            state: As :meth:`state` gave it, or with its tensors on another device.
        """
        device = self.parameters[0].device
        self.lowest, self._kept = state["lowest"], [value.to(device) for value in state["kept"]]
