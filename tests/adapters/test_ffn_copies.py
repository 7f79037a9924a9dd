"""Experts that are copies of a block's MLP: what they compute, where they start, what they store."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_encoders as tiny
import torch
from plain_blocks import EXACT, PlainTower
from torch import nn

from medgraft.adapters.parts.tgh.ffn_copies import FfnCopies, ffn_of
from medgraft.adapters.tgh_moe import TghMoe
from medgraft.errors import IncompatibleError
from medgraft.grafting import Grafted

pytestmark = pytest.mark.usefixtures("seeded")


def copies(count: int = 3) -> tuple[FfnCopies, Any]:
    tower = PlainTower(2)
    ffn = ffn_of(tower, tower, tower.sites()["blocks.0.mlp"])
    return FfnCopies(count, ffn), tower.get_submodule("blocks.0")


def stirred(experts: FfnCopies) -> FfnCopies:
    for p in experts.parameters():
        nn.init.normal_(p, std=0.3)
    return experts


def by_hand(experts: FfnCopies, block: Any, e: int, u: torch.Tensor) -> torch.Tensor:
    """The copy with its changed weights, less the MLP."""
    hidden = torch.nn.functional.gelu(
        u @ (block.fc1.weight.T + experts.down[e]) + block.fc1.bias + experts.down_bias[e]
    )
    return hidden @ (block.fc2.weight.T + experts.up[e]) + block.fc2.bias + experts.up_bias[e] - block.mlp(u)


def test_an_expert_is_the_changed_copy_less_the_mlp():
    experts, block = copies()
    stirred(experts)
    u, gates = torch.randn(2, 5, 12, dtype=torch.float64), torch.rand(2, 5, 3, dtype=torch.float64)
    wanted = sum(gates[..., e : e + 1] * by_hand(experts, block, e, u) for e in range(3))
    torch.testing.assert_close(experts.mixed(u, gates), wanted, **EXACT)
    own = torch.tensor([[2, 0], [1, 1]])
    wanted = torch.stack(
        [sum(gates[r, :, k : k + 1] * by_hand(experts, block, int(own[r, k]), u[r]) for k in range(2)) for r in (0, 1)]
    )
    torch.testing.assert_close(experts.mixed_of(u, own, gates[..., :2]), wanted, **EXACT)


def test_fresh_copies_differ_from_the_mlp_by_exactly_nothing():
    experts, _ = copies()
    u, gates = torch.randn(2, 5, 12, dtype=torch.float64), torch.rand(2, 5, 3, dtype=torch.float64)
    assert not experts.mixed(u, gates).any()
    assert not experts.mixed_of(u, torch.tensor([[2, 0], [1, 1]]), gates[..., :2]).any()


@pytest.mark.parametrize("name", ["chest", "timm", "hf_clip"])
def test_a_fresh_graft_of_copies_changes_nothing_and_stores_no_weight_of_the_encoder(name):
    encoder = tiny.fresh(name)
    tower = encoder.towers()["image"]
    x = torch.randn(2, tower.spec.channels, *tower.spec.input_size)
    with torch.no_grad():
        before = tower(x).tokens
    fresh = TghMoe(TghMoe.Config(expert="ffn_copy"))
    grafted = Grafted(encoder, {"it": fresh}).eval()
    with torch.no_grad():
        assert torch.equal(grafted.encode({"image": x})["image"].tokens, before)
    own = {p.data_ptr() for p in encoder.parameters()}
    state = fresh.state_dict()
    assert not any(".down" in key and value.any() for key, value in state.items())
    assert not {p.data_ptr() for p in fresh.parameters()} & own


def test_an_mlp_of_another_form_is_refused_with_the_remedy():
    tower = PlainTower(2)
    block: Any = tower.get_submodule("blocks.0")
    fc1, fc2 = block.fc1, block.fc2
    block.mlp = lambda u: fc2(torch.sin(fc1(u)))
    with pytest.raises(IncompatibleError, match="use expert: bottleneck"):
        ffn_of(tower, tower, tower.sites()["blocks.0.mlp"])


def test_upcycling_is_for_bottlenecks():
    with pytest.raises(ValueError, match="all experts start from the MLP"):
        TghMoe.Config(expert="ffn_copy", upcycle=True)
