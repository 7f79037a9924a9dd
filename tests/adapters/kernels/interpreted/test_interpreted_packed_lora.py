"""The packed LoRA kernels against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_interpreter import DTYPES, KINDS, assert_close, counting, poisoned, strided, turned

from medgraft.adapters.kernels.packed_lora.op import reference, triton_backward, triton_forward
from medgraft.adapters.kernels.packed_lora.triton import backward_traffic, forward_traffic
from medgraft.ops.triton_runtime import Tile

FORWARD = Tile({"BM": 32, "BW": 32})
BACKWARD = Tile({"BM": 32, "BK": 32})


def layer(M: int, D: int, W: int, R: int, dtype: torch.dtype, P: int = 2, gap: int = 5):
    generator = torch.Generator().manual_seed(M + D + W + R)
    O = P * W + gap * (P - 1)  # noqa: E741
    shapes = {"x": (M, D), "weight": (O, D), "bias": (O,), "A": (P, R, D), "B": (P, W, R), "d_y": (M, O)}
    made = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return made, [p * (W + gap) for p in reversed(range(P))]


def check(M: int, D: int, W: int, R: int, dtype: torch.dtype, P: int = 2, view=lambda x: x):
    made, starts = layer(M, D, W, R, dtype, P)
    x, weight, bias, A, B, d_y = made.values()
    wide = [t.double().requires_grad_() for t in (x, A, B)]
    y = reference(wide[0], weight.double(), bias.double(), wide[1], wide[2], starts, 0.5)
    exact = torch.autograd.grad(y, wide, d_y.double())
    with poisoned():
        of_layer, of_update = (view(x), view(weight)), (view(A), view(B))
        got_y, hidden = triton_forward(*of_layer, bias, *of_update, starts, 0.5, FORWARD)
        got = triton_backward(view(d_y), *of_layer, *of_update, hidden, starts, 0.5, True, BACKWARD)
    assert_close(got_y, y.detach(), "y")
    for name, mine, expected in zip(("x", "A", "B"), got, exact, strict=True):
        assert_close(mine, expected, f"gradient of {name}")


@DTYPES
def test_forward_and_backward(dtype):
    check(70, 40, 33, 4, dtype)


@pytest.mark.parametrize("P", [1, 3])
@DTYPES
def test_one_range_and_three(dtype, P):
    check(40, 24, 17, 5, dtype, P)


@pytest.mark.parametrize("view", [strided, turned])
def test_non_contiguous_inputs(view):
    check(35, 20, 17, 3, torch.float32, view=view)


def test_more_blocks_than_programs(monkeypatch):
    monkeypatch.setattr("medgraft.adapters.kernels.packed_lora.triton.MOST_PROGRAMS", 2)
    check(150, 33, 16, 8, torch.float32)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 20),
    st.sampled_from(KINDS),
    st.integers(1, 3),
)
def test_any_shape(M, D, W, R, dtype, P):
    check(M, D, W, R, dtype, P)


@DTYPES
def test_traffic_is_what_the_formula_says(dtype):
    made, starts = layer(70, 40, 33, 4, dtype)
    x, weight, bias, A, B, d_y = made.values()
    with counting() as forward:
        _, hidden = triton_forward(x, weight, bias, A, B, starts, 0.5, FORWARD)
    assert (forward.loaded, forward.stored) == forward_traffic(70, 2, 33, 4, x.itemsize, FORWARD)
    with counting() as backward:
        triton_backward(d_y, x, weight, A, B, hidden, starts, 0.5, False, BACKWARD)
    assert (backward.loaded, backward.stored) == backward_traffic(70, 40, 2, 33, 4, x.itemsize, BACKWARD)
