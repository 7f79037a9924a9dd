"""Makes Triton's interpreter exact for bfloat16 and able to count traffic. Import it before any kernel runs.

Triton's interpreter keeps bfloat16 as its bit pattern and computes on that: products are wrong without a word, and
casts truncate. Here products get float32 operands, casts round to nearest even, and every other arithmetic on bfloat16
is refused, so that a kernel that forgets to widen after a load fails its test.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from torch import Tensor
from triton.runtime import interpreter

assert os.environ.get("TRITON_INTERPRET") == "1", "these tests run through test_interpreter.py"


@dataclass
class Traffic:
    """Bytes that kernels moved to and from global memory (masked-off lanes move none)."""

    loaded: int = 0
    stored: int = 0
    operations: int = 0


_traffic = Traffic()


@contextmanager
def counting() -> Iterator[Traffic]:
    """Counts what kernels move inside."""
    global _traffic
    outer, _traffic = _traffic, Traffic()
    try:
        yield _traffic
    finally:
        _traffic = outer


@contextmanager
def poisoned() -> Iterator[None]:
    """Uninitialised memory is NaN inside, so that an element which no program writes is seen."""
    old = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3).isnan().all() and torch.ones(2).new_empty(3).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(old)


def assert_close(
    got: Tensor, expected: Tensor, what: str, factor: float = 4.0, dtype: torch.dtype | None = None
) -> None:
    """Relative error in the 2-norm, against float64, within a few units of the type's precision.

    Args:
        got: From the kernel, in its own type.
        expected: Float64.
        what: Named in the failure.
        factor: Allowed error in units of the type's epsilon.
        dtype: Type that the inputs came in; that of ``got`` if ``None``.
    """
    assert got.shape == expected.shape, what
    assert got.isfinite().all(), f"{what} has elements that are not finite: unwritten, or read out of bounds"
    error = (got.double() - expected).norm() / expected.norm().clamp(min=1e-12)
    assert error <= factor * torch.finfo(dtype or got.dtype).eps + 2e-6, f"{what}: relative error {error:.2e}"


def strided(x: Tensor) -> Tensor:
    """The same values as ``x [..., n]`` in memory that is contiguous on no axis."""
    # What lies between is never to be read: NaN, or no index of anything.
    between = float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max if x.dtype != torch.bool else True
    wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 3), between)
    view = wide[..., 1 : 2 * x.shape[-1] : 2]
    view.copy_(x)
    return view


def turned(x: Tensor) -> Tensor:
    """The same values as ``x [..., m, n]`` in memory with the last two axes exchanged."""
    return x.transpose(-1, -2).contiguous().transpose(-1, -2)


KINDS = (torch.float32, torch.float16, torch.bfloat16)
DTYPES = pytest.mark.parametrize("dtype", KINDS, ids=str)

_Builder, _Handle = interpreter.InterpreterBuilder, interpreter.TensorHandle


def _is_bf16(value: Any) -> bool:
    return isinstance(value, _Handle) and value.dtype.scalar == tl.bfloat16


def _widened(value: Any) -> Any:
    if not _is_bf16(value):
        return value
    return _Handle((value.data.astype(np.uint32) << 16).view(np.float32), tl.float32)


def _rounded(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    nearest = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), nearest)


def _wrap(name: str, around: Callable[..., Any]) -> None:
    original = getattr(_Builder, name)

    def wrapped(self: Any, *arguments: Any) -> Any:
        return around(original, self, *arguments)

    setattr(_Builder, name, wrapped)


def _dot(original: Any, self: Any, a: Any, b: Any, *rest: Any) -> Any:
    _traffic.operations += 2 * int(np.prod(a.data.shape)) * b.data.shape[-1]
    return original(self, _widened(a), _widened(b), *rest)


def _cast(original: Any, self: Any, source: Any, target: Any, *rest: Any) -> Any:
    if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
        return _Handle(_rounded(source.data), tl.bfloat16)
    return original(self, source, target, *rest)


def _refuse(original: Any, self: Any, *arguments: Any) -> Any:
    if any(map(_is_bf16, arguments)):
        raise TypeError("arithmetic on bfloat16; widen it to float32 after tl.load")
    return original(self, *arguments)


def _load(original: Any, self: Any, pointer: Any, mask: Any, *rest: Any) -> Any:
    width = pointer.get_element_ty().primitive_bitwidth // 8
    _traffic.loaded += int(np.count_nonzero(mask.data)) * width
    return original(self, pointer, mask, *rest)


def _store(original: Any, self: Any, pointer: Any, value: Any, mask: Any, *rest: Any) -> Any:
    width = pointer.get_element_ty().primitive_bitwidth // 8
    _traffic.stored += int(np.count_nonzero(mask.data)) * width
    return original(self, pointer, value, mask, *rest)


_wrap("create_dot", _dot)
_wrap("cast_impl", _cast)
_wrap("create_fp_to_fp", _cast)
_wrap("binary_op", _refuse)
_wrap("unary_op", _refuse)
_wrap("create_masked_load", _load)
_wrap("create_masked_store", _store)
