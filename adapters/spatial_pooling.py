"""Spatial pooling: average neighbouring tokens, then a small MLP; the baseline of every learned resampler.

Bai et al., "M3D: Advancing 3D Medical Image Analysis with Multi-Modal Large Language Models", 2024
(arXiv 2404.00578): CLS is dropped, the tokens are laid out on their grid (8 x 16 x 16), averaged over cubes of
2 x 2 x 2 and mapped by ``Linear, GELU, Linear``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from medgraft.adapter import Adapter, AdapterConfig, Attachment, Support
from medgraft.adapter.knobs import SizeKnob
from medgraft.adapters.parts.placement import towers_with_features, trained_dtype
from medgraft.adapters.parts.real_slices import by_depth
from medgraft.encoder import Encoder
from medgraft.encoder.sites import Site
from medgraft.encoder.towers import reads_text, towers_reading
from medgraft.errors import ConfigError
from medgraft.fast.convolution import average_pool_3d
from medgraft.features import Condenser, Features

Pooling = Literal["spatial", "sequence"]


def pool_grid(tokens: Tensor, grid: Sequence[int], size: int = 2) -> tuple[Tensor, tuple[int, ...]]:
    """Averages cubes of ``size`` tokens per axis; what is left over at the end of an axis is dropped.

    Args:
        tokens: ``[B, N, C]`` without a prefix, the last axis of the grid fastest.
        grid: ``N`` as one to three axes; an axis shorter than ``size`` is averaged whole.
        size: Tokens per axis.

    Returns:
        ``[B, M, C]`` and the grid of the result.

    Raises:
        ConfigError: The grid has other than one to three axes, or does not hold ``N`` tokens.
    """
    if not 1 <= len(grid) <= 3 or math.prod(grid) != tokens.shape[1]:
        raise ConfigError(f"{tokens.shape[1]} tokens do not fill a grid {tuple(grid)} of one to three axes")
    maps = tokens.transpose(1, 2).unflatten(2, tuple(grid))
    average = (F.avg_pool1d, F.avg_pool2d, average_pool_3d)[len(grid) - 1]
    maps = average(maps, tuple(min(size, length) for length in grid))  # pyright: ignore[reportArgumentType]
    return maps.flatten(2).transpose(1, 2), tuple(maps.shape[2:])


class SpatialPooling(nn.Module):
    """Pools tokens and projects them; the keys ``projector.{0,2,...}`` are M3D's.

    Args:
        dim: Token width.
        out_dim: Width of the result.
        size: Tokens per axis that become one.
        layers: Linear maps, with a GELU between any two.
        pooling: ``spatial`` averages cubes of the grid; ``sequence`` averages ``size ** axes`` neighbours of the
            flattened order.

    Example:
        >>> import torch
        >>> tokens, grid = SpatialPooling(8, 12)(torch.randn(2, 64, 8), (4, 4, 4))
        >>> tokens.shape, grid
        (torch.Size([2, 8, 12]), (2, 2, 2))
    """

    def __init__(self, dim: int, out_dim: int, size: int = 2, layers: int = 2, pooling: Pooling = "spatial") -> None:
        super().__init__()
        self.size = size
        self.pooling = pooling
        parts: list[nn.Module] = [nn.Linear(dim, out_dim)]
        for _ in range(1, layers):
            parts += [nn.GELU(), nn.Linear(out_dim, out_dim)]
        self.projector = nn.Sequential(*parts)

    def forward(self, tokens: Tensor, grid: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
        """``[B, N, dim]`` without a prefix -> ``[B, M, out_dim]`` and its grid."""
        pooled, shape = self.pooled(tokens, grid)
        return self.projector(pooled), shape

    def pooled(self, tokens: Tensor, grid: Sequence[int]) -> tuple[Tensor, tuple[int, ...]]:
        """What comes before the first parameter: ``[B, N, dim]`` -> ``[B, M, dim]`` and its grid."""
        if self.pooling == "spatial":
            return pool_grid(tokens, grid, self.size)
        window = min(self.size ** len(grid), tokens.shape[1])
        pooled = F.avg_pool1d(tokens.transpose(1, 2), window).transpose(1, 2)
        return pooled, (pooled.shape[1],)

    def of_real(self, tokens: Tensor, grid: Sequence[int], mask: Tensor) -> tuple[Tensor, tuple[int, ...], Tensor]:
        """The same for volumes of different depth, each as if its padded slices were not there.

        Args:
            tokens: ``[B, N, dim]`` without a prefix.
            grid: ``(S, h, w)``.
            mask: ``[B, N]``, true in all or in none of a slice's tokens; each volume has a real slice.

        Returns:
            ``[B, M, out_dim]``, zero behind the tokens of a short volume, the grid of ``M``, and which are real
            ``[B, M]``.
        """
        by_slice, real = tokens.unflatten(1, (grid[0], -1)), mask.unflatten(1, (grid[0], -1)).all(dim=2)
        whole, shape = self(torch.zeros_like(tokens[:1]), grid)
        out = whole.new_zeros(tokens.shape[0], *whole.shape[1:])
        filled = torch.zeros_like(out[..., 0], dtype=torch.bool)
        for samples, slices in by_depth(real):
            real_tokens = by_slice[samples[:, None], slices].flatten(1, 2)
            pooled, _ = self(real_tokens, (slices.shape[1], *grid[1:]))
            out[samples, : pooled.shape[1]] = pooled
            filled[samples, : pooled.shape[1]] = True
        return out, shape, filled


class SpatialPoolingAdapter(Adapter):
    """Spatial pooling of a visual tower's output tokens; the head reads the mean of the result.

    The projection starts at random values, so a fresh graft does not equal the encoder (``identity_at_init`` is
    false), as published.
    """

    paper = (
        "Bai et al., M3D: Advancing 3D Medical Image Analysis with Multi-Modal Large Language Models, 2024 (arXiv "
        "2404.00578)"
    )
    licence = "Apache-2.0"
    formula = r"y = W_2\, \mathrm{GELU}(W_1\, \mathrm{avgpool}(x))"
    train_defaults = MappingProxyType({"lr": 0.001, "epochs": 8})
    size_knob = SizeKnob("out_dim")
    search = MappingProxyType({"size": (1, 2, 3, 4, 5)})
    text_padding = 0
    identity_at_init = False

    class Config(AdapterConfig):
        """Options.

        Attributes:
            size: Tokens per axis that become one.
            layers: Linear maps of the projection.
            out_dim: Width of the result; ``None`` keeps the tower's.
            pooling: ``spatial`` (cubes of the grid) or ``sequence`` (neighbours in the flattened order).
        """

        size: int = Field(2, ge=1)
        layers: int = Field(2, ge=1)
        out_dim: int | None = Field(None, ge=1)
        pooling: Pooling = "spatial"

    config: Config

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self.pooling = nn.ModuleDict()

    def supports(self, encoder: Encoder) -> Support:
        """Fits every encoder with a visual tower whose tokens lie along one to three axes."""
        visual = towers_reading(encoder, "visual")
        if not visual:
            return Support(False, "it reads text only; spatial pooling needs the token grid of images or volumes")
        if many := [name for name, tower in visual.items() if len(tower.spec.input_size) > 3]:
            return Support(False, f"tokens of {many[0]} lie along more than three axes; spatial pooling averages three")
        return Support(True)

    def attach(self, encoder: Encoder, sites: Mapping[str, Site]) -> Attachment:
        """Adds pooling and projection to the features of each visual tower."""
        attachment, config = Attachment(encoder), self.config
        for name, (tower, site) in towers_with_features(encoder, sites, "visual").items():
            attachment.record({"features": [site]})
            pooling = SpatialPooling(
                tower.spec.dim, config.out_dim or tower.spec.dim, config.size, config.layers, config.pooling
            )
            self.pooling[name] = pooling.to(trained_dtype(tower))
            attachment.map_features(tower, _pool(pooling))
        return attachment

    def precompute(self, tower: Encoder) -> Condenser | None:
        """The pooled tokens, where no slices are padded."""
        if reads_text(tower):
            return None
        key, pooling = (
            f"spatial_pooling size={self.config.size} {self.config.pooling}",
            self.pooling[tower.spec.modality],
        )
        assert isinstance(pooling, SpatialPooling)

        def apply(features: Features) -> Features:
            if features.mask is not None:
                return features
            tokens, grid = pooling.pooled(features.tokens[:, features.n_prefix :], features.grid)
            return Features(tokens=tokens, pooled=features.pooled, n_prefix=0, grid=grid, condensed=key)

        return Condenser(key, apply)


def _pool(pooling: SpatialPooling):
    def pool(features: Features) -> Features:
        tokens = features.tokens[:, features.n_prefix :].to(next(pooling.parameters()).dtype)
        if features.mask is None:
            tokens, grid = (
                (pooling.projector(tokens), features.grid) if features.condensed else pooling(tokens, features.grid)
            )
            return Features(tokens=tokens, pooled=tokens.mean(dim=1), n_prefix=0, grid=grid)
        tokens, grid, mask = pooling.of_real(tokens, features.grid, features.mask[:, features.n_prefix :])
        pooled = tokens.sum(dim=1) / mask.sum(dim=1)[:, None]
        return Features(tokens=tokens, pooled=pooled, n_prefix=0, grid=grid, mask=mask)

    return pool
