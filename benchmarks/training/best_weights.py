"""Keeps the best epoch's values, for recipes with ``keep: lowest_loss``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class BestWeights:
    """The values of the epoch with the lowest mean training loss.

    Buffers belong to them: a batch norm's running statistics are those of the weights that they were gathered under.

    Attributes:
        modules: Whose parameters are trained, and whose buffers follow.
        lowest: Lowest loss so far.
    """

    modules: Sequence[nn.Module]
    lowest: float = math.inf
    _kept: list[Tensor] = field(default_factory=list)

    def after_epoch(self, loss: float) -> None:
        """Takes a copy if ``loss`` is the lowest so far."""
        if loss < self.lowest:
            self.lowest, self._kept = loss, [value.detach().clone() for value in self._values()]

    @torch.no_grad()
    def restore(self) -> None:
        """Puts the copy back."""
        for value, kept in zip(self._values(), self._kept, strict=True):
            value.copy_(kept)

    def _values(self) -> list[Tensor]:
        """Each trained parameter and each buffer once, of any shape, looked up anew since a module may replace one."""
        trained = [p for module in self.modules for p in module.parameters() if p.requires_grad]
        buffers = [buffer for module in self.modules for buffer in module.buffers()]
        return list({id(value): value for value in [*trained, *buffers]}.values())

    def state(self) -> dict[str, Any]:
        """What is kept, for another process."""
        return {"lowest": self.lowest, "kept": self._kept}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on with what another process kept.

        Args:
            state: As :meth:`state` gave it, or with its tensors on another device.
        """
        device = self._values()[0].device
        self.lowest, self._kept = state["lowest"], [value.to(device) for value in state["kept"]]
