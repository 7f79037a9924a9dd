"""Channel mixing for signals: a low-rank map across channels, in front of each block.

Ours, after the maps across tokens of Tolstikhin et al., "MLP-Mixer: An all-MLP Architecture for Vision", NeurIPS 2021
(arXiv 2105.01601), with the low rank of Hu et al., "LoRA", ICLR 2022 (arXiv 2106.09685). Of each token in time and each
group ``g`` of the width, ``X_g <- X_g + U_g V_g^T X_g``, where the rows of ``X_g`` are the channels of the signal:
spatial filters, as those that EEGNet (Lawhern et al., 2018) learns from the signal itself.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.signal_grid import SignalGridAdapter, SignalGridConfig
from medgraft.encoder.sites import Site
from medgraft.errors import IncompatibleError


class LowRankMixing(nn.Module):
    """``U_g V_g^T X_g`` for each group of the width, over tokens on a grid of channels and time.

    Args:
        groups: Groups ``g`` of the width.
        channels: Channels of the signal, ``E``.
        rank: Columns of ``U`` and ``V``.
        like: A weight of the encoder, for type and device.
    """

    def __init__(self, groups: int, channels: int, rank: int, like: Tensor) -> None:
        super().__init__()
        place = {"dtype": like.dtype, "device": like.device}
        self.groups = groups
        self.read = nn.Parameter(torch.randn(groups, channels, rank, **place) / channels**0.5)
        self.write = nn.Parameter(torch.zeros(groups, channels, rank, **place))

    def forward(self, places: Tensor) -> Tensor:
        """Map ``[B, C, channels, time]`` -> what is added to it, same shape."""
        parts = places.unflatten(1, (self.groups, -1))
        sources = torch.einsum("bgcet,ger->bgcrt", parts, self.read)
        return torch.einsum("bgcrt,ger->bgcet", sources, self.write).flatten(1, 2)


class ChannelMixing(SignalGridAdapter):
    """One low-rank map across the channels of a signal per block and group of the width, the same at all times.

    ``U`` begins at zero, so a fresh graft changes nothing; ``V`` as normal numbers of variance ``1 / E``. Channels are
    told apart by their place in the encoder's list, so the adapter is for one montage.
    """

    paper = (
        "medgraft's own, after Tolstikhin et al., MLP-Mixer, NeurIPS 2021 (arXiv 2105.01601), and Hu et al., LoRA, "
        "ICLR 2022 (arXiv 2106.09685)"
    )
    licence = "Apache-2.0"
    formula = r"X_g \leftarrow X_g + U_g V_g^\top X_g"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 6})
    size_knob = SizeKnob("rank")
    search = MappingProxyType({"rank": (1, 2, 3, 4, 8)})

    class Config(SignalGridConfig):
        """Options.

        Attributes:
            rank: Columns of ``U`` and ``V``, at most the channels.
            groups: Groups of the width that have a map of their own; they divide the width.
            depth: Group of blocks.
        """

        rank: int = Field(3, ge=1)
        groups: int = Field(4, ge=1)

    config: Config
    modules_name = "mixing"
    what = "channel_mixing"

    def on_grid(self, site: Site, dim: int, channels: int, steps: int, like: Tensor) -> LowRankMixing:
        """The map in front of one block, over ``[B, dim, channels, steps]``.

        Raises:
            IncompatibleError: The rank exceeds the channels, or the groups do not divide the width.
        """
        rank, groups = self.config.rank, self.config.groups
        if rank > channels:
            raise IncompatibleError(f"rank {rank} exceeds the {channels} channels at {site.name}; choose no more")
        if dim % groups:
            raise IncompatibleError(f"{groups} groups do not divide the width {dim} of {site.name}; choose a divisor")
        return LowRankMixing(groups, channels, rank, like)
