"""The hypergraph kernels against float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_interpreter import DTYPES, KINDS, assert_close, counting, poisoned, strided, turned

from medgraft.adapters.kernels.hypergraph.op import hyperedges, triton_backward
from medgraft.adapters.kernels.hypergraph.triton import backward_traffic, forward_traffic, launch_forward
from medgraft.ops.triton_runtime import Tile

TILE = Tile({"BM": 16, "BC": 32})


def graph(B: int, N: int, C: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(B, N, C, generator=generator).to(dtype)
    unit = F.normalize(tokens.double(), dim=-1).to(dtype)
    # Steps of 1/16 are exact in every type, and no two scores tie: of equal ones another than the reference's may win.
    scores = torch.stack([torch.randperm(N - 1, generator=generator) for _ in range(B)]).sub(N // 2).div(16)
    return tokens, unit, scores.to(dtype), generator


def check(B: int, N: int, C: int, top_k: int, dtype: torch.dtype, seed: int = 0, view=lambda x: x):
    tokens, unit, scores, generator = graph(B, N, C, dtype, seed)
    wide = [x.double().requires_grad_() for x in (tokens, unit, scores)]
    edges, matrix = hyperedges(*wide, top_k)
    d_edges, d_matrix = (torch.randn(x.shape, generator=generator).to(dtype) for x in (edges, matrix))
    exact = torch.autograd.grad((edges, matrix), wide, (d_edges.double(), d_matrix.double()))
    with poisoned():
        got_edges, got_matrix = launch_forward(view(tokens), view(unit), view(scores), top_k, TILE)
        pulls = view(d_edges), view(d_matrix)
        got = triton_backward(*pulls, view(tokens), view(unit), view(got_matrix), TILE)
    assert_close(got_matrix, matrix.detach(), "matrix")
    assert_close(got_edges, edges.detach(), "edges")
    for name, mine, expected in zip(("tokens", "unit", "scores"), got, exact, strict=True):
        assert_close(mine, expected, f"gradient of {name}", factor=12)


@DTYPES
def test_forward_and_backward(dtype):
    check(2, 35, 40, 5, dtype)


@pytest.mark.parametrize("view", [strided, turned])
def test_non_contiguous_inputs(view):
    check(2, 19, 24, 3, torch.float32, view=view)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    st.integers(1, 2),
    st.integers(2, 40),
    st.integers(3, 50),
    st.integers(1, 7),
    st.integers(0, 5),
    st.sampled_from(KINDS),
)
def test_any_shape(B, N, C, top_k, seed, dtype):
    check(B, N, C, top_k, dtype, seed)


@DTYPES
def test_traffic_is_what_the_formula_says(dtype):
    tokens, unit, scores, _ = graph(2, 35, 40, dtype)
    with counting() as forward:
        edges, matrix = launch_forward(tokens, unit, scores, 5, TILE)
    assert (forward.loaded, forward.stored) == forward_traffic(2, 35, 40, tokens.itemsize, TILE)
    with counting() as backward:
        triton_backward(edges, matrix, tokens, unit, matrix, TILE)
    assert (backward.loaded, backward.stored) == backward_traffic(2, 35, 40, tokens.itemsize, TILE)
