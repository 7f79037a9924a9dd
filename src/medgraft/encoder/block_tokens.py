"""How the tokens in front of a block lie, where they are not simply those of the features on an image or a volume."""

from __future__ import annotations

from dataclasses import dataclass

SPACE, TIME, UNORDERED = "s", "t", "c"


@dataclass(frozen=True)
class BlockTokens:
    """Tokens ``[B, N, dim]`` that a block reads, the last axis of the grid changing fastest.

    Attributes:
        n_prefix: Leading tokens without a place.
        grid: Lengths of the axes that the others lie in.
        axes: A letter for each axis: ``s`` for space, ``t`` for time, ``c`` for one whose order means nothing, such as
            the channels of an EEG.
        dim: Width of a token.
        varying: Samples may have fewer along an axis without an order, as recordings that lack electrodes.
    """

    n_prefix: int
    grid: tuple[int, ...]
    axes: str
    dim: int
    varying: bool = False
