"""The plain form of the bottleneck: three convolutions, the definition that the fused forms are held to."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from medgraft.fast.convolution import exact_conv3d


def reference(
    x: Tensor, down: Tensor, down_bias: Tensor, mix: Tensor, mix_bias: Tensor, up: Tensor, up_bias: Tensor
) -> Tensor:
    """The plain form, three convolutions.

    Arguments and result are as in :func:`medgraft.adapters.kernels.bottleneck.op.bottleneck_3d`.
    """
    h = F.conv3d(x, down[:, :, None, None, None], down_bias)
    h = mixed(h, mix, mix_bias)
    return x + F.conv3d(F.gelu(h), up[:, :, None, None, None], up_bias)


def mixed(h: Tensor, mix: Tensor, bias: Tensor) -> Tensor:
    """The convolution inside, ``[B, c, D, H, W]`` to the same, in the type of ``h``."""
    return exact_conv3d(h, mix, bias, padding=mix.shape[-1] // 2).to(h.dtype)
