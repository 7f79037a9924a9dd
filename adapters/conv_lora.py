"""Conv-LoRA: LoRA whose low-rank tokens pass a mixture of convolutions, one per scale of the grid.

Zhong et al., "Convolution Meets LoRA: Parameter Efficient Finetuning for Segment Anything Model", ICLR 2024 (arXiv
2401.17868), equations 2 and 3: ``h = W0 x + W_d sum_i G(W_e x)_i E_i(W_e x)``. Expert ``i`` enlarges the map by its
scale ``s_i``, convolves it with a 3 x 3 kernel and shrinks it back, ``E_i(z) = Interp(Conv(Interp(z; s_i)); 1/s_i)``.
There are 8 experts of scales 1 to 8 at rank 3, and one acts on each sample.

The gate is the noisy top-k gate of Shazeer et al., "Outrageously Large Neural Networks: The Sparsely-Gated
Mixture-of-Experts Layer", ICLR 2017 (arXiv 1701.06538), equations 3 to 5, on the mean of the map; its balance losses
(6 to 11) are the adapter's own loss term and the only one that trains a gate with one expert per sample.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import AdapterConfig, Attachment, add_rows
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapter.site_adapter import SiteAdapter
from medgraft.adapters.parts.placement import GRIDDED, DepthGroup, Hits, TokenGrid, check_rank, select, tower_of, unique
from medgraft.attachment.portable import Portable
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.features import Features
from medgraft.world import World

CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)
MODES = ("linear", "bilinear", "trilinear")


class NoisyTopOne(nn.Module):
    """The gate: which expert a sample goes to, and how even the shares are.

    ``H(x) = x W_g + n softplus(x W_n)`` with standard normal ``n`` while training; the sample goes to the largest.

    Args:
        width: Numbers that describe a sample.
        experts: Number of experts, at least 2.
        like: A weight of the encoder, for type and device.
    """

    def __init__(self, width: int, experts: int, like: Tensor) -> None:
        super().__init__()
        # Shazeer et al., appendix A: zeros, so that all experts start with equal shares.
        self.gate = nn.Parameter(like.new_zeros(width, experts))
        self.noise = nn.Parameter(like.new_zeros(width, experts))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``[B, width]`` -> chosen expert ``[B]``, and importance and load ``[2, experts]``, 0 in evaluation mode."""
        clean = x @ self.gate
        if not self.training:
            return clean.argmax(dim=1), clean.new_zeros(2, clean.shape[1])
        deviation = F.softplus(x @ self.noise) + 1e-2
        noisy = clean + torch.randn_like(clean) * deviation
        top, order = noisy.topk(2, dim=1)
        # Probability that an expert stays on top, or gets there, with its noise drawn anew.
        rival = torch.where(F.one_hot(order[:, 0], clean.shape[1]).bool(), top[:, 1:], top[:, :1])
        load = torch.special.ndtr((clean - rival) / deviation).sum(dim=0)
        importance = F.one_hot(order[:, 0], clean.shape[1]).to(load.dtype).sum(dim=0)
        return order[:, 0], torch.stack([importance, load])


def _variation(shares: Tensor) -> Tensor:
    """Squared coefficient of variation."""
    return shares.var(correction=0) / (shares.mean() ** 2 + 1e-10)


