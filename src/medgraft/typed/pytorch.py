"""Functions of PyTorch whose own annotations leave types open, and the private tables of its modules, with types.

The core is checked strictly, where a value of unknown type is an error; each gap is closed here, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn


def named_modules(root: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """``root.named_modules()``."""
    return root.named_modules()  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def own_parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """The module's table of its own parameters, of any shape, those that it lacks included; not a copy."""
    return module._parameters  # pyright: ignore[reportPrivateUsage]


def own_buffers(module: nn.Module) -> dict[str, Tensor | None]:
    """The module's table of its own buffers, of any shape; not a copy."""
    return module._buffers  # pyright: ignore[reportPrivateUsage]


def own_modules(module: nn.Module) -> dict[str, nn.Module | None]:
    """The module's table of its children; not a copy."""
    return module._modules  # pyright: ignore[reportPrivateUsage]


def forward_hooks(module: nn.Module) -> dict[int, Callable[..., object]]:
    """The module's table of forward hooks, in the order in which they run; not a copy."""
    return module._forward_hooks  # pyright: ignore[reportPrivateUsage, reportUnknownMemberType, reportUnknownVariableType]


def fork_random(devices: Sequence[torch.device]) -> AbstractContextManager[None]:
    """``torch.random.fork_rng(devices)``."""
    return torch.random.fork_rng(devices)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def seed_random(seed: int) -> None:
    """``torch.manual_seed(seed)``, which seeds every device.

    Without any but the processor that is done directly: PyTorch remembers the seed, with the stack of its caller, for
    each kind of device that might still come, which takes ten times as long and is never let go.
    """
    if torch.accelerator.is_available():
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
    else:
        torch.default_generator.manual_seed(seed)


def norm_along(x: Tensor, dim: int) -> Tensor:
    """``torch.linalg.vector_norm(x, dim=dim)``, ``[..., N, ...] -> [...]``."""
    return torch.linalg.vector_norm(x, dim=dim)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def back_propagate(loss: Tensor) -> None:
    """``loss.backward()`` of a scalar."""
    loss.backward()  # pyright: ignore[reportUnknownMemberType]
