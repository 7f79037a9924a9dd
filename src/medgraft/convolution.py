"""3D convolutions that must not run in bf16 on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class ExactConv3d(TorchFunctionMode):
    """Inside it, a 3D convolution whose kernel is deeper than its input runs in fp32 under a CPU's bf16 autocast.

    The weight gradient of oneDNN's bf16 kernel reads memory outside its buffers there (torch 2.14, at input depths
    from 2 to one less than the kernel's): the gradient is arbitrary, at times not finite, and the process may end.
    The last stages of a network on small volumes have such inputs.

    Example:
        >>> x, weight = torch.ones(1, 16, 2, 3, 3), torch.ones(16, 16, 3, 3, 3)
        >>> with torch.autocast("cpu", torch.bfloat16), ExactConv3d():
        ...     torch.conv3d(x, weight, padding=1).dtype
        torch.float32
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Intercepts such convolutions; all others pass through."""
        kwargs = kwargs or {}
        if func is torch.conv3d and len(args) >= 2:
            x, weight = args[:2]
            depth = x.shape[-3]
            if x.device.type == "cpu" and weight.shape[2] > depth > 1:
                with torch.autocast("cpu", enabled=False):
                    return func(*(widened(value) for value in args), **{k: widened(v) for k, v in kwargs.items()})
        return func(*args, **kwargs)


def widened(value: Any) -> Any:
    """A bf16 tensor in fp32; anything else as it is."""
    return value.float() if isinstance(value, torch.Tensor) and value.dtype == torch.bfloat16 else value
