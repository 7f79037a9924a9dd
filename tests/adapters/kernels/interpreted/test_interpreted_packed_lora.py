"""The packed LoRA kernels against float64."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_interpreter import DTYPES, assert_close, counting, poisoned, strided

from medgraft.adapters.kernels.packed_lora import backward_traffic, launch_backward, launch_forward, reference
from medgraft.adapters.kernels.triton_runtime import Tile

FORWARD = Tile({"BM": 32, "BW": 32})
BACKWARD = Tile({"BM": 32, "BK": 32})


def layer(M: int, D: int, W: int, R: int, dtype: torch.dtype, P: int = 2, gap: int = 5):
    generator = torch.Generator().manual_seed(M + D + W + R)
    O = P * W + gap * (P - 1)  # noqa: E741
    shapes = {"x": (M, D), "weight": (O, D), "bias": (O,), "A": (P, R, D), "B": (P, W, R), "d_y": (M, O)}
    made = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return made, [p * (W + gap) for p in range(P)]


def check(M: int, D: int, W: int, R: int, dtype: torch.dtype, view=lambda x: x):
    made, starts = layer(M, D, W, R, dtype)
    x, weight, bias, A, B, d_y = made.values()
    wide = [t.double().requires_grad_() for t in (x, A, B)]
    y = reference(wide[0], weight.double(), bias.double(), wide[1], wide[2], starts, 0.5)
    exact = torch.autograd.grad(y, wide, d_y.double())
    with poisoned():
        got_y, hidden = launch_forward(view(x), weight, bias, A, B, starts, 0.5, FORWARD)
        got = launch_backward(view(d_y), view(x), weight, A, B, hidden, starts, 0.5, True, BACKWARD)
    assert_close(got_y, y.detach(), "y")
    for name, mine, expected in zip(("x", "A", "B"), got, exact, strict=True):
        assert_close(mine, expected, f"gradient of {name}")


@DTYPES
def test_forward_and_backward(dtype):
    check(70, 40, 33, 4, dtype)


def test_strided_inputs():
    check(35, 20, 17, 3, torch.float32, view=strided)


def test_more_blocks_than_programs(monkeypatch):
    monkeypatch.setattr("medgraft.adapters.kernels.packed_lora.MOST_PROGRAMS", 2)
    check(150, 33, 16, 8, torch.float32)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(1, 70), st.integers(1, 40), st.integers(1, 40), st.integers(1, 20))
def test_any_shape(M, D, W, R):
    check(M, D, W, R, torch.float32)


@DTYPES
def test_traffic_is_what_the_formula_says(dtype):
    made, starts = layer(70, 40, 33, 4, dtype)
    x, weight, bias, A, B, d_y = made.values()
    _, hidden = launch_forward(x, weight, bias, A, B, starts, 0.5, FORWARD)
    with counting() as traffic:
        launch_backward(d_y, x, weight, A, B, hidden, starts, 0.5, False, BACKWARD)
    assert (traffic.loaded, traffic.stored) == backward_traffic(70, 40, 2, 33, 4, x.itemsize, BACKWARD)
