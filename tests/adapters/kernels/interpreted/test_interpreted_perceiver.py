"""The absorbed attention kernels against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_interpreter import DTYPES, KINDS, assert_close, counting, poisoned, strided, turned

from medgraft.adapters.kernels.perceiver.op import absorbed_attention
from medgraft.adapters.kernels.perceiver.triton import launch_backward, launch_forward, traffic
from medgraft.ops.triton_runtime import Tile

TILE = Tile({"BM": 32, "BN": 32, "BC": 32, "BO": 32})


def inputs(B: int, N: int, Q: int, C: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    x_hat, queries, d_context = (torch.randn(B, n, C, generator=generator).to(dtype) for n in (N, Q, Q))
    mask = torch.rand(B, N, generator=generator) > 0.3
    mask[:, 0] = True
    return x_hat, queries / C**0.5, mask, d_context, torch.randn(B, Q, generator=generator)


def check(B: int, N: int, Q: int, C: int, dtype: torch.dtype, view=lambda x: x, seed: int = 0):
    x_hat, queries, mask, d_context, d_lse = inputs(B, N, Q, C, dtype, seed)
    wide = queries.double().requires_grad_()
    context, lse, _ = absorbed_attention(x_hat.double(), wide, mask)
    exact = torch.autograd.grad((context, lse), wide, (d_context.double(), d_lse.double()))[0]
    with poisoned():
        shown = view(x_hat), view(queries), view(mask)
        got, got_lse, kept = launch_forward(*shown, TILE)
        d_queries = launch_backward(view(d_context), view(d_lse), *shown, got, got_lse, kept, TILE)
    assert_close(got, context.detach(), "context")
    assert_close(got_lse, lse.detach(), "log-sum-exp", dtype=dtype)
    assert_close(d_queries, exact, "gradient of the queries", factor=8)


@DTYPES
def test_forward_and_backward(dtype):
    check(2, 45, 35, 40, dtype)


@pytest.mark.parametrize("view", [strided, turned])
def test_non_contiguous_inputs(view):
    check(2, 33, 20, 18, torch.float32, view=view)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(1, 2),
    st.integers(1, 70),
    st.integers(1, 40),
    st.integers(2, 40),
    st.integers(0, 9),
    st.sampled_from(KINDS),
)
def test_any_shape(B, N, Q, C, seed, dtype):
    check(B, N, Q, C, dtype, seed=seed)


def test_an_empty_mask_gives_zeros():
    x_hat, queries, mask, d_context, d_lse = inputs(2, 20, 16, 16, torch.float32)
    mask[1] = False
    with poisoned():
        context, lse, kept = launch_forward(x_hat, queries, mask, TILE)
        d_queries = launch_backward(d_context, d_lse, x_hat, queries, mask, context, lse, kept, TILE)
    assert (context[1] == 0).all() and (lse[1] < -1e29).all() and (d_queries[1] == 0).all()


@pytest.mark.parametrize("backward", [False, True])
@DTYPES
def test_traffic_is_what_the_formula_says(dtype, backward):
    x_hat, queries, mask, d_context, d_lse = inputs(2, 45, 35, 40, dtype)
    context, lse, kept = launch_forward(x_hat, queries, mask, TILE)
    with counting() as counted:
        if backward:
            launch_backward(d_context, d_lse, x_hat, queries, mask, context, lse, kept, TILE)
        else:
            launch_forward(x_hat, queries, mask, TILE)
    assert (counted.loaded, counted.stored) == traffic(2, 45, 35, 40, x_hat.itemsize, TILE, backward)
