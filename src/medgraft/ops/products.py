"""Matrix products on a CPU by the faster of the libraries that PyTorch carries."""

from __future__ import annotations

import torch
from torch import Tensor

from medgraft.fast.linear import onednn_linear, takes_onednn


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """``a @ b`` of matrices, for use inside of operations with a backward of their own: it has none.

    Float32 goes to oneDNN where :mod:`medgraft.fast.linear` says so.

    Args:
        a: ``[M, K]``.
        b: ``[K, N]``.
        out: ``[M, N]`` to write to.

    Returns:
        ``[M, N]``, ``out`` if given.

    Example:
        >>> product(torch.ones(1, 2), torch.ones(2, 1)).item()
        2.0
    """
    if not takes_onednn(a, b):
        return torch.mm(a, b, out=out)
    result = onednn_linear(a, b.T)
    return result if out is None else out.copy_(result)
