"""Where adapters of signals sit: blocks whose tokens lie on a grid of channels and time."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from medgraft.adapter import AdapterConfig
from medgraft.adapter.site_adapter import SiteAdapter
from medgraft.adapters.parts.axes import BlockMaps
from medgraft.adapters.parts.placement import DepthGroup, Hits, select, tower_of
from medgraft.attachment.attachment import Attachment
from medgraft.encoder import Encoder
from medgraft.encoder.block_tokens import TIME, UNORDERED
from medgraft.encoder.sites import Site
from medgraft.errors import IncompatibleError

AXES = UNORDERED + TIME


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
        self._maps: dict[str, BlockMaps] = {}

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Blocks that ``depth`` names of towers whose tokens lie on a grid of channels and time."""
        fitting = {key: site for key, site in sites.items() if _on_grid(encoder, site)}
        if not fitting:
            raise IncompatibleError(
                f"{self.what} acts on tokens on a grid of channels and time inside blocks, and this encoder has none; "
                "braindecode:labram, cbramod and biot, and diver have, unless missing='drop'"
            )
        return select(encoder, fitting, ("blocks.*",), {"block"}, depth=self.config.depth, what=self.what)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts a module in front of each block."""
        self._maps = {}
        return super().attach(encoder, sites)

    def build(self, encoder: Encoder, site: Site) -> nn.Module:
        """The module in front of one block, over a map ``[B, C, channels, time]``."""
        tower = tower_of(encoder, site)
        assert site.block is not None
        lie = tower.block_tokens(site.block)
        assert lie is not None, "as selected"
        self._maps[site.name] = BlockMaps(tower, site.block)
        channels, steps = lie.grid
        return self.on_grid(site, lie.dim, channels, steps, next(tower.parameters()))

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
        attachment.map_block_input(site, functools.partial(self._maps[site.name].changed, module))


def _on_grid(encoder: Encoder, site: Site) -> bool:
    """Whether a site is a block of tokens by channel and time, which all samples have."""
    lie = tower_of(encoder, site).block_tokens(site.block) if site.kind == "block" and site.block is not None else None
    return lie is not None and lie.axes == AXES and not lie.varying
