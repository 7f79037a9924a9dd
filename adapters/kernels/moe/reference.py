"""The plain forms of the mixture, the definition that the fused forms are held to."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def dense_gates(gates: Tensor, index: Tensor, E: int) -> Tensor:
    """Gates and experts ``[T, k]`` as a table ``[T, E]``, zero where an expert was not chosen."""
    return gates.new_zeros(len(gates), E).scatter(1, index, gates)


def reference(tokens: Tensor, gates: Tensor, index: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
    """The plain form, a loop over experts as in Mixtral.

    Arguments and result are as in :func:`medgraft.adapters.kernels.moe.op.moe`.
    """
    out = torch.zeros_like(tokens)
    for e in range(len(w1)):
        row, slot = torch.where(index == e)
        hidden = F.gelu(F.linear(tokens[row], w1[e], b1[e]))
        expert_out = F.linear(hidden, w2[e], b2[e]) * gates[row, slot, None].to(tokens.dtype)
        out = out.index_add(0, row, expert_out.to(out.dtype))
    return out


def wide_reference(
    tokens: Tensor, gates: Tensor, index: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor
) -> Tensor:
    """The same as one wide bottleneck with gated hidden units: static shapes; what ``compile`` compiles.

    Arguments and result are as in :func:`medgraft.adapters.kernels.moe.op.moe`.
    """
    weights = dense_gates(gates.to(tokens.dtype), index, len(w1))
    hidden = F.gelu(F.linear(tokens, w1.flatten(0, 1), b1.flatten())).unflatten(-1, b1.shape)
    return torch.einsum("teh,edh->td", hidden * weights[..., None], w2) + weights @ b2
