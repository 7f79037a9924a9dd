"""DIVER's network: full attention over channels and time with registers, indifferent to the order of the channels.

"DIVER-0: A Fully Channel Equivariant EEG Foundation Model" (arXiv 2507.14141), and Han et al., "DIVER-1:
Deep Integration of Vast Electrophysiological Recordings at Scale" (arXiv 2512.19097). Written from the papers: names of
parameters are this project's, and the authors' weights, which carry no licence, do not load.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medgraft.encoders.parts.diver.attention import EPS, HEAD_DIM, Block, grid_places
from medgraft.encoders.parts.diver.embedding import (
    ElectrodePosition,
    PatchEncoder,
    SlidingPosition,
    Spectral,
    check_width,
)
from medgraft.errors import ConfigError


class Diver(nn.Module):
    """The encoder, without a head.

    Where the papers leave a number open, it is this: registers are three learnt vectors, of the whole, of a channel and
    of a time, and stand at place 0 of the axes that they sum up; matrices start with a variance of 1 / fan-in, as muP
    asks; the last norm is a root-mean-square norm too.

    Args:
        dim: Width of a token, a multiple of 64.
        depth: Blocks.
        patch: Samples of a patch at 500 Hz, 500 or 50.

    Raises:
        ConfigError: A number does not fit.

    Example:
        >>> network = Diver(64, 1)
        >>> network(torch.zeros(1, 3, 1000), torch.full((3, 3), float("nan"))).shape
        torch.Size([1, 12, 64])
    """

    def __init__(self, dim: int, depth: int, patch: int = 500) -> None:
        super().__init__()
        check_width(dim, depth, patch)
        self.dim, self.depth, self.patch = dim, depth, patch
        self.patches = PatchEncoder(dim, patch)
        self.spectral = Spectral(dim)
        self.electrode = ElectrodePosition(dim)
        self.sliding = SlidingPosition(dim)
        self.registers = nn.Parameter(torch.randn(3, dim))
        self.blocks = nn.ModuleList(Block(dim, dim // HEAD_DIM) for _ in range(depth))
        self.norm = nn.RMSNorm(dim, eps=EPS)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def embed(self, x: Tensor, xyz: Tensor, modality: Tensor | None = None, subtype: Tensor | None = None) -> Tensor:
        """Recordings -> tokens of the first block, ``[B, (C + 1) * (N + 1), dim]``, registers first.

        Args:
            x: Microvolts at 500 Hz, ``[B, C, N * patch]``.
            xyz: Places of the electrodes in millimetres, ``[C, 3]`` or ``[B, C, 3]``; ``nan`` where unknown.
            modality: Kind of recording, ``int64 [C]`` or ``[B, C]``; EEG unless given.
            subtype: Kind of electrode, likewise; scalp unless given.

        Raises:
            ConfigError: ``x`` is no whole number of patches.
        """
        if x.ndim != 3 or x.shape[2] < self.patch or x.shape[2] % self.patch:
            raise ConfigError(f"DIVER takes [B, C, N * {self.patch}], got {list(x.shape)}")
        zeros = torch.zeros(xyz.shape[:-1], dtype=torch.long, device=x.device)
        position = self.electrode(xyz, zeros if modality is None else modality, zeros if subtype is None else subtype)
        tokens = self.patches(x)
        tokens = tokens + self.spectral(tokens) + position.unsqueeze(-2).to(tokens.dtype)
        tokens = tokens + self.sliding(tokens)
        B, C, N, _ = tokens.shape
        whole, channel, time = (each.expand(B, n, -1) for each, n in zip(self.registers, (1, C, N), strict=True))
        return torch.cat([whole, channel, time, tokens.flatten(1, 2)], dim=1)

    def forward(self, x: Tensor, xyz: Tensor, modality: Tensor | None = None, subtype: Tensor | None = None) -> Tensor:
        """Tokens behind the last norm, ``[B, (C + 1) * (N + 1), dim]``; see :meth:`embed`."""
        places = grid_places(x.shape[1], x.shape[2] // self.patch, x.device)
        x = self.embed(x, xyz, modality, subtype)
        for block in self.blocks:
            x = block(x, places)
        return self.norm(x)