class ConvLoraDelta(Portable, nn.Module):
    """The branch of one projection: ``W_d E(W_e x)`` for tokens on a grid, ``W_d W_e x`` for prefix tokens.

    Args:
        weight: Rows of the frozen weight, for shape, type and device.
        rank: Width inside.
        experts: Number of experts; expert ``i`` has scale ``i + 1``.
        grid: How the tokens lie.
    """

    def __init__(self, weight: Tensor, rank: int, experts: int, grid: TokenGrid) -> None:
        super().__init__()
        out, dim = weight.shape
        axes = len(grid.shape)
        self.encode = nn.Parameter(weight.new_empty(rank, dim))
        self.decode = nn.Parameter(weight.new_zeros(out, rank))
        self.kernel = nn.Parameter(weight.new_empty(experts, rank, rank, *(3,) * axes))
        self.bias = nn.Parameter(weight.new_zeros(experts, rank))
        nn.init.kaiming_uniform_(self.encode, a=math.sqrt(5))
        for kernel in self.kernel:
            nn.init.kaiming_uniform_(kernel, a=math.sqrt(5))
        self.gate = NoisyTopOne(rank, experts, weight)
        self.grid = grid
        self.shares: Tensor | None = None

    def expert(self, index: int, places: Tensor) -> Tensor:
        """``E_index`` of a map ``[B, rank, *grid]``."""
        size, axes = places.shape[2:], places.ndim - 2
        settings = {"mode": MODES[axes - 1], "align_corners": False}
        if index:
            places = F.interpolate(places, size=[(index + 1) * length for length in size], **settings)
        places = CONVOLUTIONS[axes - 1](places, self.kernel[index], self.bias[index], padding=1)
        return F.interpolate(places, size=size, **settings) if index else places

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N, in] -> [B, N, out]``."""
        prefix, places = self.grid.split(F.linear(x, self.encode))
        chosen, self.shares = self.gate(self.grid.mean(places).to(self.encode.dtype))
        mixed, samples = [], []
        for index in range(len(self.kernel)):
            mine = (chosen == index).nonzero().flatten()
            if len(mine):
                mixed.append(self.grid.mapped(partial(self.expert, index), places[mine], mine))
                samples.append(mine)
        order = torch.argsort(torch.cat(samples))
        return F.linear(self.grid.join(prefix, torch.cat(mixed)[order]), self.decode)


class ConvLora(SiteAdapter):
    """Conv-LoRA on key and value projections of image and volume towers, or on those that ``targets`` names.

    The paper adapts the query too. Where the CLS token is read, a patch's query in the last block reaches nothing that
    is read, so its experts would never train; hence ``q`` is not a default here.

    ``W_d`` starts at zero, so a fresh graft changes nothing. The paper's encoder has no tokens without a place; here
    such tokens (CLS, registers) take the plain low-rank path. The interpolation is linear, the paper names none.
    Its function is no linear map of the input, so it cannot be merged.
    """

    paper = (
        "Zhong et al., Convolution Meets LoRA: Parameter Efficient Finetuning for Segment Anything Model, ICLR 2024 "
        "(arXiv 2401.17868)"
    )
    licence = "Apache-2.0"
    formula = r"h = W_0 x + W_d \sum_i G(W_e x)_i\, E_i(W_e x)"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    size_knob = SizeKnob("rank")
    search = MappingProxyType({"rank": (1, 2, 3, 6, 12), "balance": (0.0, 0.001, 0.01, 0.1, 1.0)})
    text_padding = 0

    class Config(AdapterConfig):
        """Options.

        Attributes:
            rank: Width inside.
            experts: Number of convolutions; their scales are 1, 2 and so on.
            balance: Weight of the loss that keeps the experts' shares even.
            targets: Patterns of sites: ``q``, ``k``, ``v``, globs of site names.
            depth: Group of blocks.
        """

        rank: int = Field(3, ge=1)
        experts: int = Field(8, ge=2, le=16)
        balance: float = Field(1e-2, ge=0)
        targets: tuple[str, ...] = Field(("k", "v"), min_length=1)
        depth: DepthGroup = "all"

    config: Config
    modules_name = "delta"
    delta: nn.ModuleDict

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._grids: dict[str, TokenGrid] = {}

    def select(self, encoder: Encoder, sites: Mapping[str, Site]) -> Hits:
        """Projections of image and volume towers of transformer blocks that ``targets`` names."""
        targets, depth = self.config.targets, self.config.depth
        hits = select(encoder, sites, targets, {"projection"}, depth=depth, what="conv_lora", towers=GRIDDED)
        for site in unique(hits):
            check_rank(self.config.rank, _weight(encoder, site).shape, site)
        return hits

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds one branch per projection."""
        self._grids = {}
        return super().attach(encoder, sites)

    def build(self, encoder: Encoder, site: Site) -> ConvLoraDelta:
        """The branch of one projection, ``[B, N, in] -> [B, N, out]``."""
        if site.tower not in self._grids:
            self._grids[site.tower] = TokenGrid(tower_of(encoder, site))
        weight = _weight(encoder, site).detach()
        rows = weight if site.rows is None else weight[site.rows]
        return ConvLoraDelta(rows, self.config.rank, self.config.experts, self._grids[site.tower])

    def connect_all(self, attachment: Attachment, modules: Sequence[tuple[Site, nn.Module]]) -> None:
        """Adds each branch to its projection; those of one fused attention are added together."""
        fused: dict[str, list[tuple[Site, nn.Module]]] = {}
        for site, delta in modules:
            if site.in_mha:
                fused.setdefault(site.path, []).append((site, delta))
            else:
                attachment.add_to_output(site, delta)
        for path, branches in fused.items():
            attachment.map_projection(path, _sum(branches))

    def extra_loss(self, outputs: Mapping[str, Features]) -> Tensor | None:
        """Balance losses of the gates in the last pass: their weighted sum, a scalar; ``None`` in evaluation."""
        branches = [delta for delta in self.delta.values() if isinstance(delta, ConvLoraDelta)]
        shares = [delta.shares for delta in branches if delta.shares is not None]
        if not self.training or not shares or self.config.balance == 0:
            return None
        whole = World().sum(torch.stack(shares))  # of a batch that several processes run
        return self.config.balance * torch.stack([_variation(each) for each in whole.flatten(0, 1)]).sum()


def _weight(encoder: Encoder, site: Site) -> Tensor:
    """Weight at a projection, ``[out, in]``, packed where a layer packs several."""
    module = encoder.get_submodule(site.path)
    weight = module.in_proj_weight if isinstance(module, nn.MultiheadAttention) else module.weight
    assert isinstance(weight, Tensor)
    return weight


def _sum(branches: list[tuple[Site, nn.Module]]) -> Callable[[Tensor, Tensor], Tensor]:
    def change(x: Tensor, packed: Tensor) -> Tensor:
        for site, delta in branches:
            packed = add_rows(packed, delta(x), site.rows)
        return packed

    return change
