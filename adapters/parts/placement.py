"""Where adapters sit: sites of some kinds, by pattern and by depth, and the grid that a tower's tokens lie on."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medgraft.adapters.parts.real_slices import on_real_slices
from medgraft.attachment.blank_run import trace_features
from medgraft.attachment.portable import Portable
from medgraft.encoder import Encoder
from medgraft.encoder.block_tokens import SPACE, TIME
from medgraft.encoder.sites import Site, match_sites
from medgraft.encoder.towers import Reading, grid_axes, reads_text, towers_reading
from medgraft.errors import ConfigError, IncompatibleError

Hits = dict[str, list[Site]]
DepthGroup = Literal["all", "bottom", "mid", "up", "half_bottom", "half_up", "top3"]
WORDS = {
    "block": "transformer block",
    "branch": "attention or MLP of a transformer block",
    "layer": "linear map or convolution",
    "norm": "norm",
    "projection": "query, key or value projection",
}


@dataclass(frozen=True)
class Towers:
    """Which towers an adapter can sit in.

    Attributes:
        fits: Says so of a tower.
        words: Where its sites then are, behind what they are: ``" of an image or volume tower"``.
    """

    fits: Callable[[Encoder], bool]
    words: str


def depth_range(group: DepthGroup, depth: int) -> range:
    """Blocks that a depth group names, scaled from 12 blocks: ``bottom`` is the first third, ``mid`` the second.

    Example:
        >>> depth_range("up", 12), depth_range("half_bottom", 12), depth_range("top3", 12)
        (range(8, 12), range(0, 6), range(9, 12))
    """
    third, half = depth // 3, depth // 2
    return {
        "all": range(depth),
        "bottom": range(third),
        "mid": range(third, 2 * third),
        "up": range(2 * third, depth),
        "half_bottom": range(half),
        "half_up": range(half, depth),
        "top3": range(max(depth - 3, 0), depth),
    }[group]


def check_rank(rank: int, shape: Sequence[int], site: Site) -> None:
    """Refuses a rank above the width of a layer, whose update cannot have more.

    Args:
        rank: The rank.
        shape: Of the layer's weight, ``(out, in, ...)``.
        site: Where it is; of a packed weight only its rows count.

    Raises:
        IncompatibleError: The rank exceeds the smaller of what goes in and what comes out.
    """
    rows = shape[0] if site.rows is None else site.rows.stop - site.rows.start
    width = min(rows, math.prod(shape[1:]))
    if rank > width:
        raise IncompatibleError(f"rank {rank} exceeds the width {width} of {site.name}; choose {width} or less")


def tower_of(encoder: Encoder, site: Site) -> Encoder:
    """The tower that a site lies in."""
    return encoder.towers()[site.tower] if site.tower else encoder


def towers_with_features(
    encoder: Encoder, sites: Mapping[str, Site], modality: Reading
) -> dict[str, tuple[Encoder, Site]]:
    """Towers of a modality, with the site of their features; ``visual`` is all but text."""
    features = [site for site in sites.values() if site.kind == "features"]
    return {
        name: (tower, next(site for site in features if site.tower in ("", name)))
        for name, tower in towers_reading(encoder, modality).items()
    }


def trained_dtype(tower: Encoder) -> torch.dtype:
    """Type of parameters trained beside a tower: its own, but float32 at least."""
    return torch.promote_types(tower.dtype, torch.float32)


def in_depth(encoder: Encoder, site: Site, group: DepthGroup) -> bool:
    """Whether a site lies in a depth group of its tower; sites outside of blocks belong to ``all`` only."""
    if group == "all":
        return True
    tower = tower_of(encoder, site)
    blocks = max(len(tower.block_paths()), len(tower.attention))  # a text tower may name no module per block
    return site.block is not None and site.block in depth_range(group, blocks)


def select(
    encoder: Encoder,
    sites: Mapping[str, Site],
    patterns: Sequence[str],
    kinds: Collection[str],
    *,
    depth: DepthGroup,
    what: str,
    towers: Towers | None = None,
) -> Hits:
    """Sites of some kinds that patterns name.

    Args:
        encoder: The encoder that offers the sites.
        sites: ``encoder.sites()``.
        patterns: As for :func:`medgraft.encoder.sites.match_sites`.
        kinds: Kinds of sites that the adapter can sit at; others that a pattern hits are passed over.
        depth: Group of blocks.
        what: Name of the adapter, for errors.
        towers: Which towers; all unless given.

    Returns:
        Pattern -> sites.

    Raises:
        IncompatibleError: A pattern has no site left.
    """
    kind_names = " or ".join(WORDS[kind] for kind in WORDS if kind in kinds)
    within = {site.name for site in sites.values() if towers is None or towers.fits(tower_of(encoder, site))}
    place = towers.words if towers is not None else ""
    if not any(site.kind in kinds and site.name in within for site in sites.values()):
        raise IncompatibleError(f"{what} sits at each {kind_names}{place}, and this encoder has none that it can find")
    hits = match_sites(sites, patterns, f"{what}.targets")
    for pattern, matches in hits.items():
        hits[pattern] = [
            site for site in matches if site.kind in kinds and site.name in within and in_depth(encoder, site, depth)
        ]
        if not hits[pattern]:
            raise IncompatibleError(
                f"{what}.targets: {pattern!r} matches {matches[0].name} and the like, but no {kind_names}{place} in "
                f"depth group {depth!r}"
            )
    return hits


def unique(hits: Hits) -> list[Site]:
    """Each site once, in the encoder's order within a pattern."""
    return list({site.name: site for matches in hits.values() for site in matches}.values())


