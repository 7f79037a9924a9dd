"""The graph layers of the ablation against dense formulas of their papers, and the neighbours they share."""

from __future__ import annotations

import pytest
import tiny_encoders as tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from medgraft.adapters.kernels.hypergraph.reference import incidence
from medgraft.adapters.parts.ace_graphs import NeighbourGraph
from medgraft.grafting import graft

pytestmark = pytest.mark.usefixtures("seeded")
KINDS = ("gat", "gatv2", "hypergraph_conv")
# float64, sums over at most twelve tokens.
EXACT = {"rtol": 1e-9, "atol": 1e-9}


def make(kind: str, batch: int = 2, n: int = 9, dim: int = 6) -> tuple[NeighbourGraph, Tensor, Tensor]:
    layer = NeighbourGraph(kind, dim, hidden_dim=4, top_k=3).double()
    return layer, torch.randn(batch, n, dim, dtype=torch.float64), torch.randn(batch, n - 1, dtype=torch.float64)


def dense(kind: str, conv, x: Tensor, member: Tensor) -> Tensor:
    """One layer on one sample; ``member[i, j]``: token ``j`` is in the neighbourhood (hyperedge) of token ``i``."""
    if kind == "hypergraph_conv":
        # X' = D^-1 H B^-1 H^T X W; D counts a node's hyperedges, B a hyperedge's nodes.
        H = member.T.double()
        return (H / H.sum(1, keepdim=True)) @ ((H / H.sum(0)).T @ conv.lin(x)) + conv.bias
    if kind == "gat":
        h = conv.lin(x)
        logits = F.leaky_relu((h @ conv.att_dst[0, 0])[:, None] + (h @ conv.att_src[0, 0])[None], 0.2)
        sent = h
    else:
        sent = conv.lin_l(x)
        logits = F.leaky_relu(conv.lin_r(x)[:, None] + sent[None], 0.2) @ conv.att[0, 0]
    return torch.softmax(logits.masked_fill(~member, float("-inf")), dim=1) @ sent + conv.bias


@pytest.mark.parametrize("kind", KINDS)
def test_the_layers_are_those_of_the_papers_on_the_neighbours_of_the_hypergraph(kind):
    layer, tokens, scores = make(kind)
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    members = incidence(tokens, scores, 3) > 0
    wanted = []
    for x, member in zip(tokens, members, strict=True):
        hidden = F.leaky_relu(dense(kind, layer.down, x, member), 0.2)
        wanted.append(dense(kind, layer.up, hidden, member))
    torch.testing.assert_close(layer(tokens, scores, return_tokens=True), torch.stack(wanted), **EXACT)
    torch.testing.assert_close(layer(tokens, scores), torch.stack(wanted)[:, 0], **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_samples_of_a_batch_do_not_mix(kind):
    layer, tokens, scores = make(kind, batch=3)
    alone = torch.cat([layer(tokens[i : i + 1], scores[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(layer(tokens, scores), alone, **EXACT)


def test_neighbours_are_themselves_the_most_similar_and_cls_where_it_attends():
    layer, tokens, scores = make("gat", batch=1)
    sender, receiver = layer.neighbours(tokens, scores)
    found = [set(sender[receiver == i].tolist()) for i in range(9)]
    chosen = set((scores[0].topk(3).indices + 1).tolist())
    assert found[0] == {0} | chosen
    unit = F.normalize(tokens[0], dim=-1)
    similar = unit @ unit.T
    similar[:, 0] = similar.diagonal()[:] * 0 - 2
    similar.fill_diagonal_(-2)
    for i in range(1, 9):
        nearest = set(similar[i].topk(3).indices.tolist())
        assert found[i] == {i} | nearest | ({0} if i in chosen else set())


def test_masked_scores_make_no_neighbours():
    layer, tokens, scores = make("gatv2", batch=1)
    scores[0, 2:] = float("-inf")
    sender, receiver = layer.neighbours(tokens, scores)
    assert set(sender[receiver == 0].tolist()) == {0, 1, 2}


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_with_another_graph_trains_every_parameter(kind):
    encoder = tiny.fresh("chest")
    grafted = graft(encoder, "ace_hgnn", graph=kind, hidden_dim=8).train()
    for features in grafted.encode(tiny.batch(encoder)).values():
        weights = torch.linspace(-1, 2, features.embedding.shape[-1])
        torch.testing.assert_close(features.embedding.norm(dim=1), torch.ones(len(features.embedding)))
        (features.embedding * weights).sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in grafted.trainable_parameters())
