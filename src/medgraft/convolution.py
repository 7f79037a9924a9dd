"""3D convolutions that must not run in bf16 on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def exact_conv3d(*args: Any, **kwargs: Any) -> Tensor:
    """``torch.conv3d``, in fp32 where its kernel is deeper than its input and a CPU would run it in bf16.

    The weight gradient of oneDNN's bf16 kernel reads memory outside its buffers there (torch 2.14, at input depths
    from 2 to one less than the kernel's): the gradient is arbitrary, at times not finite, and the process may end.
    The last stages of a network on small volumes have such inputs.

    Example:
        >>> x, weight = torch.ones(1, 16, 2, 3, 3), torch.ones(16, 16, 3, 3, 3)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     exact_conv3d(x, weight, padding=1).dtype
        torch.float32
    """
    if len(args) >= 2:
        x, weight = args[:2]
        if x.device.type == "cpu" and weight.shape[2] > x.shape[-3] > 1:
            with torch.autocast("cpu", enabled=False):
                return torch.conv3d(*map(widened, args), **{key: widened(value) for key, value in kwargs.items()})
    return torch.conv3d(*args, **kwargs)


def widened(value: Any) -> Any:
    """A bf16 tensor in fp32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
