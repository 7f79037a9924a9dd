"""The bottleneck epilogue kernels against float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_interpreter import DTYPES, KINDS, assert_close, counting, poisoned, strided

from medgraft.adapters.kernels.bottleneck import triton as K
from medgraft.ops.triton_runtime import Tile

TILE = Tile({"BM": 32, "BN": 32})


def check(M: int, C: int, c: int, dtype: torch.dtype, view=lambda x: x):
    g = torch.Generator().manual_seed(M + C + c)
    x, hidden, up, bias, d_y = (torch.randn(s, generator=g).to(dtype) for s in ((M, C), (M, c), (C, c), (C,), (M, C)))
    wide = [t.double().requires_grad_() for t in (hidden, up, bias)]
    exact_y = x.double() + F.gelu(wide[0]) @ wide[1].T + wide[2]
    exact = torch.autograd.grad(exact_y, wide, d_y.double())
    with poisoned():
        y = K.launch_forward(view(x), view(hidden), view(up), view(bias), TILE)
        got = K.launch_backward(view(d_y), view(hidden), view(up), TILE)
    assert_close(y, exact_y.detach(), "y")
    for name, mine, expected in zip(("hidden", "up", "bias"), got, exact, strict=True):
        assert_close(mine, expected, f"gradient of {name}")


@DTYPES
def test_forward_and_backward(dtype):
    check(70, 40, 12, dtype)


def test_strided_inputs():
    check(35, 20, 5, torch.float32, view=strided)


def test_more_blocks_than_programs(monkeypatch):
    monkeypatch.setattr(K, "MOST_PROGRAMS", 2)
    check(150, 33, 16, torch.float32)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.integers(1, 80), st.integers(1, 50), st.integers(1, 20), st.sampled_from(KINDS))
def test_any_shape(M, C, c, dtype):
    check(M, C, c, dtype)


@DTYPES
def test_traffic_is_what_the_formula_says(dtype):
    x, hidden, up = (torch.ones(s, dtype=dtype) for s in ((70, 40), (70, 12), (40, 12)))
    with counting() as forward:
        K.launch_forward(x, hidden, up, x[0], TILE)
    assert (forward.loaded, forward.stored) == K.forward_traffic(70, 40, 12, x.itemsize, TILE)
    with counting() as backward:
        K.launch_backward(x, hidden, up, TILE)
    assert (backward.loaded, backward.stored) == K.backward_traffic(70, 40, 12, x.itemsize, TILE)
