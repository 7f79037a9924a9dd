"""Bottlenecks on the tokens, and adapters that put one behind each branch of a block."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapters.placement import Hits, key_of, tower_of, unique
from medgraft.encoder import Encoder
from medgraft.errors import IncompatibleError
from medgraft.sites import Site

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
        """The branch alone, without the residual."""
        return self.up(self.activation(self.down(x)))


class SerialAdapter(Adapter):
    """Base of adapters with ``h <- h + bottleneck(h)`` behind each selected branch, before the residual addition."""

    def __init__(self, config: AdapterConfig | None = None) -> None:
        super().__init__(config)
        self.bottleneck = nn.ModuleDict()

    def supports(self, encoder: Encoder) -> Support:
        """Fits encoders with transformer blocks, in two and three dimensions and on text."""
        try:
            self.select(encoder, encoder.sites())
        except IncompatibleError as error:
            return Support(False, str(error))
        return Support(True)

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Target pattern -> branches.

        Raises:
            IncompatibleError: A pattern has none.
        """
        raise TypeError(f"{type(self).__name__} must implement select()")

    def build(self, dim: int, like: Tensor) -> Bottleneck:
        """The bottleneck of one branch over tokens of width ``dim``, of the type and on the device of ``like``."""
        raise TypeError(f"{type(self).__name__} must implement build()")

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts a bottleneck behind each branch."""
        attachment = Attachment(encoder)
        hits = self.select(encoder, sites)
        attachment.record(hits)
        self.bottleneck.clear()
        for site in unique(hits):
            module = encoder.get_submodule(site.path)
            like = next(module.parameters())
            bottleneck = self.build(tower_of(encoder, site).spec.dim, like)
            self.bottleneck[key_of(site)] = bottleneck
            attachment.map_output(site, _residual(bottleneck))
        return attachment


def _residual(bottleneck: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda h: h + bottleneck(h)
