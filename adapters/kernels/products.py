"""Matrix products on a CPU by the faster of the libraries that PyTorch carries."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.linear import onednn_linear, takes_onednn, takes_onednn_bias


def product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """``a @ b`` of matrices, for use inside of operations with a backward of their own: it has none.

    Float32 goes to oneDNN where :mod:`medgraft.linear` says so.

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
    made = onednn_linear(a, b.T)
    return made if out is None else out.copy_(made)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``torch.nn.functional.linear`` of ``x [M, K]``, ``weight [N, K]`` and ``bias [N]``, as :func:`product`."""
    gains = takes_onednn(x, weight) or takes_onednn_bias(x, weight, bias)
    return onednn_linear(x, weight, bias) if gains else F.linear(x, weight, bias)
