"""Gates, loads and losses of routers: what is 1 where experts are treated alike, and the bounds at collapse."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medgraft.adapters.parts.routing import balance_loss, entropy, evenness, expert_load, top_k_gates, z_loss

EXACT = {"rtol": 1e-12, "atol": 1e-12}
sizes = st.integers(2, 8).flatmap(lambda experts: st.tuples(st.just(experts), st.integers(1, experts)))


@settings(deadline=None, max_examples=50)
@given(sizes=sizes, tokens=st.integers(1, 20), seed=st.integers(0, 1000))
def test_gates_are_the_largest_probabilities_renormalised(sizes, tokens, seed):
    experts, k = sizes
    probs = torch.softmax(torch.randn(tokens, experts, generator=torch.Generator().manual_seed(seed)).double(), dim=-1)
    gates, picked = top_k_gates(probs, k)
    for row in range(tokens):
        largest = sorted(range(experts), key=lambda e: -float(probs[row, e]))[:k]
        wanted = torch.zeros(experts, dtype=torch.float64)
        wanted[largest] = probs[row, largest] / probs[row, largest].sum()
        torch.testing.assert_close(gates[row], wanted, **EXACT)
        assert picked[row].nonzero().flatten().tolist() == sorted(largest)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_a_router_without_a_preference_is_dense(k):
    gates, picked = top_k_gates(torch.full((3, 4), 0.25), k)
    assert picked.all() and gates.eq(0.25).all()


@pytest.mark.parametrize(("experts", "k"), [(4, 1), (4, 2), (8, 2)])
def test_the_balance_loss_is_1_at_uniform_and_reaches_its_bound_at_collapse(experts, k):
    uniform = torch.full((16, experts), 1 / experts, dtype=torch.float64)
    load = expert_load(top_k_gates(uniform, k)[1])
    assert float(balance_loss(uniform, load)) == pytest.approx(1.0)
    collapsed = torch.zeros(16, experts, dtype=torch.float64)
    collapsed[:, :k] = 1 / k
    load = expert_load(collapsed > 0)
    assert float(balance_loss(collapsed, load)) == pytest.approx(experts / k)


@settings(deadline=None, max_examples=50)
@given(sizes=sizes, seed=st.integers(0, 1000))
def test_the_balance_loss_stays_below_its_bound(sizes, seed):
    experts, k = sizes
    probs = torch.softmax(5 * torch.randn(12, experts, generator=torch.Generator().manual_seed(seed)).double(), dim=-1)
    load = expert_load(top_k_gates(probs, k)[1])
    assert float(load.sum()) == pytest.approx(1.0) and float(load.max()) <= 1 / k + 1e-6
    assert float(balance_loss(probs, load)) <= experts / k + 1e-6


def test_the_balance_loss_pushes_towards_the_idle_expert():
    logits = torch.tensor([[2.0, 0.0, 0.0]]).repeat(8, 1).requires_grad_()
    probs = torch.softmax(logits, dim=-1)
    balance_loss(probs, expert_load(top_k_gates(probs, 1)[1])).backward()
    assert logits.grad is not None and logits.grad[0, 0] > 0 > logits.grad[0, 1]


def test_the_z_loss_is_1_without_logits_and_that_of_the_formula_with_them():
    assert float(z_loss(torch.zeros(5, 4))) == pytest.approx(1.0)
    logits = torch.randn(6, 4, dtype=torch.float64)
    wanted = (logits.exp().sum(dim=-1).log() ** 2).mean() / math.log(4) ** 2
    torch.testing.assert_close(z_loss(logits), wanted, **EXACT)


def test_entropy_and_evenness_run_from_0_to_1():
    assert float(entropy(torch.tensor([1.0, 0.0, 0.0]))) == 0.0
    assert float(entropy(torch.full((5,), 0.2))) == pytest.approx(1.0)
    assert evenness(torch.tensor([0.5, 0.5, 0.0, 0.0]), 2) == pytest.approx(0.0, abs=1e-6)
    assert evenness(torch.full((4,), 0.25), 2) == pytest.approx(1.0)
