"""Bottlenecks on the tokens, and adapters that put one behind each branch of a block."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from medgraft.adapter.site_adapter import SiteAdapter
from medgraft.adapters.parts.placement import tower_of
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.stored import weight_shape

Activation = Callable[[Tensor], Tensor]


class Bottleneck(nn.Module):
    """``up(activation(down(x)))``, ``[..., C] -> [..., C]``.

    Args:
        dim: ``C``.
        width: Numbers inside.
        activation: The nonlinearity.
        std: Deviation of the truncated normal start of both weights, cut at two deviations; 0 starts ``up`` at zero,
            and ``down`` by Kaiming's uniform rule, so that the whole is zero. Biases start at zero.
        like: A weight of the encoder, for type and device.
    """

    def __init__(self, dim: int, width: int, activation: Activation, std: float, like: Tensor) -> None:
        super().__init__()
        self.down = nn.Linear(dim, width, dtype=like.dtype, device=like.device)
        self.up = nn.Linear(width, dim, dtype=like.dtype, device=like.device)
        self.activation = activation
        for layer in (self.down, self.up):
            nn.init.zeros_(layer.bias)
            if std:
                nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
        if not std:
            nn.init.kaiming_uniform_(self.down.weight, a=5**0.5)
            nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The branch alone, without the residual, ``[..., C] -> [..., C]``."""
        return self.up(self.activation(self.down(x)))


def branch_width(encoder: Encoder, site: Site) -> int:
    """Width of what a branch adds to its block's tokens; the blocks of a hierarchy differ in it.

    A branch that ends in no layer of its own, such as one that joins what two attentions give, has the tower's.

    Args:
        encoder: The encoder.
        site: The branch.
    """
    module = encoder.get_submodule(site.path)
    if not site.in_mha and not hasattr(module, "weight"):
        return tower_of(encoder, site).spec.dim
    shape = weight_shape(module)
    return shape[1] if site.in_mha else shape[0]


class SerialAdapter(SiteAdapter):
    """Base of adapters with ``h <- h + bottleneck(h)`` behind each selected branch, before the residual addition."""

    modules_name = "bottleneck"
    bottleneck: nn.ModuleDict

    def build(self, encoder: Encoder, site: Site) -> Bottleneck:
        """The bottleneck of one branch, over the width of its block's tokens."""
        like = next(encoder.get_submodule(site.path).parameters())
        return self.build_bottleneck(branch_width(encoder, site), like)

    def build_bottleneck(self, dim: int, like: Tensor) -> Bottleneck:
        """The bottleneck over tokens ``[B, N, dim]``, of the type and on the device of ``like``."""
        raise TypeError(f"{type(self).__name__} must implement build_bottleneck()")
