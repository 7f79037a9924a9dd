"""Convolutions along some axes of tokens, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from medgraft.attachment.portable import Portable
from medgraft.encoder import Encoder
from medgraft.encoder.block_tokens import SPACE, TIME
from medgraft.errors import ConfigError

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MOST = max(CONVOLUTIONS)


def parts_of(axes: str) -> list[list[int]]:
    """Axes that are convolved together, by number: all at once up to three, of more those of space, then that of time.

    Example:
        >>> parts_of("sss"), parts_of("ct"), parts_of("ssst")
        ([[0, 1, 2]], [[1]], [[0, 1, 2], [3]])
    """
    ordered = [axis for axis, kind in enumerate(axes) if kind in (SPACE, TIME)]
    if len(ordered) <= MOST:
        return [ordered]
    return [[axis for axis in ordered if axes[axis] == kind] for kind in (SPACE, TIME)]


def convolved(convolution: nn.Module, maps: Tensor, axes: Sequence[int]) -> Tensor:
    """A convolution along some axes of maps, every place of the others for itself.

    Args:
        convolution: Takes ``[b, C, *axes]`` and keeps its shape.
        maps: ``[B, C, *grid]``.
        axes: Numbers of the axes in ``grid``, in their order.

    Returns:
        ``[B, C, *grid]``.
    """
    others = [axis for axis in range(maps.ndim - 2) if axis not in axes]
    order = [0, *(2 + axis for axis in others), 1, *(2 + axis for axis in axes)]
    turned = maps.permute(order)
    lead = turned.shape[: 1 + len(others)]
    result = convolution(turned.flatten(0, len(others))).unflatten(0, lead)
    return result.permute([order.index(axis) for axis in range(maps.ndim)])


class BlockMaps(Portable):
    """Tokens of one block as a map and back, where a tower says how they lie.

    Args:
        tower: The tower.
        index: Number of the block.
    """

    def __init__(self, tower: Encoder, index: int) -> None:
        self.name = tower.spec.name
        self._lie = lambda count: tower.block_tokens(index, count)

    def changed(self, function: Callable[[Tensor], Tensor], tokens: Tensor) -> Tensor:
        """Tokens, to whose places what a function makes of their map was added.

        Args:
            function: ``[B, C, *grid] -> [B, C, *grid]``.
            tokens: ``[B, N, C]``.

        Raises:
            ConfigError: The tokens are not as many as the grid's, since another adapter adds or drops some.
        """
        lie = self._lie(tokens.shape[1])
        if lie is None:
            raise ConfigError(f"encoder {self.name} does not say how the tokens of its blocks lie")
        if lie.n_prefix + math.prod(lie.grid) != tokens.shape[1]:
            raise ConfigError(
                f"encoder {self.name}: {tokens.shape[1]} tokens reach an adapter that needs {lie.n_prefix} and a grid "
                f"of {lie.grid}; leave out the other adapter that adds tokens"
            )
        prefix, places = tokens[:, : lie.n_prefix], tokens[:, lie.n_prefix :]
        maps = places.transpose(1, 2).unflatten(2, lie.grid)
        rows = places + function(maps).flatten(2).transpose(1, 2)
        return rows if not lie.n_prefix else torch.cat([prefix, rows], dim=1)
