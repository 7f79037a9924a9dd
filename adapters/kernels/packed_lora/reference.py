"""The plain form of LoRA on a packed projection, the definition that the fused forms are held to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def reference(
    x: Tensor, weight: Tensor, bias: Tensor | None, A: Tensor, B: Tensor, starts: Sequence[int], scaling: float
) -> Tensor:
    """The plain form.

    Arguments and result are as in :func:`medgraft.adapters.kernels.packed_lora.op.packed_lora`.
    """
    y = F.linear(x, weight, bias)
    parts, at = [], 0
    for start, a, b in sorted(zip(starts, A, B, strict=True), key=lambda part: part[0]):
        stop = start + len(b)
        parts += [y[..., at:start], y[..., start:stop] + scaling * F.linear(F.linear(x, a), b)]
        at = stop
    return torch.cat([*parts, y[..., at:]], dim=-1)
