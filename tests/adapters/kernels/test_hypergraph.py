"""The fused hypergraph operation on a CPU against the plain incidence matrix."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from op_checks import check_compiles, check_registration, fake_cuda, reason_on_a_gpu
from torch.func import vmap

from medgraft.adapters.kernels.hypergraph.op import (
    hyperedges,
    hyperedges_backward,
    hypergraph_layer,
)
from medgraft.adapters.kernels.hypergraph.reference import incidence
from medgraft.ops import backends


def graph(B: int, N: int, C: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    make = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((B, N, C), (B, N - 1))]
    return [x.requires_grad_() for x in make]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 3), st.integers(2, 20), st.integers(3, 9), st.integers(1, 25), st.integers(0, 9))
def test_matrix_and_edges_equal_the_reference(B, N, C, top_k, seed):
    tokens, scores = graph(B, N, C, seed)
    edges, matrix = hyperedges(tokens, F.normalize(tokens, dim=-1), scores, top_k)
    expected = incidence(tokens, scores, top_k)
    torch.testing.assert_close(matrix, expected)
    torch.testing.assert_close(edges, expected @ tokens)
    # A random function of both, so that no direction of the gradient is left out.
    torch.manual_seed(seed)
    pull = torch.randn_like(edges), torch.randn_like(matrix)
    got = torch.autograd.grad((edges, matrix), (tokens, scores), pull)
    exact = torch.autograd.grad((expected @ tokens, expected), (tokens, scores), pull)
    for mine, each in zip(got, exact, strict=True):
        torch.testing.assert_close(mine, each, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("all_tokens", [True, False])
@pytest.mark.parametrize("backend", ["fused", "auto"])
def test_the_layer_equals_eager(all_tokens, backend):
    tokens, scores = graph(2, 15, 6)
    edge, node = (torch.nn.Linear(6, 6, dtype=torch.float64) for _ in range(2))
    results = [
        hypergraph_layer(tokens, scores, 4, edge, node, all_tokens=all_tokens, backend=b) for b in ("eager", backend)
    ]
    torch.testing.assert_close(results[1], results[0])
    inputs = [tokens, scores, *edge.parameters(), *node.parameters()]
    exact, got = (torch.autograd.grad(result.square().sum(), inputs) for result in results)
    for mine, each in zip(got, exact, strict=True):
        torch.testing.assert_close(mine, each)


def test_registration():
    tokens, scores = graph(2, 7, 5)
    unit = F.normalize(tokens.detach(), dim=-1).requires_grad_()
    check_registration(hyperedges, (tokens, unit, scores, 3))
    edges, matrix = (x.detach() for x in hyperedges(tokens, unit, scores, 3))
    check_registration(hyperedges_backward, (edges, matrix, tokens.detach(), unit.detach(), matrix))
    assert torch.autograd.gradcheck(lambda *x: hyperedges(*x, 3), (tokens, unit, scores))


def test_compiles_into_one_graph():
    tokens, scores = graph(2, 9, 4)

    def loss(t, s):
        return hypergraph_layer(t, s, 3, torch.tanh, torch.sin, all_tokens=True, backend="fused").square().sum()

    check_compiles(loss, tokens, scores)


def test_vmap_is_one_call():
    tokens, scores = graph(2, 9, 4)
    many = torch.stack([tokens.detach(), 2 * tokens.detach() + 1, -tokens.detach()])
    got = vmap(lambda t: hyperedges(t, F.normalize(t, dim=-1), scores.detach(), 3))(many)
    exact = [hyperedges(t, F.normalize(t, dim=-1), scores.detach(), 3) for t in many]
    for part in range(2):
        torch.testing.assert_close(got[part], torch.stack([each[part] for each in exact]))


def test_fake_cuda_tensors_and_the_widest_graph():
    edges, matrix = fake_cuda(hyperedges, torch.ones(2, 9, 4), torch.ones(2, 9, 4), torch.ones(2, 8), 3)
    assert edges.device.type == matrix.device.type == "cuda" and matrix.shape == (2, 9, 9)
    with backends.recording() as record:
        fake_cuda(
            lambda t, s: hypergraph_layer(t, s, 3, torch.tanh, torch.tanh, all_tokens=True),
            torch.ones(1, 600, 4),
            torch.ones(1, 599),
        )
    (told,) = record.summary()["hypergraph"]
    assert "600 tokens" in told["reason"] and told["form"] == "eager"


@pytest.mark.parametrize(("C", "told"), [(32, ""), (24, "width 24 is not a multiple of 16")])
def test_a_width_that_spills_falls_back_on_a_gpu(C, told):
    layer = partial(hypergraph_layer, top_k=3, edge=torch.tanh, node=torch.tanh, all_tokens=True)
    reason = reason_on_a_gpu("hypergraph", layer, torch.ones(2, 9, C), torch.ones(2, 8))
    assert reason.startswith(told) and bool(reason) is bool(told)


@pytest.mark.parametrize(("B", "N"), [(0, 5), (0, 1), (2, 1)])
@pytest.mark.parametrize("all_tokens", [True, False])
def test_empty_batches_and_graphs_without_patches_equal_eager(B, N, all_tokens):
    tokens, scores = graph(B, N, 4)
    results = [
        hypergraph_layer(tokens, scores, 3, torch.tanh, torch.sin, all_tokens=all_tokens, backend=backend)
        for backend in ("auto", "eager")
    ]
    torch.testing.assert_close(*results)
