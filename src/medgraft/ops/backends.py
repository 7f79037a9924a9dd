"""Which form of an operation runs, and the record of what ran.

Every operation has a plain reference (``eager``), the same under ``torch.compile`` (``compile``) and a form of its own
(``fused``): Triton kernels on a GPU, the best plain form on a CPU. ``auto`` takes ``fused`` wherever it exists, unless
the operation's own rule says that eager mode is faster for the shape.

Adapters ask for :func:`current`, which :func:`using` sets around a run; it is ``eager`` everywhere else.
"""

from __future__ import annotations

import logging
import warnings
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar, get_args

import torch
from torch import Tensor

from medgraft.errors import ConfigError
from medgraft.fast.switch import VARIABLE, is_plain
from medgraft.ops.triton_runtime import cdiv, triton_obstacle

Backend = Literal["eager", "compile", "fused", "auto"]
Form = Literal["eager", "compile", "fused"]
Function = TypeVar("Function", bound=Callable[..., Any])
GPU_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Triton compiles for rows whose length is a multiple of this, or for any; the second may not fit in registers.
EVEN_WIDTH = 16

_log = logging.getLogger(__name__)


class FusedFallbackWarning(UserWarning):
    """``fused`` was asked for by name and an operation has no such form for its device, type or shape."""


class Choice(NamedTuple):
    """One decision.

    Attributes:
        op: Name of the operation.
        asked: The backend that the caller named.
        used: The form that ran; ``compile`` where ``eager`` was asked for inside of a compiled graph.
        reason: Why ``used`` is not the fused form; empty where it is or where nobody asked for it.
    """

    op: str
    asked: Backend
    used: Form
    reason: str


class Record:
    """Counts the choices made while it is open.

    Attributes:
        choices: Choice -> number of calls (of traces, under ``torch.compile``).
    """

    def __init__(self) -> None:
        self.choices: Counter[Choice] = Counter()

    def summary(self) -> dict[str, list[dict[str, Any]]]:
        """Operation -> the forms that ran, how often, and why not the fused one; fit for a JSON result."""
        uses: dict[str, list[dict[str, Any]]] = {}
        for choice, calls in sorted(self.choices.items()):
            use = {"form": choice.used, "asked": choice.asked, "calls": calls, "reason": choice.reason}
            uses.setdefault(choice.op, []).append(use)
        return uses


_open: list[Record] = []
_current: Backend = "eager"


def current() -> Backend:
    """The backend that adapters ask their operations for."""
    return _current


@contextmanager
def using(backend: Backend) -> Generator[None]:
    """Sets :func:`current` for what is grafted and run inside, in every thread of this process.

    Args:
        backend: ``compile`` compiles each operation by itself; to compile a whole model, wrap it in ``torch.compile``
            and stay with ``eager``.

    Raises:
        ConfigError: There is no such backend.

    Example:
        >>> with using("fused"):
        ...     current()
        'fused'
    """
    global _current
    _check("using()", backend)
    before, _current = _current, backend
    try:
        yield
    finally:
        _current = before


def _check(who: str, backend: str) -> None:
    if backend not in get_args(Backend):
        raise ConfigError(f"{who}: backend is {backend!r}; use one of {', '.join(get_args(Backend))}")


@contextmanager
def recording() -> Generator[Record]:
    """Records every choice made inside.

    Example:
        >>> with recording() as record:
        ...     choose("lora", "eager", None)
        'eager'
        >>> record.summary()
        {'lora': [{'form': 'eager', 'asked': 'eager', 'calls': 1, 'reason': ''}]}
    """
    record = Record()
    _open.append(record)
    try:
        yield record
    finally:
        _open.remove(record)


def constant_in_graphs(function: Function) -> Function:
    """Does what ``torch.compiler.assume_constant_result`` does, which would import torch's compiler: a second."""
    setattr(function, "_dynamo_marked_constant", True)  # noqa: B010  no attribute that functions are known to have
    return function


@constant_in_graphs
def _note(op: str, backend: Backend, used: Form, reason: str) -> bool:
    """Runs at trace time under ``torch.compile``, so that a compiled region is recorded too."""
    choice = Choice(op, backend, used, reason)
    for record in _open:
        record.choices[choice] += 1
    if reason:
        _log.debug("%s: %s in place of fused: %s", op, used, reason)
        if backend == "fused":
            warnings.warn(f"{op}: no fused form, {used} runs instead: {reason}", FusedFallbackWarning, stacklevel=4)
    return True


@constant_in_graphs
def _plain_obstacle() -> str | None:
    return f"{VARIABLE}=1 turns fused forms off" if is_plain() else None


def choose(op: str, backend: Backend, obstacle: str | None, slower: str | None = None) -> Form:
    """Decides on a form and records it.

    Args:
        op: Name of the operation.
        backend: What the caller asked for.
        obstacle: Why the fused form cannot run here; ``None`` if it can.
        slower: Why eager mode is faster here, which only ``auto`` listens to; ``None`` if it is not.

    Returns:
        The form to run: what was asked for, or ``eager`` in place of an impossible ``fused``.

    Raises:
        ConfigError: There is no such backend.
    """
    _check(op, backend)
    if backend in ("eager", "compile"):
        _note(op, backend, "compile" if torch.compiler.is_compiling() else backend, "")
        return backend
    why = _plain_obstacle() or obstacle or (slower if backend == "auto" else None)
    used: Form = "fused" if why is None else "eager"
    _note(op, backend, used, why or "")
    return used


