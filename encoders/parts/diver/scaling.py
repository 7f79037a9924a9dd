"""Widening DIVER without tuning anew: muP, the parametrisation in which the best learning rate stays where it is.

Yang et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot Hyperparameter Transfer" (2022), table 8,
for Adam. The network's own part is in it already: matrices start with a variance of 1 / fan-in, and attention divides
by the width of a head. What is left is the learning rate of each parameter, and a readout that shrinks with the width.
Depth is not covered.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoders.parts.diver.network import Diver

BASE, DELTA = 256, 512
"""Width at which a learning rate means what it says, and another, by which growing axes are told from others."""


def mup_groups(model: Diver, lr: float, weight_decay: float = 0.0, base: int = BASE) -> list[dict[str, Any]]:
    """Parameters of a network in groups for Adam, such as ``torch.optim.AdamW(mup_groups(model, 3e-4))``.

    A parameter both of whose axes grow with the width is trained at ``lr / m``, ``m`` being how many times its fan-in
    is that of the base; the others at ``lr``. The product of learning rate and weight decay is the same for all.

    Args:
        model: The network.
        lr: Learning rate at the base's width.
        weight_decay: Weight decay at the base's width.
        base: The base's width.

    Returns:
        A group for each multiplier: ``params``, ``lr``, ``weight_decay``.
    """
    with torch.device("meta"):
        small, large = (
            dict(Diver(dim, model.depth, model.patch).named_parameters()) for dim in (base, base + DELTA - BASE)
        )
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        grows = [a != b for a, b in zip(small[name].shape, large[name].shape, strict=True)]
        factor = parameter.shape[1] / small[name].shape[1] if sum(grows) == 2 else 1.0
        groups.setdefault(factor, []).append(parameter)
    return [
        {"params": parameters, "lr": lr / factor, "weight_decay": weight_decay * factor}
        for factor, parameters in sorted(groups.items())
    ]


class MuReadout(nn.Linear):
    """A linear head on ``[..., dim]`` that starts at zero and divides its result by how many times the base's width is.

    Args:
        dim: Width of what it reads.
        outputs: Numbers that it gives.
        base: The base's width.
    """

    def __init__(self, dim: int, outputs: int, base: int = BASE) -> None:
        super().__init__(dim, outputs)
        self.factor = dim / base
        nn.init.zeros_(self.weight)

    def forward(self, input: Tensor) -> Tensor:
        """``[..., dim] -> [..., outputs]``."""
        return super().forward(input / self.factor)