def key_of(site: Site) -> str:
    """A site's name as the key of a module, which has no dot."""
    return site.key


def has_grid(tower: Encoder) -> bool:
    """Whether a tower's tokens lie on the grid of an image or a volume, and can be told apart from blocks of a CNN."""
    return grid_axes(tower) > 0 and len(tower.attention) > 0


def has_axes(tower: Encoder) -> bool:
    """Whether the tokens in front of its blocks lie on the grid of an image or a volume, or along space or time."""
    if not tower.block_paths():
        return False
    lie = tower.block_tokens(0)
    return has_grid(tower) if lie is None else bool({SPACE, TIME} & set(lie.axes))


def has_tokens(tower: Encoder) -> bool:
    """Whether its blocks read tokens, and it no text: it says where their attention is, or how they lie."""
    if reads_text(tower) or not tower.block_paths():
        return False
    return len(tower.attention) > 0 or tower.block_tokens(0) is not None


GRIDDED = Towers(has_grid, " of an image or volume tower")
WITH_AXES = Towers(has_axes, " of an image or volume tower, or of another whose tokens lie along time")
TOKENS = Towers(has_tokens, " of an image or volume tower, or of another that reads no text")


class TokenGrid(Portable):
    """How the tokens of a tower lie: ``n_prefix`` ones without a place, then one per cell of ``shape``.

    Told by the tower, or learnt from one run of it on a blank sample. Where blocks run on slices (``tower.sliced``),
    the slices of a sample are put on one grid, and their tokens without a place stay with them.
    """

    def __init__(self, tower: Encoder) -> None:
        self.name = tower.spec.name
        if tower.block_grid is not None:
            self.n_prefix, self.shape = tower.block_grid
        else:
            features = trace_features(tower)
            self.n_prefix, self.shape = features.n_prefix, tuple(features.grid)
        self.slices = tower.sliced
        self._real = lambda: tower.real_slices  # of the tower that runs, in a copy of the graft its own

    def split(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens ``[B, N, C]`` -> prefix ``[B, n_prefix, C]`` and map ``[B, C, *shape]``.

        Of a tower on ``S`` slices, ``[B S, N / S, C]`` -> ``[B S, n_prefix / S, C]`` and the same map.

        Raises:
            ConfigError: The tokens are not as many, since another adapter adds or drops some.
        """
        B, N, C = tokens.shape
        n_prefix = self.n_prefix // self.slices
        if self.n_prefix + math.prod(self.shape) != N * self.slices:
            raise ConfigError(
                f"encoder {self.name}: {N * self.slices} tokens reach an adapter that needs {self.n_prefix} and a grid "
                f"of {self.shape}; leave out the other adapter that adds tokens"
            )
        places = tokens[:, n_prefix:].reshape(B // self.slices, -1, C).transpose(1, 2)
        return tokens[:, :n_prefix], places.reshape(B // self.slices, C, *self.shape)

    def mapped(self, function: Callable[[Tensor], Tensor], places: Tensor, samples: Tensor | None = None) -> Tensor:
        """A function of maps that mixes places; padded slices take no part in it and hold 0 afterwards.

        Args:
            function: ``[b, C, *any] -> [b, C', *any]``.
            places: Map ``[b, C, *shape]``.
            samples: Which samples of the running batch these are, ``[b]``; ``None`` for all.
        """
        real = self._real()
        if real is None:
            return function(places)
        return on_real_slices(function, places, real if samples is None else real[samples])

    def mean(self, places: Tensor) -> Tensor:
        """Mean over the real places of a map, ``[B, C, *shape] -> [B, C]``."""
        real = self._real()
        if real is None:
            return places.flatten(2).mean(dim=2)
        by_slice = places.flatten(3).mean(dim=3).masked_fill(~real[:, None], 0.0)
        return by_slice.sum(dim=2) / real.sum(dim=1)[:, None]

    def join(self, prefix: Tensor, places: Tensor) -> Tensor:
        """The inverse of :meth:`split`: ``[B, n_prefix, C]`` and ``[B, C, *shape]`` -> ``[B, N, C]``.

        Of a tower on ``S`` slices, ``[B S, n_prefix / S, C]`` and the same map -> ``[B S, N / S, C]``.
        """
        rows = places.flatten(2).transpose(1, 2).reshape(len(prefix), -1, places.shape[1])
        return torch.cat([prefix, rows], dim=1)
