"""ST-Adapter: a bottleneck with a depthwise convolution over the tokens' grid, in front of each block.

Pan et al., "ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning", NeurIPS 2022 (arXiv 2206.13559),
equation 3: ``X <- X + f(DWConv3D(X W_down)) W_up``. The paper's axes are time, height and width; for a volume they are
depth, height and width, and an image has a two-dimensional convolution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from medgraft.adapter import AdapterConfig, Attachment
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapter.site_adapter import SiteAdapter
from medgraft.adapters.parts.placement import DepthGroup, Hits, TokenGrid, select, tower_of
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site


class GridBottleneck(nn.Module):
    """``f(depthwise(X W_down)) W_up`` over tokens on a grid.

    Args:
        dim: Width of the tokens, ``C``.
        width: Channels inside.
        rank: Axes of the grid, 1 to 3.
        kernel: Length of the convolution's kernel on each axis, odd.
        activation: ``f``.
        like: A weight of the encoder, for type and device.
    """

    def __init__(
        self, dim: int, width: int, rank: int, kernel: int, activation: Literal["gelu", "none"], like: Tensor
    ) -> None:
        super().__init__()
        place = {"dtype": like.dtype, "device": like.device}
        convolution = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[rank - 1]
        self.down = nn.Linear(dim, width, **place)
        self.depthwise = convolution(width, width, kernel, padding=kernel // 2, groups=width, **place)
        self.up = nn.Linear(width, dim, **place)
        self.activation = activation
        for zero in (self.down.bias, self.depthwise.weight, self.depthwise.bias, self.up.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, places: Tensor) -> Tensor:
        """Map ``[B, C, *grid]`` -> what is added to it, same shape."""
        inside = self.depthwise(self.down(places.movedim(1, -1)).movedim(-1, 1))
        if self.activation == "gelu":
            inside = F.gelu(inside)
        return self.up(inside.movedim(1, -1)).movedim(-1, 1)


class StAdapter(SiteAdapter):
    """One bottleneck per block of the image and volume towers, in front of its attention.

    The convolution and all biases start at zero, as in the authors' code, so a fresh graft changes nothing. Prefix
    tokens (CLS, registers) have no place on the grid and stay as they are. The paper's ``f`` is read as GELU; the
    authors' code leaves it out (``activation="none"``). Its second position, in front of the MLP, is not offered.
    """

    paper = (
        "Pan et al., ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning, NeurIPS 2022 (arXiv 2206.13559)"
    )
    licence = "Apache-2.0"
    formula = r"X \leftarrow X + f(\mathrm{DWConv}(X W_{down}))\, W_{up}"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    size_knob = SizeKnob("reduction", shrinks=True)
    search = MappingProxyType({"reduction": (1, 2, 4, 8, 16)})
    text_padding = 0

    class Config(AdapterConfig):
        """Options.

        Attributes:
            reduction: Width of the tokens over the channels inside; 2 in the paper (384 of 768).
            kernel: Length of the kernel on each axis, odd.
            activation: Of the bottleneck, ``f`` in the paper: ``gelu`` or ``none``.
            depth: Group of blocks.
        """

        reduction: int = Field(2, ge=1)
        kernel: int = Field(3, ge=1)
        activation: Literal["gelu", "none"] = "gelu"
        depth: DepthGroup = "all"

        @field_validator("kernel")
        @classmethod
        def _odd(cls, value: int) -> int:
            if value % 2 == 0:
                raise ValueError("must be odd, so that the grid keeps its size")
            return value

    config: Config
    modules_name = "bottleneck"

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._grids: dict[str, TokenGrid] = {}

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Blocks of image and volume towers that ``depth`` names."""
        patterns, depth = ("blocks.*",), self.config.depth
        return select(encoder, sites, patterns, {"block"}, depth=depth, what="st_adapter", gridded=True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts a bottleneck in front of each block."""
        self._grids = {}
        return super().attach(encoder, sites)

    def build(self, encoder: Encoder, site: Site) -> GridBottleneck:
        """The bottleneck in front of one block, over a map ``[B, C, *grid]``."""
        tower, options = tower_of(encoder, site), self.config
        if site.tower not in self._grids:
            self._grids[site.tower] = TokenGrid(tower)
        dim, axes = tower.spec.dim, len(self._grids[site.tower].shape)
        width = max(dim // options.reduction, 1)
        return GridBottleneck(dim, width, axes, options.kernel, options.activation, next(tower.parameters()))

    def connect(self, attachment: Attachment, site: Site, module: nn.Module) -> None:
        """Adds what the bottleneck makes of the block's tokens ``[B, N, C]`` to those with a place on the grid."""
        attachment.map_block_input(site, _residual(module, self._grids[site.tower]))


def _residual(bottleneck: nn.Module, grid: TokenGrid) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        prefix, places = grid.split(x)
        return grid.join(prefix, places + grid.mapped(bottleneck, places))

    return change
