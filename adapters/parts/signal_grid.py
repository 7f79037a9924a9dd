"""Where adapters of signals sit: blocks whose tokens lie on a grid of channels and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from torch import Tensor, nn

from medgraft.adapter import AdapterConfig
from medgraft.adapter.site_adapter import SiteAdapter
from medgraft.adapters.parts.placement import DepthGroup, Hits, TokenGrid, select, tower_of
from medgraft.attachment.attachment import Attachment
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.errors import IncompatibleError

AXES = ("channel", "time")


class SignalGridConfig(AdapterConfig):
    """Where.

    Attributes:
        depth: Group of blocks.
    """

    depth: DepthGroup = "all"


class SignalGridAdapter(SiteAdapter):
    """Base of adapters that add to the tokens in front of each block what a module makes of them on their grid.

    Prefix tokens (CLS) have no place on the grid and stay as they are.

    Attributes:
        what: Name of the adapter, for errors.
    """

    text_padding = 0
    what: ClassVar[str]
    config: SignalGridConfig

    def __init__(self, config: AdapterConfig | None = None) -> None:
        super().__init__(config)
        self._grids: dict[str, TokenGrid] = {}

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Blocks that ``depth`` names of towers whose tokens lie on a grid of channels and time."""
        fitting = {key: site for key, site in sites.items() if tower_of(encoder, site).token_axes == AXES}
        if not any(site.kind == "block" for site in fitting.values()):
            raise IncompatibleError(
                f"{self.what} acts on tokens on a grid of channels and time inside blocks, and this encoder has none; "
                "braindecode:labram, cbramod and biot have, unless missing='drop'"
            )
        return select(encoder, fitting, ("blocks.*",), {"block"}, depth=self.config.depth, what=self.what)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts a module in front of each block."""
        self._grids = {}
        return super().attach(encoder, sites)

    def build(self, encoder: Encoder, site: Site) -> nn.Module:
        """The module in front of one block, over a map ``[B, C, channels, time]``."""
        tower = tower_of(encoder, site)
        if site.tower not in self._grids:
            self._grids[site.tower] = TokenGrid(tower)
        channels, steps = self._grids[site.tower].shape
        return self.on_grid(site, tower.spec.dim, channels, steps, next(tower.parameters()))

    def on_grid(self, site: Site, dim: int, channels: int, steps: int, like: Tensor) -> nn.Module:
        """The module over a map ``[B, dim, channels, steps]``, which gives what is added to it.

        Args:
            site: The block.
            dim: Width of the tokens.
            channels: Channels of the grid.
            steps: Steps in time of the grid.
            like: A weight of the encoder, for type and device.
        """
        raise TypeError(f"{type(self).__name__} must implement on_grid()")

    def connect(self, attachment: Attachment, site: Site, module: nn.Module) -> None:
        """Adds what the module makes of the block's tokens ``[B, N, C]`` to those with a place on the grid."""
        attachment.map_block_input(site, _residual(module, self._grids[site.tower]))


def _residual(module: nn.Module, grid: TokenGrid) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        prefix, places = grid.split(x)
        return grid.join(prefix, places + module(places))

    return change
