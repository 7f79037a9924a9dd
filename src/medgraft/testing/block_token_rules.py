"""Whether the tokens that blocks are given lie as the encoder says."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from medgraft.encoder import Encoder
from medgraft.encoder.block_tokens import SPACE, TIME, UNORDERED
from medgraft.testing.check import require


def tokens_of_blocks_fit(tower: Encoder, x: Tensor) -> None:
    """Holds what :meth:`medgraft.encoder.Encoder.block_tokens` says to what blocks are given in a run.

    Args:
        tower: The encoder.
        x: A prepared batch ``[B, ...]``.
    """
    paths = tower.block_paths()
    if not paths or tower.block_tokens(0) is None:
        return
    shapes: dict[int, torch.Size] = {}

    def note(index: int) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            shapes[index] = args[0].shape

        return hook

    handles = [tower.get_submodule(path).register_forward_pre_hook(note(i)) for i, path in enumerate(paths)]
    try:
        with torch.no_grad():
            tower.encode(x)
    finally:
        for handle in handles:
            handle.remove()
    for index, shape in shapes.items():
        for lie in (tower.block_tokens(index), tower.block_tokens(index, shape[1])):
            require(lie is not None, f"block_tokens() says how tokens lie before block 0, and not before block {index}")
            assert lie is not None
            known = len(lie.axes) == len(lie.grid) and set(lie.axes) <= {SPACE, TIME, UNORDERED}
            require(known, f"block_tokens({index}) has axes {lie.axes!r} for a grid of {lie.grid}")
            said = [lie.n_prefix + math.prod(lie.grid), lie.dim]
            require(
                said == list(shape[1:]),
                f"block {index} is given [B, N, C] = {list(shape)}, and block_tokens() says {said}",
            )
