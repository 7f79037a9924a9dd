"""The products of matrices and convolutions that no form of an operation can do without, and nothing else.

Their time bounds what fusing can reach: activations, softmax, sums, copies and Python come on top of it. Each takes the
faster library for its type, on inputs that are ready, and reads no result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.ops.products import product

Products = Callable[[], None]


def _ready(device: str, dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]


def info_nce(device: str, dtype: torch.dtype, N: int = 4096, C: int = 512, rows: int = 256) -> Products:
    """Similarities and the gradients of both sides, once each: 3 products, 4 where the matrix is not kept."""
    image, text = _ready(device, dtype, (N, C), (N, C))

    def run() -> None:
        for start in range(0, N, rows):
            mine = image[start : start + rows]
            block = product(mine, text.T)
            product(block, text)
            product(block.T, mine)

    return run


def perceiver(device: str, dtype: torch.dtype, L: int = 64, heads: int = 8, B: int = 2, C: int = 768) -> Products:
    """Logits, context and both of their gradients over 2048 tokens for all heads' absorbed queries."""
    N = 2048
    tokens, queries, weights = _ready(device, dtype, (N, C), (heads * L, C), (heads * L, N))

    def run() -> None:
        for _ in range(2 * B):  # forward and backward, every batch element
            product(queries, tokens.T)
            product(weights, tokens)

    return run


def moe(device: str, dtype: torch.dtype, T: int = 1576, D: int = 768, h: int = 64, E: int = 8) -> Products:
    """Both layers of every expert on its share of the tokens, top-2, with gradients: 6 products each."""
    M = 2 * T // E
    tokens, hidden, down, up = _ready(device, dtype, (M, D), (M, h), (h, D), (D, h))

    def run() -> None:
        for _ in range(E):
            product(tokens, down.T)
            product(hidden, up.T)
            product(tokens, up)
            product(tokens.T, hidden)
            product(hidden.T, tokens)
            product(hidden, down)

    return run


def bottleneck(device: str, dtype: torch.dtype, C: int = 64, c: int = 16) -> Products:
    """Both 1x1x1 convolutions as products of matrices, the 3x3x3 convolution, and all their gradients."""
    size, M = (32, 64, 64), 32 * 64 * 64
    x, h, down, up, mix = _ready(device, dtype, (M, C), (M, c), (c, C), (C, c), (c, c, 3, 3, 3))
    volume = h.view(1, *size, c).permute(0, 4, 1, 2, 3)
    mix = mix.contiguous(memory_format=torch.channels_last_3d)
    wide, narrow, three = torch.empty_like(x), torch.empty_like(h), [1] * 3

    def run() -> None:
        torch.mm(x, down.T, out=narrow)
        F.conv3d(volume, mix, padding=1)
        torch.mm(h, up.T, out=wide)
        torch.mm(x, up, out=narrow)
        torch.mm(h.T, x)
        torch.ops.aten.convolution_backward(
            volume, volume, mix, [c], three, three, three, False, [0] * 3, 1, [True, True, True]
        )
        torch.mm(h, down, out=wide)
        torch.mm(h.T, x)

    return run
