"""3D operations that must not, or cannot, run in bf16 on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def exact_conv3d(*args: Any, **kwargs: Any) -> Tensor:
    """``torch.conv3d``, in fp32 where its kernel is deeper than its input and a CPU would run it in bf16.

    The weight gradient of oneDNN's bf16 kernel reads memory outside its buffers there (torch 2.14, at input depths
    from 2 to one less than the kernel's): the gradient is arbitrary, at times not finite, and the process may end.
    The last stages of a network on small volumes have such inputs. The arguments are the library's, ``[B, C, D, H, W]``
    and a weight ``[C', C, *kernel]`` first.

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


def average_pool_3d(x: Tensor, size: int | tuple[int, ...]) -> Tensor:
    """``F.avg_pool3d``, which a CPU has in no half precision: there the mean is taken in fp32.

    Args:
        x: ``[B, C, D, H, W]``.
        size: Of the window and of its step.

    Example:
        >>> average_pool_3d(torch.ones(1, 2, 4, 4, 4, dtype=torch.bfloat16), 2).dtype
        torch.bfloat16
    """
    pool: Any = torch.nn.functional.avg_pool3d
    narrow = x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float16)
    if not narrow or torch.is_autocast_enabled("cpu"):
        return pool(x, size)
    return pool(x.float(), size).to(x.dtype)


def widened(value: Any) -> Any:
    """A bf16 tensor in fp32; anything else as it is."""
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