@constant_in_graphs
def device_obstacle(device_type: str, index: int | None, dtype: torch.dtype) -> str | None:
    """Why no fused form runs on a device with this type of values, or ``None``.

    Args:
        device_type: ``cpu``, ``cuda`` and so on.
        index: Of the device.
        dtype: Of the activations.
    """
    if device_type == "cpu":
        return None
    if device_type != "cuda":
        return f"device {device_type} has no fused kernels, only cpu and cuda do"
    if dtype not in GPU_DTYPES:
        return f"the GPU kernels take float32, bfloat16 and float16, not {str(dtype).removeprefix('torch.')}"
    if (missing := triton_obstacle()) is not None:
        return missing
    return capability_obstacle(index)


def capability_obstacle(index: int | None) -> str | None:
    """Why this GPU is too old for the kernels, or ``None``; without a GPU (fake tensors) there is nothing to refuse."""
    if torch.version.hip is not None or not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability(index)
    if major < 8:
        return f"the GPU has compute capability {major}.{minor}; the kernels need 8.0 (A100) or newer"
    return None


def obstacle_of(*tensors: Tensor) -> str | None:
    """:func:`device_obstacle` of inputs of any shape, which must agree on device and type to be fused."""
    first = tensors[0]
    for other in tensors[1:]:
        if other.dtype != first.dtype or other.device != first.device:
            return (
                f"its inputs have different types or devices ({_kind_of(first)} and {_kind_of(other)}); "
                "cast them to one type to use the fused form"
            )
    if not first.dtype.is_floating_point:
        return f"its inputs are {_kind_of(first)}, not floating point"
    if (empty := next((x for x in tensors if x.numel() == 0), None)) is not None:
        return f"an input of shape {tuple(empty.shape)} is empty, which only the plain form takes"
    return device_obstacle(first.device.type, first.device.index, first.dtype)


def width_obstacle(x: Tensor, width: int) -> str | None:
    """Why a GPU kernel that fits in registers for rows of even length alone cannot take rows of ``width``, or ``None``.

    Args:
        x: An input of the kernel, of any shape, for its device.
        width: Numbers in a row.
    """
    if x.device.type != "cuda" or width % EVEN_WIDTH == 0:
        return None
    return (
        f"width {width} is not a multiple of {EVEN_WIDTH}, and the GPU kernel would spill registers; "
        f"pad it to {EVEN_WIDTH * cdiv(width, EVEN_WIDTH)} to use the fused form"
    )


def _kind_of(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device.type}"


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``torch.compile(function)``, made once; the function itself while something around it is being compiled."""
    return function if torch.compiler.is_compiling() else _compiled(function)


def multiplied_in(x: Tensor) -> torch.dtype:
    """The type that a matrix product would take ``x``, of any shape, in: autocast's where it is on, else its own."""
    if x.is_floating_point() and x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def outside_autocast(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` with autocast off and tensors in the type that autocast would multiply them in.

    Operations of our own are opaque to autocast, which would cast around them and never inside.
    """
    cast = [x.to(multiplied_in(x)) if isinstance(x, Tensor) else x for x in arguments]
    device = next(x.device.type for x in arguments if isinstance(x, Tensor))
    with torch.autocast(device, enabled=False):
        return function(*cast)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Type that sums of this type are kept in: float32 for half types, else its own."""
    return torch.promote_types(dtype, torch.float32)


def loop_over_batch(op: Callable[..., Any]) -> Callable[..., Any]:
    """A vmap rule that runs ``op`` once per batch element and stacks, so one call's memory holds for all.

    Args:
        op: Returns a tensor or a tuple of tensors.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        def select(i: int) -> list[Any]:
            pairs = zip(inputs, in_dims, strict=True)
            return [x.select(dim, i) if isinstance(x, Tensor) and dim is not None else x for x, dim in pairs]

        results = [op(*select(i)) for i in range(info.batch_size)]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        return tuple(torch.stack(parts) for parts in zip(*results, strict=True)), (0,) * len(results[0])

    return rule


def fold_into_batch(op: Callable[..., Any]) -> Callable[..., Any]:
    """A vmap rule for an ``op`` whose tensors all start with a batch axis: both axes become one, for a single launch.

    Args:
        op: Takes tensors that start with the batch axis, and plain values; returns a tensor or a tuple of such.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Any, Any]:
        K = info.batch_size

        def fold(x: Any, dim: int | None) -> Any:
            if not isinstance(x, Tensor):
                return x
            return (x.expand(K, *x.shape) if dim is None else x.movedim(dim, 0)).flatten(0, 1)

        results = op(*(fold(x, dim) for x, dim in zip(inputs, in_dims, strict=True)))
        if isinstance(results, Tensor):
            return torch.unflatten(results, 0, (K, -1)), 0
        return tuple(part.unflatten(0, (K, -1)) for part in results), (0,) * len(results)

    return rule
