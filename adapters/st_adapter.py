"""ST-Adapter: a bottleneck with a depthwise convolution over the tokens' grid, in front of each block.

Pan et al., "ST-Adapter: Parameter-Efficient Image-to-Video Transfer Learning", NeurIPS 2022 (arXiv 2206.13559),
equation 3: ``X <- X + f(DWConv3D(X W_down)) W_up``. The paper's axes are time, height and width; for a volume they are
depth, height and width, an image has a two-dimensional convolution, and tokens along time alone, or along the time of
each channel of an EEG, a one-dimensional one. PyTorch convolves up to three axes. Over the four of functional MRI the
convolution is one over space, then one over time, ``DWConv1D_t(DWConv3D_s(X W_down))``, as R(2+1)D factors three axes
(Tran et al., CVPR 2018), without an activation in between.
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
from medgraft.adapters.parts.axes import CONVOLUTIONS, BlockMaps, convolved, parts_of
from medgraft.adapters.parts.placement import WITH_AXES, DepthGroup, Hits, TokenGrid, select, tower_of
from medgraft.encoder import Encoder
from medgraft.encoder.block_tokens import SPACE, TIME, UNORDERED
from medgraft.encoder.sites import Site
from medgraft.errors import IncompatibleError

Axes = Literal["all", "space", "time"]
KINDS: dict[Axes, str] = {"all": SPACE + TIME, "space": SPACE, "time": TIME}


class GridBottleneck(nn.Module):
    """``f(depthwise(X W_down)) W_up`` over tokens on a grid.

    Of two convolutions the first starts as the identity and the last at zero, so that both learn.

    Args:
        dim: Width of the tokens, ``C``.
        width: Channels inside.
        axes: A letter for each axis of the grid, as in :class:`~medgraft.encoder.block_tokens.BlockTokens`; those of
            space and time are convolved.
        kernel: Length of the convolution's kernel on each axis, odd.
        activation: ``f``.
        like: A weight of the encoder, for type and device.
    """

    def __init__(
        self, dim: int, width: int, axes: str, kernel: int, activation: Literal["gelu", "none"], like: Tensor
    ) -> None:
        super().__init__()
        place = {"dtype": like.dtype, "device": like.device}
        self.parts = parts_of(axes)
        self.down = nn.Linear(dim, width, **place)
        convolutions = [
            CONVOLUTIONS[len(part)](width, width, kernel, padding=kernel // 2, groups=width, **place)
            for part in self.parts
        ]
        self.spatial: nn.Module | None = None
        if len(convolutions) > 1:
            self.spatial = convolutions[0]
            nn.init.dirac_(convolutions[0].weight, groups=width)
            nn.init.zeros_(convolutions[0].bias)
        self.depthwise = convolutions[-1]
        self.up = nn.Linear(width, dim, **place)
        self.activation = activation
        for zero in (self.down.bias, self.depthwise.weight, self.depthwise.bias, self.up.bias):
            assert zero is not None
            nn.init.zeros_(zero)

    def forward(self, places: Tensor) -> Tensor:
        """Map ``[B, C, *grid]`` -> what is added to it, same shape."""
        inside = self.down(places.movedim(1, -1)).movedim(-1, 1)
        if self.spatial is not None:
            inside = convolved(self.spatial, inside, self.parts[0])
        inside = convolved(self.depthwise, inside, self.parts[-1])
        if self.activation == "gelu":
            inside = F.gelu(inside)
        return self.up(inside.movedim(1, -1)).movedim(-1, 1)


class StAdapter(SiteAdapter):
    """One bottleneck per block of towers whose tokens lie in space or along time, in front of its attention.

    The convolution and all biases start at zero, as in the authors' code, so a fresh graft changes nothing. Prefix
    tokens (CLS, registers) have no place on the grid and stay as they are. The paper's ``f`` is read as GELU; the
    authors' code leaves it out (``activation="none"``). Its second position, in front of the MLP, is not offered.
    Channels of an EEG have no order, so nothing is convolved across them; each window of functional MRI is for itself.
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
            axes: What is convolved: ``all`` that the tokens lie in, those of ``space``, or ``time`` alone.
            activation: Of the bottleneck, ``f`` in the paper: ``gelu`` or ``none``.
            depth: Group of blocks.
        """

        reduction: int = Field(2, ge=1)
        kernel: int = Field(3, ge=1)
        axes: Axes = "all"
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
        self._maps: dict[str, BlockMaps] = {}

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Blocks that ``depth`` names, of towers whose tokens lie in space or along time.

        Raises:
            IncompatibleError: There are none, or their tokens do not lie along what ``axes`` names.
        """
        patterns, depth = ("blocks.*",), self.config.depth
        hits = select(encoder, sites, patterns, {"block"}, depth=depth, what="st_adapter", towers=WITH_AXES)
        for tower in {site.tower: tower_of(encoder, site) for found in hits.values() for site in found}.values():
            lie = tower.block_tokens(0)
            if not self._convolved(SPACE if lie is None else lie.axes):
                raise IncompatibleError(
                    f"st_adapter convolves along {self.config.axes}, and tokens of encoder {tower.spec.name} do not "
                    "lie along it; set axes to all"
                )
        return hits

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Puts a bottleneck in front of each block."""
        self._grids, self._maps = {}, {}
        return super().attach(encoder, sites)

    def build(self, encoder: Encoder, site: Site) -> GridBottleneck:
        """The bottleneck in front of one block, over a map ``[B, C, *grid]``."""
        tower, options = tower_of(encoder, site), self.config
        assert site.block is not None
        lie = tower.block_tokens(site.block)
        if lie is not None:
            self._maps[site.name] = BlockMaps(tower, site.block)
            dim, axes = lie.dim, lie.axes
        else:
            if site.tower not in self._grids:
                self._grids[site.tower] = TokenGrid(tower)
            dim, axes = tower.spec.dim, SPACE * len(self._grids[site.tower].shape)
        width = max(dim // options.reduction, 1)
        like = next(tower.parameters())
        return GridBottleneck(dim, width, self._convolved(axes), options.kernel, options.activation, like)

    def _convolved(self, axes: str) -> str:
        """Axes of a grid with those that are not convolved as ones without an order; empty where none is left."""
        kept = "".join(kind if kind in KINDS[self.config.axes] else UNORDERED for kind in axes)
        return kept if set(kept) - {UNORDERED} else ""

    def connect(self, attachment: Attachment, site: Site, module: nn.Module) -> None:
        """Adds what the bottleneck makes of the block's tokens ``[B, N, C]`` to those with a place on the grid."""
        maps = self._maps.get(site.name)
        change = _residual(module, self._grids[site.tower]) if maps is None else _on_maps(module, maps)
        attachment.map_block_input(site, change)


def _residual(bottleneck: nn.Module, grid: TokenGrid) -> Callable[[Tensor], Tensor]:
    def change(x: Tensor) -> Tensor:
        prefix, places = grid.split(x)
        return grid.join(prefix, places + grid.mapped(bottleneck, places))

    return change


def _on_maps(bottleneck: nn.Module, maps: BlockMaps) -> Callable[[Tensor], Tensor]:
    return lambda x: maps.changed(bottleneck, x)
