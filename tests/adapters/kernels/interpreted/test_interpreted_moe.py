"""The gate kernels of the mixture of experts, and both GPU forms around them, against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_interpreter import DTYPES, KINDS, assert_close, counting, poisoned, strided, turned

from medgraft.adapters.kernels.moe import op as M
from medgraft.adapters.kernels.moe.triton import gate_traffic, launch_gate, launch_gate_backward
from medgraft.ops.triton_runtime import Tile

TILE = Tile({"BM": 32, "BH": 32})


def experts(T: int, D: int, h: int, E: int, k: int, dtype: torch.dtype, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    shapes = ((T, D), (E, h, D), (E, h), (E, D, h), (E, D))
    tokens, *weights = (torch.randn(s, generator=g).div(max(s[-1], 4) ** 0.5).to(dtype) for s in shapes)
    index = torch.rand(T, E, generator=g).argsort(1)[:, :k]
    return tokens, torch.rand(T, k, generator=g).to(dtype), index, *weights


def check(form: str, dtype: torch.dtype, T: int, D: int, h: int, E: int, k: int, seed: int = 0, view=lambda x: x):
    inputs = experts(T, D, h, E, k, dtype, seed)
    wide = [x.double().requires_grad_() if x.is_floating_point() else x for x in inputs]
    exact_y = M.reference(*wide)
    d_y = torch.randn(T, D, generator=torch.Generator().manual_seed(seed)).to(dtype)
    exact = torch.autograd.grad(
        exact_y, [x for x in wide if x.is_floating_point()], d_y.double(), materialize_grads=True
    )
    with poisoned():
        shown = [view(x) for x in inputs]
        y, before = getattr(M, f"{form}_forward")(*shown)
        got = getattr(M, f"{form}_backward")(view(d_y), *shown, before)
    assert_close(y, exact_y.detach(), "y", factor=6)
    for name, mine, expected in zip(("tokens", "gates", "w1", "b1", "w2", "b2"), got, exact, strict=True):
        assert_close(mine, expected, f"gradient of {name}", factor=12)


@DTYPES
def test_one_wide_bottleneck(dtype):
    check("narrow", dtype, 40, 24, 20, 4, 2)


def test_grouped_products():
    # Rows of a multiple of 16 bytes, which the library's grouped product asks for: the obstacle names all others.
    check("grouped", torch.bfloat16, 64, 32, 48, 4, 2)


@pytest.mark.parametrize("view", [strided, turned])
@pytest.mark.parametrize("form", ["narrow", "grouped"])
def test_non_contiguous_inputs(form, view):
    check(form, torch.bfloat16, 33, 16, 24, 3, 2, view=view)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(1, 50),
    st.integers(1, 20),
    st.integers(1, 40),
    st.integers(1, 4),
    st.integers(0, 9),
    st.sampled_from(KINDS),
)
def test_any_shape(T, D, h, E, seed, dtype):
    check("narrow", dtype, T, D, h, E, min(2, E), seed)


@pytest.mark.parametrize("backward", [False, True])
@DTYPES
def test_traffic_is_what_the_formula_says(dtype, backward):
    before, bias = torch.randn(40, 3 * 20).to(dtype), torch.randn(3, 20).to(dtype)
    expert, gate = M._experts(40, 3, before.device), torch.rand(40, 3).to(dtype)
    with counting() as counted:
        if backward:
            launch_gate_backward(before, bias, expert, gate, before, TILE)
        else:
            launch_gate(before, bias, expert, gate, TILE)
    assert (counted.loaded, counted.stored) == gate_traffic(40, 20, 3, before.itemsize, TILE, backward)
