"""``torch.compile`` of a graft, whose hooks are part of what it computes."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from medgraft.ops.triton_runtime import triton_obstacle

logger = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function, **options: Any) -> Function:
    """Compiles a function that runs modules with hooks.

    By default the compiler does not check a module's hooks when it chooses the code for it. Blocks of one class share
    code wherever the graph breaks, so a block with hooks (an adapter, the attention across slices of an inflated
    encoder) would silently run that of one without. Here hooks are checked.

    Args:
        function: For example ``grafted.encode``.
        **options: Of ``torch.compile``.

    Returns:
        The same function, compiled when it is first called.
    """
    compiled_function = torch.compile(function, **options)

    @functools.wraps(function)
    def run(*arguments: Any, **keywords: Any) -> Any:
        from torch._dynamo import config  # heavy, and of no use before something is compiled

        with config.patch(skip_nnmodule_hook_guards=False):  # pyright: ignore[reportUnknownMemberType]
            return compiled_function(*arguments, **keywords)

    return run  # pyright: ignore[reportReturnType]


def graphs_obstacle(device: str) -> str | None:
    """Why what is compiled for a device is not recorded as CUDA graphs, or ``None`` where it is.

    Args:
        device: ``cpu``, ``cuda``, ``cuda:1`` and so on.
    """
    if not device.startswith("cuda"):
        return f"device {device} has no CUDA graphs"
    if not torch.cuda.is_available():
        return "PyTorch sees no GPU"
    if torch.version.hip is None and (capability := torch.cuda.get_device_capability(device))[0] < 7:
        return f"the GPU has compute capability {capability[0]}.{capability[1]}; torch.compile needs 7.0 or newer"
    return triton_obstacle()


class CompiledEncode:
    """A graft's ``encode``, compiled for any number of samples, and on a GPU recorded as CUDA graphs.

    A small graft on cached features takes the GPU less time than its launches take the CPU; a graph launches them at
    once. PyTorch records one for each number of samples (of a batch, of the last and shorter one, of those that are
    judged) and runs what it cannot record as it is. Where recording raises, what is compiled runs without graphs, and
    :attr:`reason` and the log say why.

    Outputs of a graph lie in memory that its next run writes to. In training they end with their step, which
    :meth:`begin_step` separates; without gradients they are copied, since callers keep those of many batches.

    Args:
        encode: Of a graft.
        device: What it runs on.

    Attributes:
        reason: Why there are no CUDA graphs; empty where there are.
    """

    def __init__(self, encode: Callable[..., Any], device: str) -> None:
        self.encode = encode
        self.reason = graphs_obstacle(device) or ""
        # PyTorch takes no options beside a mode, and the mode is how it spells "with CUDA graphs".
        mode: dict[str, Any] = {} if self.reason else {"mode": "reduce-overhead"}
        self._run = compiled(encode, dynamic=True, **mode)
        if self.reason:
            logger.info("compiled without CUDA graphs: %s", self.reason)

    def begin_step(self) -> None:
        """Says that outputs of the runs before are needed no more."""
        if not self.reason:
            torch.compiler.cudagraph_mark_step_begin()

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """Runs it; what it takes and gives is as ``encode`` says."""
        if self.reason:
            return self._run(*arguments, **keywords)
        if not torch.is_grad_enabled():
            self.begin_step()
        try:
            outputs = self._run(*arguments, **keywords)
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or "graph" not in str(error).lower():
                raise
            self.reason = f"recording a CUDA graph failed: {str(error).splitlines()[0]}"
            logger.warning("compiled without CUDA graphs: %s", self.reason)
            self._run = compiled(self.encode, dynamic=True)
            return self._run(*arguments, **keywords)
        if torch.is_grad_enabled():
            return outputs
        return pytree.tree_map(_own, outputs)


def _own(part: Any) -> Any:
    return part.clone() if isinstance(part, Tensor) else part
